"""Moments in a file: an .npz archive of plain arrays, read back without trusting it."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import whole

NUMBERS = ("count", "samples", "sample_weight")
ROUNDING = 1e-6  # of means and weights in float32
OF_NOTHING = {
    "mean": math.nan, "m2": 0.0, "minimum": math.inf, "maximum": -math.inf, "sample_mean": math.nan, "sample_m2": 0.0
}  # fmt: skip
VECTORS = tuple(OF_NOTHING)
FIELDS = (*NUMBERS, *VECTORS)


def write(path: Path, fields: dict[str, NDArray[Any]]) -> None:
    """Write the fields, whole or not at all."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **fields)


def read(path: Path) -> dict[str, Any]:
    """The fields in a file, checked."""
    with path.open("rb") as file:
        try:
            return _checked(_unpack(file))
        except Exception as error:  # what parsers raise on a malformed file is an open list
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: damaged, or not written by Moments.save: {reason}") from error


def _unpack(file: Any) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(file) as archive:
        expected = {f"{name}.npy": name for name in FIELDS}
        if sorted(archive.namelist()) != sorted(expected):
            raise ValueError(f"it holds {', '.join(archive.namelist()) or 'nothing'}; expected {', '.join(expected)}")
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")  # a small file could unfold to any size
        # A whole member is read first, which checks its sum.
        return {
            name: np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
            for member, name in expected.items()
        }


def _checked(fields: dict[str, NDArray[Any]]) -> dict[str, Any]:
    for name in NUMBERS:
        kind = "f" if name == "sample_weight" else "iu"
        if fields[name].shape != () or fields[name].dtype.kind not in kind:
            raise ValueError(f"{name} is not a number")
    shape = fields["mean"].shape
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"mean has shape {shape}, expected a vector of channels")
    for name in VECTORS:
        if fields[name].shape != shape or fields[name].dtype.kind != "f":
            raise ValueError(f"{name} is not a vector of {shape[0]} real numbers, as many as mean has")
    numbers = {name: fields[name].item() for name in NUMBERS}
    count, samples, weight = (numbers[name] for name in NUMBERS)
    impossible = f"count={count}, samples={samples}, sample_weight={weight} cannot be"
    if not 0 <= samples <= count <= 2**53 or (samples > 0) != (count > 0):
        raise ValueError(impossible)
    if not count:
        for name, value in {**OF_NOTHING, "sample_weight": 0.0}.items():
            if not np.array_equal(fields[name], np.full(fields[name].shape, value), equal_nan=True):
                raise ValueError(f"count=0, but {name} is not that of no data")
    elif not count * (count / samples) <= weight * (1 + ROUNDING) <= count**2 * 1.01:
        raise ValueError(impossible)
    for name in ("m2", "sample_m2"):
        if (fields[name] < 0).any():
            raise ValueError(f"{name} is negative")
    low, mean, high = (fields[name].astype(np.float64) for name in ("minimum", "mean", "maximum"))
    with np.errstate(all="ignore"):
        slack = ROUNDING * np.fmax(np.abs(low), np.abs(high))
        beyond = (mean < low - slack) | (mean > high + slack)
        outside = (low > high) | (beyond & np.isfinite(mean))  # a sum may have left the range
    if count and outside.any():
        raise ValueError(f"channel {int(np.argmax(outside))} has a mean outside of its minimum and maximum")
    return {**fields, **numbers}
