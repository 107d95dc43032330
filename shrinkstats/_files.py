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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUM = "checksum"
LONGEST_SUFFIX = 32  # bytes; what is longer is no format that a writer would know
UNNAMED = re.compile(r"|Unnamed: \d+|level_\d+")  # what pandas writes over an index without a name
COUNTERS = ("index", "id", "row")
NO_WORDS = ("", "na", "n/a", "null", "none")  # of missing values, which name nothing

COMMAS = re.compile(r"[-+]?[\d.]*,[\d.,]*\d(e[-+]?\d+)?", re.IGNORECASE)  # of decimals or of thousands
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
LIMIT = re.compile(r"[<>≤≥]=?\s*[-+]?[\d.,]*\d(e[-+]?\d+)?", re.IGNORECASE)  # of detection, as laboratories write


class UsageError(ValueError):
    """The request is at fault, not the data."""


class Table(NamedTuple):
    """An array, and what a .csv calls its columns and its rows.

    `rows` are what stands in the first columns where these hold names, which are not among the values; `notes` say what
    was taken for names, and what may be names but was taken for numbers.
    """

    values: np.ndarray[Any, Any]
    columns: list[str] | None = None
    rows: list[str] | None = None
    notes: tuple[str, ...] = ()


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
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"it holds two arrays called {twice[0]}")
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
    """Rows are observations, columns channels; a first row may name the columns, and the first columns the rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file)
            file.seek(0)
            # A blank line is none. One of empty cells is a row of missing values; pandas writes a single one as "".
            lines = (line if line.strip(" \r\n") else "\n" for line in file)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            return _table(path, [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from error


def _delimiter(lines: Iterator[str]) -> str:
    """Tab, else semicolon, else comma, as found outside quotes in the first line that is not blank."""
    first = next((line for line in lines if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t;" if mark in bare.strip(" \r\n")), ",")


def _table(path: Path, rows: list[tuple[int, list[str]]]) -> Table:
    if not rows:
        raise ValueError(f"{path}: no rows of numbers")
    line, first = rows[0]
    if not any(first):
        raise ValueError(f"{path}, row {line}: no cell is filled in; expected names of columns, or numbers")
    for line, cells in rows:
        if len(cells) != len(first):
            raise ValueError(f"{path}, row {line}: {len(cells)} columns, expected {len(first)} as in the first row")
    names = first if _is_header(first, [cells for _, cells in rows[1:]]) else None
    body = rows if names is None else rows[1:]
    if not body:
        raise ValueError(f"{path}: no rows of numbers below the header")
    start = 0  # of the values; before them stand names of rows
    while start + 1 < len(first) and _names_rows(
        None if names is None else names[start], [cells[start] for _, cells in body]
    ):
        start += 1
    if start and not first[0] and not body[0][1][0] and any(cells[0] for _, cells in body):
        raise ValueError(f"{path}, row {body[0][0]}: a second row of names, or a row without its own; keep one header")
    values = np.empty((len(body), len(first) - start))
    for row, (line, cells) in zip(values, body, strict=True):
        row[:] = [_number(path, line, start + i, cell, names) for i, cell in enumerate(cells[start:])]
    labels = ["/".join(cells[:start]) for _, cells in body] if start else None
    return Table(values, names and names[start:], labels, tuple(_notes(first, names, body, start)))


def _is_header(first: list[str], below: list[list[str]]) -> bool:
    """Whether the first row names the columns: words, or the numbers that pandas writes for columns without names."""
    filled = [cell for cell in first if cell]
    if 2 * sum(map(_is_number, filled)) < len(filled):
        return True
    start = next(i for i, cell in enumerate(first) if _is_number(cell))
    if start and all(UNNAMED.fullmatch(title) or title.lower() in COUNTERS for title in first[:start]):
        return True
    names = first[start:]
    if len(names) < 2 or names != [str(i) for i in range(len(names))]:
        return False
    # 0, 1, ... may be data nevertheless: where a value comes again below, or a row or a column goes on from it.
    if not below or any(cell == name for cells in below for name, cell in zip(names, cells[start:], strict=True)):
        return False
    rows = [[float(cell) if _is_number(cell) else np.nan for cell in cells[start:]] for cells in (first, *below)]
    with np.errstate(invalid="ignore"):
        steps = np.diff(rows, axis=0)
        return not (_equal(steps[0]) or (len(steps) > 1 and any(map(_equal, steps.T))))


def _equal(steps: np.ndarray[Any, Any]) -> bool:
    size = np.abs(steps).max()
    return bool(size > 0 and np.ptp(steps) <= 1e-6 * size)


def _names_rows(title: str | None, cells: list[str]) -> bool:
    """Whether a column names the rows: most of it words, or numbers below a title by which they do."""
    if title is not None and UNNAMED.fullmatch(title):
        return True
    filled = [cell for cell in cells if cell.lower() not in NO_WORDS]
    numbers = sum(map(_is_number, filled))
    # What is meant for a number is none, but no name either, and an error later. Limits alone may name groups.
    meant = sum(bool(COMMAS.fullmatch(cell) or (numbers and LIMIT.fullmatch(cell))) for cell in filled)
    if 2 * (numbers + meant) < len(filled):
        return True
    counts = title is not None and title.lower() in COUNTERS and bool(filled)
    return counts and all(_is_number(cell) and float(cell).is_integer() for cell in filled)


def _notes(first: list[str], names: list[str] | None, body: list[tuple[int, list[str]]], start: int) -> Iterator[str]:
    """What a reader of the file may see otherwise."""
    if names is None:
        yield (
            f"the first row ({_some(first)}) is taken for numbers, not for names of columns; "
            "should it name them, add letters."
        )
    elif any(map(_is_number, names)):
        shown = _some([name for name in names if name])
        yield f"the first row ({shown}) names the columns; it is not among the observations."
    if start:
        called = f" ({_some(names[:start])})" if names and any(names[:start]) else ""
        yield (
            f"the first column{called} names the rows; it is not among the channels."
            if start == 1
            else f"the first {start} columns{called} name the rows; they are not among the channels."
        )
    titles = Counter((names or [])[start:])
    if twice := [name for name, count in titles.items() if name and count > 1]:
        yield f"several columns have one name ({_some(twice)}); should there be a second row of names, delete one."
    whole = start
    while whole < len(first) and all(re.fullmatch(r"[-+]?\d+", cells[whole]) for _, cells in body):
        whole += 1
    if start < whole < len(first):  # not the whole table
        called = f" ({first[start]})" if names else ""
        yield (
            f"column {start + 1}{called} holds whole numbers only, and is taken for numbers, not for names of rows; "
            "should it name them, call it id."
        )
    if empty := [str(line) for line, cells in body if not any(cells[start:])]:
        plural = len(empty) > 1
        yield f"row{'s' * plural} {_some(empty)} without a number count{'s' * (not plural)} as missing values."


def _some(cells: list[str]) -> str:
    """The first few of a list, each cut where it is long."""
    return ", ".join([*map(_short, cells[:5]), *["..."] * (len(cells) > 5)])


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else cell[:40] + "..."


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
    name = f" ({_short(names[column])})" if names and names[column] else ""
    raise ValueError(
        f"{path}, row {line}, column {column + 1}{name}: expected a number, got {_short(cell)!r}{_hint(_short(cell))}"
    )


def _hint(cell: str) -> str:
    """What to write instead of something that was meant for a number."""
    if THOUSANDS.fullmatch(cell):
        bare = f"; thousands take no comma ({cell.replace(',', '')})"
        return bare if cell.count(",") > 1 or "." in cell else f"{bare}, decimals a point ({cell.replace(',', '.')})"
    if COMMAS.fullmatch(cell):
        return "; decimals take a point"
    return "; a limit is no number: write one, or leave the cell empty" if LIMIT.fullmatch(cell) else ""


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
