"""Numbers from .csv files: which row names the columns, which columns name the rows, and what may be either."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

UNNAMED = re.compile(r"|Unnamed: \d+|level_\d+")  # what pandas writes over an index without a name
COUNTERS = ("index", "id", "row")
NO_WORDS = ("", "na", "n/a", "null", "none")  # of missing values, which name nothing


class Table(NamedTuple):
    """An array, and what a .csv calls its columns and its rows.

    `rows` are what stands in the first columns where these hold names, which are not among the values; `notes` say what
    was taken for names, and what may be names but was taken for numbers.
    """

    values: NDArray[Any]
    columns: list[str] | None = None
    rows: list[str] | None = None
    notes: tuple[str, ...] = ()


COMMAS = re.compile(r"[-+]?[\d.]*,[\d.,]*\d(e[-+]?\d+)?", re.IGNORECASE)  # of decimals or of thousands
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
LIMIT = re.compile(r"[<>≤≥]=?\s*[-+]?[\d.,]*\d(e[-+]?\d+)?", re.IGNORECASE)  # of detection, as laboratories write


def read(path: Path) -> Table:
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


def _equal(steps: NDArray[Any]) -> bool:
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
