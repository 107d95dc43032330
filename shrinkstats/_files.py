"""Arrays from .npy, .npz and .csv files, which are not trusted, and results written whole or not at all."""

from __future__ import annotations

import csv
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class UsageError(ValueError):
    """The request is at fault, not the data."""


def read(path: Path, key: str | None = None) -> tuple[np.ndarray[Any, Any], list[str] | None]:
    """The array in a file, and the names of its columns where a .csv has a header."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise UsageError(f"{path}: expected a file ending in .npy, .npz or .csv")
    if key is not None and suffix != ".npz":
        raise UsageError(f"--key names an array in a .npz file; {path} is not one")
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if suffix == ".csv":
        return _read_csv(path)
    return (_read_npy(path) if suffix == ".npy" else _read_npz(path, key)), None


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever a parser raises on a malformed file, as one ValueError; the list of its exceptions is open."""
    try:
        yield
    except (UsageError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not an array of numbers: {reason}") from error


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    # Mapped, not loaded: a header that promises terabytes then fails instead of allocating them.
    # Not np.load, which takes whatever lacks the magic string for a pickle and suggests to allow that.
    with _damage(path):
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))


def _read_npz(path: Path, key: str | None) -> np.ndarray[Any, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: damaged, or not an archive of arrays: it does not read as a zip file")
    with _damage(path), np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if not names:
            raise ValueError("it holds no arrays")
        if key is None and len(names) > 1:
            raise UsageError(f"{path} holds several arrays: choose one by --key {'|'.join(names)}")
        if key is not None and key not in names:
            raise UsageError(f"{path} holds no array {key!r}; there is {', '.join(names)}")
        return np.asarray(archive[names[0] if key is None else key])


def _read_csv(path: Path) -> tuple[np.ndarray[Any, Any], list[str] | None]:
    """Rows are observations, columns channels; a first row of text names them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            return _table(path, ((reader.line_num, cells) for cells in reader if any(map(str.strip, cells))))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from error


def _delimiter(lines: Iterator[str]) -> str:
    """Tab, else semicolon, else comma, as found outside quotes in the first line that is not blank."""
    first = next((line for line in lines if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t;" if mark in bare.strip(" \r\n")), ",")


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> tuple[np.ndarray[Any, Any], list[str] | None]:
    names: list[str] | None = None
    values: list[list[float]] = []
    width = 0
    for line, cells in rows:
        if not width:
            width = len(cells)
            if not any(map(_is_number, cells)):
                names = [cell.strip() for cell in cells]
                continue
        if len(cells) != width:
            raise ValueError(f"{path}, row {line}: {len(cells)} columns, expected {width} as in the first row")
        values.append([_number(path, line, column, cell, names) for column, cell in enumerate(cells)])
    if not values:
        raise ValueError(f"{path}: no rows of numbers{'' if names is None else ' below the header'}")
    return np.array(values), names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number; a table means a name by it


def _number(path: Path, line: int, column: int, cell: str, names: list[str] | None) -> float:
    """The value of a cell; an empty one is a missing value."""
    if _is_number(cell):
        return float(cell)
    if not cell.strip():
        return float("nan")
    name = f" ({names[column]})" if names and names[column] else ""
    hint = "; decimals take a point" if re.fullmatch(r"\s*[-+]?\d*,\d+\s*", cell) else ""
    shown = cell if len(cell) <= 40 else cell[:40] + "..."
    raise ValueError(f"{path}, row {line}, column {column + 1}{name}: expected a number, got {shown!r}{hint}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write under, renamed to `path` once everything is written."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
