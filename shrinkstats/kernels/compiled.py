"""What the compiled passes have in common: how they are compiled, and how they walk through arrays together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from shrinkstats.kernels import threads
from shrinkstats.kernels.layout import Layout, flat, layout

Data = NDArray[Any]
Vector = NDArray[np.float64]

SEGMENT = 2048  # elements of a run between two additions in float64
LANES = 512  # accumulators side by side when neighbours in memory are channels

# A sum may be reordered (that is what vectorizes it), but NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract", "nsz", "arcp"}


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """numba.njit without the GIL, cached on disk where there is a place to write to."""
    if function is None:
        return lambda f: jit(f, **options)
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no writable directory: compile anew in every process
        return numba.njit(function, **options)


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """jit of what only compiled code calls: half the work of the compiler."""
    return jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


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
