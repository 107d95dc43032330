"""What the compiled passes have in common: how they are compiled, and how they walk through arrays together."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.extending import register_jitable
from numpy.typing import NDArray

from shrinkstats._first_use import undisturbed
from shrinkstats.kernels import threads
from shrinkstats.kernels.layout import Layout, flat, layout

Data = NDArray[Any]
Vector = NDArray[np.float64]

SEGMENT = 2048  # elements of a run between two additions in float64
LANES = 512  # accumulators side by side when neighbours in memory are channels

# A sum may be reordered (that is what vectorizes it), but NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract", "nsz", "arcp"}


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache on disk, which nothing depends on: what cannot be read or written is compiled for this process."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # what damaged files raise is an open list
            _note_once(logging.WARNING, f"cannot read the compiled code in {self.cache_path} ({_words(error)})")
            with suppress(Exception):
                self.flush()  # so that the next process finds what this one compiles
        if found is None:
            _note_once(logging.INFO, "compiling for this machine, which takes some seconds, once")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            where = f"cannot keep compiled code in {self.cache_path} ({_words(error)})"
            _note_once(logging.WARNING, f"{where}: every process compiles anew; NUMBA_CACHE_DIR names another folder")


_noted: set[int] = set()


def _note_once(level: int, text: str) -> None:
    """Tell the logger "shrinkstats", once a process for each level, and who waits at a terminal."""
    if level in _noted:
        return
    _noted.add(level)
    logger = logging.getLogger("shrinkstats")
    logger.log(level, text)
    if level == logging.INFO and not logger.isEnabledFor(level) and sys.stderr is not None and sys.stderr.isatty():
        print(f"shrinkstats: {text}", file=sys.stderr, flush=True)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """numba.njit without the GIL, cached on disk where there is a place to write to."""
    if function is None:
        return lambda f: jit(f, **options)
    compiled = numba.njit(function, nogil=True, error_model="numpy", **options)
    with suppress(RuntimeError, AttributeError):  # no writable directory; or nothing is to be compiled at all
        compiled._compile_for_args = undisturbed()(compiled._compile_for_args)
        compiled._cache = _Cache(compiled.py_func)
    return compiled


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """What only compiled code calls, which has checked its arrays. In Python it stays a function of Python."""
    if function is None:
        return lambda f: inner(f, **options)
    options |= {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return register_jitable(**options)(function)


@inner
def _reach(ends, n, step):
    """The lowest and the highest index, of one axis more."""
    far = (n - 1.0) * step
    return ends[0] + min(far, 0.0), ends[1] + max(far, 0.0)


@inner
def runs_within(x, walk, rows, length, channels, samples):
    """How many runs a group has; an error if the walk leaves x. (In floats: no overflow brings an index back.)"""
    if rows.size % 2 == 0 or min(length, channels, samples) < 1:
        raise ValueError("no walk: it needs a first offset, pairs of size and step, and at least one of everything")
    first = float(rows[0])
    ends = _reach(_reach(_reach((first, first), length, walk[2]), channels, walk[1]), samples, walk[0])
    runs = 1.0
    for k in range(1, rows.size, 2):
        if rows[k] < 1:
            raise ValueError("no walk: an axis around its runs has no elements")
        ends = _reach(ends, rows[k], rows[k + 1])
        runs *= rows[k]
    if not (ends[0] >= 0 and ends[1] < x.size and runs < 2.0**62):
        raise IndexError("the walk leaves its array")
    return int(runs)


@inner
def check_alike(rows, others):
    """Check that two arrays have their runs in the same axes."""
    alike = rows.size == others.size
    for k in range(1, rows.size, 2):
        alike = alike and rows[k] == others[k]
    if not alike:
        raise ValueError("the arrays have runs of different axes")


@inner
def samples_of(begin, end, channels):
    """Whose groups, or tiles, those before `end` are; an error if there is none such."""
    if begin < 0 or channels < 1:
        raise ValueError("groups are counted from 0, and there is at least one channel")
    return (end - 1) // channels + 1


@inner
def check_sizes(least, sizes):
    """Check that vectors have an entry for each channel, or group."""
    for size in sizes:
        if size < least:
            raise ValueError("a vector is too short for the channels, or groups, of the array")


@inner
def check_lines(channels, copies, sizes, steps):
    """Check that vectors have an entry for each of the positions side by side, one after the other in memory."""
    for size in sizes:
        if size != float(channels) * copies:
            raise ValueError("a vector does not fit the positions that lie side by side")
    for step in steps:
        if copies != 1 and step != channels:
            raise ValueError("positions with gaps between them do not lie side by side")


@inner
def start_of(rows, r):
    """Where run r starts."""
    start, k = rows[0], rows.size - 2
    while k > 1:
        start += r % rows[k] * rows[k + 1]
        r //= rows[k]
        k -= 2
    return start + r * rows[2] if k == 1 else start


def steps_of(grid: Layout) -> list[tuple[tuple[int, int, int], NDArray[np.int64]]]:
    return [(walk.steps, walk.rows) for walk in grid.walks]


class Grid(NamedTuple):
    """How several arrays of one shape are walked through together, and how the work divides."""

    walks: tuple[Any, ...]
    samples: int
    channels: int
    interleaved: bool
    copies: int

    def wide(self, vector: Vector, dtype: Any) -> Data:
        """A vector of channels as the kernel takes it: for as many positions as lie side by side in one stretch."""
        vector = vector.astype(dtype, copy=False)
        return np.concatenate([vector] * self.copies) if self.interleaved and self.copies > 1 else vector

    def share(self, planar: Any, interleaved: Any, size: int, memories: list[Data], *more: Any) -> None:
        """Run the kernel that fits over all samples, or groups."""
        fixed = (*memories, *self.walks)
        if self.interleaved:
            threads.share(lambda i, j: interleaved(*fixed, self.copies, i, j, *more), self.samples, size)
        else:
            threads.share(lambda i, j: planar(*fixed, i, j, *more), self.samples * self.channels, size)


def grid_of_arrays(arrays: list[Data], axis: int, sample_axis: int | None) -> tuple[list[Data], Grid]:
    """The memory of the arrays, and the grid they share."""
    if len({x.shape for x in arrays}) > 1:
        raise ValueError(f"arrays of different shapes: {', '.join(str(x.shape) for x in arrays)}")
    memories, strides = zip(*map(flat, arrays), strict=True)
    return list(memories), grid_of(arrays[0].shape, strides, axis, sample_axis)


def copies_of(channels: int) -> int:
    """Positions side by side in one stretch: LANES elements or less, if possible a multiple of what a loop takes."""
    unit = 32 // math.gcd(channels, 32)
    return max(1, LANES // channels // unit * unit or LANES // channels)


@lru_cache(maxsize=1024)
def grid_of(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], axis: int, sample_axis: int | None) -> Grid:
    grid = layout(shape, strides, axis, sample_axis)
    if grid.interleaved and grid.length == 1 and sample_axis is not None:  # positions are all there is: walk along them
        return grid_of(shape, strides, axis, None)
    walks, rows = zip(*steps_of(grid), strict=True)
    dense = all(walk[2] == grid.channels for walk in walks)
    copies = copies_of(grid.channels) if dense else 1
    return Grid((*walks, *rows, grid.length, grid.channels), grid.samples, grid.channels, grid.interleaved, copies)
