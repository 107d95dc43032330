"""Arrays from .npy, .npz and .csv files, which are not trusted, and results written whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUM = "checksum"
LONGEST_SUFFIX = 32  # bytes; what is longer is no format that a writer would know


class UsageError(ValueError):
    """The request is at fault, not the data."""


class Table(NamedTuple):
    """An array, and what a .csv calls its columns and its rows.

    `rows` are what stands in a first column of names, which is not among the values; `title` is its header.
    """

    values: np.ndarray[Any, Any]
    columns: list[str] | None = None
    rows: list[str] | None = None
    title: str = ""


def read(path: Path, key: str | None = None) -> Table:
    """The array in a file."""
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
    return Table(_read_npy(path) if suffix == ".npy" else _read_npz(path, key))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever a parser raises on a malformed file, as one ValueError; the list of its exceptions is open."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # not of a parser gone astray
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not an array of numbers: {reason}") from error


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    # Mapped, not loaded: a header that promises terabytes then fails instead of allocating them.
    # Not np.load, which takes whatever lacks the magic string for a pickle and suggests to allow that.
    with _damage(path):
        mapped = np.lib.format.open_memmap(path, mode="r")
        more = path.stat().st_size - mapped.offset - mapped.nbytes
        if more:
            raise ValueError(f"it is {more} bytes longer than its header says")
        return np.asarray(mapped)


def _read_npz(path: Path, key: str | None) -> np.ndarray[Any, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: damaged, or not an archive of arrays: it does not read as a zip file")
    with _damage(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not names:
            raise ValueError("it holds no arrays")
        if key is None and len(names) > 1:
            raise UsageError(f"{path} holds several arrays: choose one by --key {'|'.join(names)}")
        if key is not None and key not in names:
            raise UsageError(f"{path} holds no array {key!r}; there is {', '.join(names)}")
        with archive.open(archive.namelist()[0 if key is None else names.index(key)]) as member:
            found = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # its sum is compared with the archive's at the end, and not before
                raise ValueError("it is longer than its header says")
        return np.asarray(found)


def check_sums(path: Path) -> None:
    """Compare the content of a zip file with its checksums, for readers that do not; other files have none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {name} does not fit")


def _read_csv(path: Path) -> Table:
    """Rows are observations, columns channels; a first row of text names them, a first column of it the rows."""
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


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Table:
    names: list[str] | None = None
    values: list[list[float]] = []
    labels: list[tuple[int, str]] = []  # the first cell of every row
    width = 0
    for line, cells in rows:
        if not width:
            width = len(cells)
            if not any(map(_is_number, cells)):
                names = [cell.strip() for cell in cells]
                continue
        if len(cells) != width:
            raise ValueError(f"{path}, row {line}: {len(cells)} columns, expected {width} as in the first row")
        labels.append((line, cells[0]))
        values.append([_number(path, line, column, cell, names) for column, cell in enumerate(cells[1:], 1)])
    if not labels:
        raise ValueError(f"{path}: no rows of numbers{'' if names is None else ' below the header'}")
    cells = [cell.strip() for _, cell in labels]
    if width > 1 and _are_names(None if names is None else names[0], cells):
        return Table(np.array(values), names and names[1:], cells, names[0] if names else "")
    first = [_number(path, line, 0, cell, names) for line, cell in labels]
    return Table(np.column_stack([first, np.array(values)]), names)


def _are_names(header: str | None, cells: list[str]) -> bool:
    """Whether the first column holds names of rows: words, or the numbers that pandas writes under no header."""
    if not any(map(_is_number, cells)) and any(cells):
        return True
    if header in ("", "Unnamed: 0"):
        return True
    counted = [[str(i) for i in range(first, first + len(cells))] for first in (0, 1)]
    return header is not None and header.lower() in ("index", "id", "row") and cells in counted


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


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a JSON file, and a number by which `verified` sees that none of it has changed."""
    return {**content, SUM: _sum(content)}


def verified(content: dict[str, Any]) -> bool:
    """Take that number away again: whether there was one, as older files have none; ValueError if it does not fit."""
    if SUM not in content:
        return False
    if content.pop(SUM) != _sum(content):
        raise ValueError("it was damaged or changed after it was written: its checksum does not fit")
    return True


def _sum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name to write under, renamed to `path` once everything is written and on disk.

    The name is nobody else's, and ends as `path` does. A link stays one, and what it points to is replaced; a file that
    exists keeps its permissions. A pipe or a device gets the bytes once all are there.
    """
    path = Path(path)
    try:
        before = path.stat()  # of what a link points to
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        target = Path(os.path.realpath(path)) if stat.S_ISREG(before.st_mode) else None
    except FileNotFoundError:
        before, target = None, Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if target is None else target.parent
    ending = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
    temporary = folder / f".{secrets.token_hex(8)}{ending}"
    mode = _mode_of_new(temporary, path)
    try:
        yield temporary
        if target is None:
            with temporary.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        temporary.chmod(stat.S_IRUSR | stat.S_IWUSR)
        _onto_disk(temporary)
        if before is not None:
            mode = stat.S_IMODE(before.st_mode)
            if os.name == "posix":
                with suppress(OSError):  # another's file, in a folder that is ours
                    os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(mode)
        os.replace(temporary, target)
        if os.name == "posix":
            with suppress(OSError):  # some file systems know no such thing
                _onto_disk(folder)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _mode_of_new(temporary: Path, path: Path) -> int:
    """The permissions that a new file gets there; an error names the path that was asked for."""
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    mode = stat.S_IMODE(temporary.stat().st_mode)
    temporary.unlink()  # so that a writer that wrote elsewhere is noticed
    return mode


def _onto_disk(path: Path) -> None:
    """Wait until a file, or a folder's names, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
