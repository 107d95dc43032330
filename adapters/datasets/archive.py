"""What an image archive gives out: a table in CSV that says whose image is which, and a folder of NIfTI files."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

# As in the table that comes with a collection, and as in that of a search.
COLUMNS = {
    "image": ("Image Data ID", "Image ID"),
    "subject": ("Subject", "Subject ID"),
    "group": ("Group", "Research Group"),
}


class Problem(NamedTuple):
    """Something wrong with one scan, which was left out, or kept in the way the reason states.

    Attributes
    ----------
    path : path
        The file; the table, where there is none.
    subject : str
        Whose scan it is; "?" where nothing says so.
    reason : str
        What is wrong.
    kept : bool
        Whether the scan is used nevertheless.
    """

    path: Path
    subject: str
    reason: str
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.path} (subject {self.subject}): {self.reason}"


class Scan(NamedTuple):
    """One image of the archive.

    Attributes
    ----------
    image : str
        Its identifier in the archive.
    subject : str
        Whose it is.
    group : str
        The group of the subject.
    path : path
        The file.
    columns : mapping from str to str
        The whole row of the table: age, visit, scanner, whatever it has.
    """

    image: str
    subject: str
    group: str
    path: Path
    columns: Mapping[str, str]


def find_scans(folder: Path, table: Path, pattern: str = "*") -> tuple[list[Scan], list[Problem]]:
    """The rows of a table with their files, and the rows and files that do not find each other.

    A file belongs to an image if its name is the identifier, or ends in an underscore and the identifier, or if it
    lies in a folder called so; with or without the I that the archive writes before numbers.

    Parameters
    ----------
    folder : path
        What is searched, with all folders in it.
    table : path
        The CSV.
    pattern : str
        Files whose names do not match are passed over, such as ``*_FA*``.

    Returns
    -------
    scans : list of Scan
        In the order of the table.
    problems : list of Problem
        What was left out.

    Raises
    ------
    FileNotFoundError
        If the folder or the table is missing.
    ValueError
        If the table is no CSV with the columns Image Data ID, Subject and Group, or has no rows.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing; expected the NIfTI files of the archive")
    files = _Files(folder, pattern)
    scans: dict[str, Scan] = {}
    problems: list[Problem] = []
    named: set[Path] = set()
    for line, row in _rows(table):
        image, subject, group = (_cell(row, names) for names in COLUMNS.values())
        found = files.of(image)
        path = found[0] if found else table
        reason = ""
        if not image:
            reason = f"row {line} has no Image Data ID"
        elif _key(image) in scans:
            reason = f"row {line}: image {image} is in the table already"
        elif not found:
            reason = f"row {line}: the file of image {image} is missing in {folder}"
        elif len(found) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in found[:3])
            reason = f"row {line}: image {image} may be {names}; choose by pattern"
        elif path in named:
            reason = f"row {line}: the file of image {image} is that of another image"
        elif not subject:
            reason = f"row {line}: image {image} has no subject, without which splits cannot keep subjects apart"
        elif not group:
            reason = f"row {line}: the subject has no group, so that the image has no label"
        else:
            scans[_key(image)] = Scan(image, subject, group, path, row)
        if reason:
            problems.append(Problem(path, subject or "?", reason))
        named.update(found)
    problems += [Problem(path, "?", "no row of the table names this file") for path in files.all if path not in named]
    return list(scans.values()), problems


class _Files:
    """NIfTI files by what they may be called after."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self.all: list[Path] = []
        # By name, by the end of the name, by folder: what comes first decides.
        self._by: tuple[dict[str, list[Path]], ...] = ({}, {}, {})
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith((".nii", ".nii.gz")) and fnmatch(name, pattern):
                    path, stem = Path(root, name), re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
                    self.all.append(path)
                    for by, key in zip(self._by, (stem, stem.rpartition("_")[2], path.parent.name), strict=True):
                        by.setdefault(_key(key), []).append(path)

    def of(self, image: str) -> list[Path]:
        return next((by[_key(image)] for by in self._by if _key(image) in by), []) if image else []


def _key(identifier: str) -> str:
    return re.sub(r"^I(?=\d+$)", "", identifier)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows, each with its line and its cells by column."""
    if not path.is_file():
        raise FileNotFoundError(f"the table {path} is missing; expected the CSV of the archive")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            lacking = [known[0] for known in COLUMNS.values() if not set(known) & set(names)]
            if lacking:
                found = ", ".join(names)[:200] or "nothing"
                raise ValueError(f"expected the column {', '.join(lacking)}, found {found}")
            rows = [
                (reader.line_num, {name: cell.strip() for name, cell in zip(names, cells, strict=False)})
                for cells in reader
                if any(map(str.strip, cells))
            ]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: not a table of the archive: {error}") from error
    if not rows:
        raise ValueError(f"{path}: the table has no rows")
    return rows


def _cell(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The cell of the first of these columns; empty where the row ends before it."""
    return next((row[name] for name in names if name in row), "")
