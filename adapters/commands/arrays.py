"""Arrays from .npy, .npz and .csv files, which are not trusted."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import damage, read_npy
from shrinkstats.adapters.commands import csv_tables
from shrinkstats.adapters.commands.csv_tables import Table
from shrinkstats.adapters.commands.errors import UsageError


def read(path: Path, key: str | None = None) -> Table:
    """The array in a file.

    Raises
    ------
    UsageError
        If there is no such file, or no such array in it.
    ValueError
        If the file is damaged, or holds no numbers.
    """
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
        return csv_tables.read(path)
    return Table(read_npy(path) if suffix == ".npy" else _read_npz(path, key))


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: damaged, or not an archive of arrays: it does not read as a zip file")
    with damage(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        names = [name.removesuffix(".npy") for name in members]
        if not names:
            raise ValueError("it holds no arrays")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"it holds two arrays called {twice[0]}")
    if key is None and len(names) > 1:
        raise UsageError(f"{path} holds several arrays: choose one by --key {'|'.join(names)}")
    if key is not None and key not in names:
        raise UsageError(f"{path} holds no array {key!r}; there is {', '.join(names)}")
    with (
        damage(path),
        zipfile.ZipFile(path) as archive,
        archive.open(members[0 if key is None else names.index(key)]) as member,
    ):
        found = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # its sum is compared with the archive's at the end, and not before
            raise ValueError("it is longer than its header says")
        return np.asarray(found)
