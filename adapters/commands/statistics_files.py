"""Statistics as a command line gives them: two numbers, or a table in a file, which is not trusted."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.commands.arrays import read
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.values import Statistics

Vector = NDArray[np.float64]

FILES = (".csv", ".json", ".npz")
COLUMNS = (("sample_mean", "sample_variance"), ("mean", "var"))


def statistics(option: str, text: str) -> tuple[list[str] | None, Statistics]:
    """The names of the channels, if known, and their statistics: from a file, or from two numbers."""
    path = Path(text)
    if path.suffix.lower() not in FILES:
        numbers = re.split(r"\s*,\s*", text.strip())
        try:
            mean, var = (np.array([float(v)]) for v in numbers)
        except ValueError as error:
            raise UsageError(
                f"{option} must be MEAN,VARIANCE or a file ending in {', '.join(FILES)}, got {text!r}"
            ) from error
        names = None
    else:
        if not path.is_file():
            raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        names, mean, var = _read(path)
    for name, values in (("mean", mean), ("variance", var)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{text}: a {name} is missing or infinite; leave that channel out")
    if np.any(var < 0):
        raise ValueError(f"{text}: a variance must not be negative, got {var.min():g}")
    return names, Statistics(mean, var)


def _read(path: Path) -> tuple[list[str], Vector, Vector]:
    """Columns of a table of statistics, as `shrinkstats estimate --output` writes it."""
    suffix = path.suffix.lower()
    table: Any
    try:
        if suffix == ".npz":
            table = _Archive(path)
        elif suffix == ".json":
            table = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                header, rows = reader.fieldnames or (), list(reader)
            if surplus := next((i for i, row in enumerate(rows, 2) if None in row), None):
                raise ValueError(f"row {surplus} has more columns than the header")
            table = _each_once([(name, [row[name] for row in rows]) for name in header])
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a table of statistics: {error}") from error
    if not isinstance(table, dict | _Archive):
        raise ValueError(f"{path}: not a table of statistics")
    for mean_name, var_name in COLUMNS:
        if mean_name in table and var_name in table:
            break
    else:
        wanted = " or ".join(" and ".join(pair) for pair in COLUMNS)
        raise ValueError(f"{path}: holds no {wanted}; `shrinkstats estimate --output` writes such a table")
    mean, var = (_vector(path, name, table[name]) for name in (mean_name, var_name))
    if mean.shape != var.shape:
        raise ValueError(f"{path}: {mean_name} has {mean.size} channels, {var_name} {var.size}")
    if "channel" not in table:
        return [str(i) for i in range(len(mean))], mean, var
    names = table["channel"].tolist() if suffix == ".npz" else table["channel"]
    if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
        raise ValueError(f"{path}: channel is not a list of names")
    if len(names) != len(mean):
        raise ValueError(f"{path}: channel has {len(names)} names for {len(mean)} channels")
    return [str(name) for name in names], mean, var


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of names that may not be given twice, at least not those that are looked at."""
    for name in ("channel", *(name for pair in COLUMNS for name in pair)):
        if sum(other == name for other, _ in pairs) > 1:
            raise ValueError(f"{name} is there twice")
    return dict(pairs)


class _Archive:
    """The arrays of a .npz file by name, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except UsageError:  # there is no such array
            return False
        return True

    def __getitem__(self, name: str) -> NDArray[Any]:
        return read(self.path, name).values


def _vector(path: Path, name: str, values: Any) -> Vector:
    # In a .csv a number is a text; elsewhere a text, a bool or a dictionary may be read as numbers, but is none.
    numbers = (str,) if path.suffix.lower() == ".csv" else (int, float)
    try:
        if isinstance(values, np.ndarray):
            known = values.ndim == 1 and values.dtype.kind in "iuf"
        else:
            known = isinstance(values, list) and all(v is None or (type(v) in numbers) for v in values)
        if not known:
            raise TypeError
        vector = np.asarray([math.nan if v is None or v == "" else v for v in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {name} is not a list of numbers") from error
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{path}: {name} is not a list of numbers, got shape {vector.shape}")
    return vector
