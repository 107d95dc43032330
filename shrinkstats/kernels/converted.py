"""Data of a type that no kernel is compiled for (half precision, most integers, other byte orders): piece by piece.

A piece is converted while it is in the cache of whoever works on it, so that memory is read once and nothing large is
made. Moments are summed in float64 and lose nothing; the other passes compute half precision in float32. The pieces
depend on the shape alone, and what they give is merged in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats.kernels import threads
from shrinkstats.kernels.layout import outermost

DIRECT = ("float32", "float64", "uint8")
"""What the kernels are compiled for: floats, and images as they lie in files."""

PIECE = 2**17  # elements; as float64 they fit into a core's own cache

WIDE = 1024
"""Channels that pieces hold at most: of many pieces the statistics of all channels would be larger than the data."""

Index = tuple[slice, ...]


class Room:
    """Memory for converted pieces, one after the other: new memory would wait for the system to hand out its pages."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[Any, int], NDArray[Any]] = {}

    def __call__(self, piece: NDArray[Any], dtype: Any, number: int = 0) -> NDArray[Any]:
        """The piece of another type, its axes in the order of its memory; `number` tells pieces apart."""
        room = self.rooms.get((dtype, number))
        if room is None or room.size < piece.size:
            room = self.rooms[dtype, number] = np.empty(piece.size, dtype)
        order = sorted(range(piece.ndim), key=lambda i: -abs(piece.strides[i]))
        dense = room[: piece.size].reshape([piece.shape[i] for i in order])
        wide = dense.transpose(sorted(range(piece.ndim), key=order.__getitem__))
        np.copyto(wide, piece, casting="unsafe")
        return wide


def reads(*arrays: NDArray[Any]) -> bool:
    """Whether kernels are compiled for all of these arrays."""
    return all(x.dtype.name in DIRECT and x.dtype.isnative for x in arrays)


def is_float(dtype: Any) -> bool:
    """Whether results are of this type too: ml_dtypes' bfloat16 is, which to NumPy is no kind of number."""
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")


def work_type(*arrays: NDArray[Any]) -> Any:
    """What these arrays are converted to."""
    single = all(is_float(x.dtype) and x.dtype.itemsize <= 4 for x in arrays)
    return np.float32 if single else np.float64


def pieces(x: NDArray[Any], cut: int | None) -> list[Index]:
    """Where to cut x along an axis, and what is left of it whole."""
    if cut is None:
        return [(slice(None),)]
    count = min(-(-x.size // PIECE), x.shape[cut])
    ends = [x.shape[cut] * i // count for i in range(count + 1)]
    return [(*[slice(None)] * cut, slice(*ends[i : i + 2])) for i in range(count)]


def stripes(x: NDArray[Any], axis: int) -> list[Index]:
    """Where to cut x along the channels, if at all."""
    channels = x.shape[axis]
    width = max(WIDE, PIECE * channels // max(x.size, 1))
    return [(*[slice(None)] * axis, slice(i, i + width)) for i in range(0, max(channels, 1), width)]


def _large(piece: NDArray[Any], x: NDArray[Any]) -> bool:
    """Whether a piece is to be cut again, along another axis."""
    return 2 * PIECE < piece.size < x.size


def each(work: Callable[[int, Room], object], count: int, x: NDArray[Any]) -> None:
    """Work on all pieces of x, in several threads where it is worth it."""

    def task(begin: int, end: int) -> None:
        room = Room()
        with np.errstate(all="ignore"):  # NaN and what is too large for the type pass through, as in the kernels
            for i in range(begin, end):
                work(i, room)

    threads.share(task, count, 4 * x.nbytes)  # a conversion costs more than a pass


def moments(run: Any, join: Any, x: NDArray[Any], axis: int, sample_axis: int | None) -> Any:
    """`run`, the moments of an array, by pieces; `join` adds a part to another."""
    if len(along := stripes(x, axis)) > 1:
        parts = [moments(run, join, x[stripe], axis, sample_axis) for stripe in along]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
    cut = outermost(x, axis) if sample_axis is None or x.shape[sample_axis] == 1 else sample_axis
    where, dtype = pieces(x, cut), np.float64
    found: list[Any] = [None] * len(where)

    def work(i: int, room: Room) -> None:
        if _large(x[where[i]], x):
            found[i] = moments(run, join, x[where[i]], axis, sample_axis)
        else:
            found[i] = run(room(x[where[i]], dtype), axis, sample_axis)

    each(work, len(where), x)
    if cut is None or len(where) == 1:
        return found[0]
    mean, m2, low, high, between = (v.copy() for v in found[0])
    means, done = mean.copy(), x[where[0]].shape[cut]
    for place, (mean_i, m2_i, low_i, high_i, between_i) in zip(where[1:], found[1:], strict=True):
        n = x[place].shape[cut]
        size = x.size // (x.shape[axis] * x.shape[cut])
        join(means, between, done, mean_i, between_i, n)
        join(mean, m2, done * size, mean_i, m2_i, n * size)
        np.minimum(low, low_i, out=low)
        np.maximum(high, high_i, out=high)
        done += n
    if cut != sample_axis:  # pieces of one sample, or of none
        between = m2 if sample_axis is None else np.zeros_like(m2)
    return mean, m2, low, high, between


def affine(run: Any, x: NDArray[Any], axis: int, vectors: Any, out: NDArray[Any]) -> None:
    """`run`, the affine pass, by pieces."""
    where, dtype = pieces(x, outermost(x, axis)), work_type(x, out)

    def work(i: int, room: Room) -> None:
        piece = x[where[i]]
        if _large(piece, x):
            return affine(run, piece, axis, vectors, out[where[i]])
        wide = room(piece, dtype)
        out[where[i]] = run(wide, axis, *vectors, out=wide)
        return None

    each(work, len(where), x)


def reduce_grad(run: Any, g: NDArray[Any], x: NDArray[Any], axis: int, mean: Any) -> Any:
    """`run`, the sums of gradients, by pieces."""
    if len(along := stripes(x, axis)) > 1:
        parts = [reduce_grad(run, g[stripe], x[stripe], axis, mean[stripe[axis]]) for stripe in along]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
    where, dtype = pieces(x, outermost(x, axis)), work_type(g, x)
    found: list[Any] = [None] * len(where)

    def work(i: int, room: Room) -> None:
        parts = g[where[i]], x[where[i]]
        if _large(parts[1], x):
            found[i] = reduce_grad(run, *parts, axis, mean)
        else:
            found[i] = run(room(parts[0], dtype), room(parts[1], dtype, 1), axis, mean)

    each(work, len(where), x)
    return tuple(sum(v) for v in zip(*found, strict=True))


def combine(run: Any, g: NDArray[Any], x: NDArray[Any], axis: int, vectors: Any, d: Any, out: NDArray[Any]) -> None:
    """`run`, the gradient of the input, by pieces; rows of d belong to slices of axis 0."""
    rows = d.ndim == 2 and len(d) > 1
    where, dtype = pieces(x, 0 if rows else outermost(x, axis)), work_type(g, x, out)

    def work(i: int, room: Room) -> None:
        parts, own = (g[where[i]], x[where[i]]), d[where[i][0]] if rows else d
        if _large(parts[1], x):
            return combine(run, *parts, axis, vectors, own, out[where[i]])
        gradient, wide = room(parts[0], dtype), room(parts[1], dtype, 1)
        out[where[i]] = run(gradient, wide, axis, *vectors, own, wide)
        return None

    each(work, len(where), x)
