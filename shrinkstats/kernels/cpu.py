"""The passes for NumPy arrays of any strides, by loops that Numba compiles and threads share.

Every element is read once: by `sums` for moments; `backward` has the passes of gradients.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from shrinkstats.kernels import converted, threads
from shrinkstats.kernels.backward import add_at_extremes, combine, count_extremes, reduce_grad
from shrinkstats.kernels.compiled import (
    LANES,
    Data,
    Vector,
    check_alike,
    check_lines,
    check_sizes,
    copies_of,
    grid_of_arrays,
    inner,
    jit,
    runs_within,
    samples_of,
    start_of,
    steps_of,
)
from shrinkstats.kernels.layout import Layout, flat, layout, outermost
from shrinkstats.kernels.sums import LEAD, describe, first_group, interleaved_sums, planar_sums, tiles

__all__ = [
    "add_at_extremes",
    "affine",
    "combine",
    "count_extremes",
    "group_moments",
    "merge",
    "moments",
    "reduce_grad",
]

SMALLER = 2.0**600  # data divided by it have sums and squares within the range
BLOCKS = 64  # into which one long run is cut, so that threads can share it


class GroupMoments(NamedTuple):
    """Moments of every group: arrays of shape (samples, channels); extremes are empty where nobody asked."""

    mean: Vector
    m2: Vector
    low: Vector
    high: Vector


def group_moments(x: Data, axis: int, sample_axis: int | None, *, extremes: bool = True) -> GroupMoments:
    """Moments of every group; the samples are slices along `sample_axis`, or all is one."""
    memory, strides = flat(x)
    return _of_groups(memory, layout(x.shape, (strides,), axis, sample_axis), extremes)


def _of_groups(memory: Data, grid: Layout, extremes: bool) -> GroupMoments:
    ((walk, rows),) = steps_of(grid)
    length, samples, channels = grid.length, grid.samples, grid.channels
    turned = grid.turned
    if turned is not None:
        found = _of_groups(memory, turned, extremes)
        return GroupMoments(*(np.ascontiguousarray(v.reshape(-1, samples).T).reshape(-1, channels) for v in found))
    size = samples * channels * grid.runs * length * memory.itemsize
    zero = _work_type(memory)(0)
    mean, total, m2 = (np.empty(samples * channels) for _ in range(3))
    low, high = (np.empty(samples * channels if extremes else 0) for _ in range(2))

    def planar(begin: int, end: int) -> None:
        planar_sums(memory, walk, rows, length, channels, begin, end, zero, extremes, mean, total, m2, low, high)
        describe(memory, walk, rows, length, channels, begin, end, mean, total, m2, low, high)

    def interleaved(begin: int, end: int) -> None:
        lanes, copies = np.empty(5 * LANES, dtype=zero.dtype), copies_of(channels)
        interleaved_sums(
            memory, walk, rows, length, channels, copies, begin, end, zero, extremes, lanes, mean, total, m2, low, high
        )
        begin, end = first_group(begin, channels), first_group(end, channels)
        describe(memory, walk, rows, length, channels, begin, end, mean, total, m2, low, high)

    if grid.interleaved:
        threads.share(interleaved, samples * tiles(channels), size)
    else:
        threads.share(planar, samples * channels, size)
    return GroupMoments(*(v.reshape(-1, channels) for v in (mean, m2, low, high)))


def moments(x: Data, axis: int, sample_axis: int | None) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means."""
    found = _moments(x, axis, sample_axis)
    mean, m2, low, high, sample_m2 = found
    if x.dtype.itemsize < 8 or m2.max() < math.inf:
        return found
    lost = ~np.isfinite(m2) & np.isfinite(low) & np.isfinite(high)
    if not lost.any():  # NaN or infinity in the data
        return found
    anew = converted.moments(_of_smaller, _join, x, axis, sample_axis)
    with np.errstate(over="ignore"):
        mean = np.where(lost, anew[0] * SMALLER, mean)
        m2, sample_m2 = (np.where(lost, anew[i] * SMALLER * SMALLER, found[i]) for i in (1, 4))
    return mean, m2, low, high, sample_m2


def _of_smaller(x: Data, axis: int, sample_axis: int | None) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """The moments of a copy, in a unit in which no sum leaves the range."""
    x /= SMALLER
    return _moments(x, axis, sample_axis)


def _moments(x: Data, axis: int, sample_axis: int | None) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    if not converted.reads(x):
        return converted.moments(_moments, _join, x, axis, sample_axis)  # type: ignore[no-any-return]
    samples = x.size // x.shape[axis] if sample_axis is None else x.shape[sample_axis]
    if x.size == x.shape[axis]:  # one element a channel
        mean = x.reshape(-1).astype(np.float64)
        m2 = np.zeros(mean.size)  # pages that nobody touches
        m2[~np.isfinite(mean)] = math.nan
        return mean, m2, mean, mean, np.zeros(mean.size)
    memory, strides = flat(x)
    grid = layout(x.shape, (strides,), axis, None)
    if grid.runs == 1 and samples in (1, grid.length):  # a table: nothing within a sample, or one sample
        mean, m2, low, high = _of_table(memory, grid)
        return mean, m2, low, high, m2 if samples > 1 else np.zeros_like(m2)
    outer = _outer(x, axis) if sample_axis is None or samples == 1 else sample_axis
    groups = _of_groups(memory, layout(x.shape, (strides,), axis, outer), True)
    mean, m2, sample_m2 = merge(groups.mean, groups.m2, x.size // groups.mean.size)
    sample_m2 = m2 if sample_axis is None else sample_m2 if samples > 1 else np.zeros_like(m2)
    return mean, m2, groups.low.min(axis=0), groups.high.max(axis=0), sample_m2


def _outer(x: Data, axis: int) -> int | None:
    """The axis to cut along where there are no samples: the outermost, if that leaves groups of some elements."""
    outer = outermost(x, axis)
    if outer is not None and x.size < LEAD * x.shape[axis] * x.shape[outer]:
        return min((i for i in range(x.ndim) if i != axis and x.shape[i] > 1), key=lambda i: x.shape[i])
    return outer


def _of_table(memory: Data, grid: Layout) -> GroupMoments:
    """Moments of runs, each of a channel: of blocks, whose number depends on the shape alone, and then of all."""
    long = grid.length * grid.channels * memory.itemsize >= threads.WORTHWHILE
    pieces = tiles(grid.channels) if grid.interleaved else grid.channels
    blocks = max(1, min(BLOCKS // pieces, grid.length // LEAD)) if long else 1
    n = grid.length // blocks
    (walk,) = grid.walks
    parts = _of_groups(
        memory, grid._replace(samples=blocks, length=n, walks=(walk._replace(sample=n * walk.step),)), True
    )
    mean, m2, _ = merge(parts.mean, parts.m2, n)
    whole = GroupMoments(mean, m2, parts.low.min(axis=0), parts.high.max(axis=0))
    left = grid.length - blocks * n
    if not left:
        return whole
    rest = _of_table(
        memory, grid._replace(length=left, walks=(walk._replace(rows=walk.rows + blocks * n * walk.step),))
    )
    _join(mean, m2, blocks * n, rest.mean, rest.m2, left)
    return GroupMoments(mean, m2, np.minimum(whole.low, rest.low), np.maximum(whole.high, rest.high))


def _work_type(x: Data) -> Any:
    """float32 data are summed in float32, all others in float64."""
    return np.float32 if x.dtype == np.float32 else np.float64


@inner
def _finite(value):
    return value if math.isfinite(value) else 0.0


@jit
def _join(mean, m2, n, other_mean, other_m2, other_n):
    """Chan's formula for two parts of any sizes; into the first."""
    if not mean.size == m2.size == other_mean.size == other_m2.size:
        raise ValueError("the parts have different numbers of channels")
    share = other_n / (n + other_n)
    for c in range(mean.size):
        d = other_mean[c] - mean[c]
        m2[c] += other_m2[c] + d * d * (n * share)
        mean[c] = mean[c] + d * share if math.isfinite(d) else mean[c] + other_mean[c]


@jit
def merge_groups(means, m2, size, mean, whole, between):
    """Over the groups of every channel: mean, squared deviations, and those of the groups' means."""
    samples, channels = means.shape
    if samples < 1 or m2.shape != means.shape or not channels == mean.size == whole.size == between.size:
        raise ValueError("means and squared deviations differ in shape, or from the vectors of channels; or are empty")
    for c in range(channels):
        mean[c], whole[c], between[c] = 0.0, 0.0, 0.0
    for s in range(samples):
        for c in range(channels):
            mean[c] += means[s, c] - _finite(means[0, c])  # around the first: a mean of equal numbers is exact
            whole[c] += m2[s, c]
    for c in range(channels):
        mean[c] = _finite(means[0, c]) + mean[c] / samples
    for s in range(samples):
        for c in range(channels):
            d = means[s, c] - mean[c]
            between[c] += d * d
    for c in range(channels):
        whole[c] += size * between[c]


def merge(means: Data, m2: Data, size: int) -> tuple[Vector, Vector, Vector]:
    """Mean, squared deviations, and squared deviations of the samples' means, from groups of one size."""
    if len(means) == 1:
        return means[0], m2[0], np.zeros(means.shape[1])
    mean, whole, between = (np.empty(means.shape[1]) for _ in range(3))
    merge_groups(means, m2, size, mean, whole, between)
    return mean, whole, between


@jit
def planar_affine(x, y, walk, out, rows, out_rows, length, channels, begin, end, pivot, a, b):
    if begin >= end:
        return
    samples = samples_of(begin, end, channels)
    runs = runs_within(x, walk, rows, length, channels, samples)
    runs_within(y, out, out_rows, length, channels, samples)
    check_alike(rows, out_rows)
    check_sizes(channels, (pivot.size, a.size, b.size))
    for group in range(begin, end):
        s, c = group // channels, group % channels
        p, slope, shift = pivot[c], a[c], b[c]
        for r in range(runs):
            start = s * walk[0] + c * walk[1] + start_of(rows, r)
            target = s * out[0] + c * out[1] + start_of(out_rows, r)
            if walk[2] == 1 and out[2] == 1:
                source, result = x[start : start + length], y[target : target + length]
                for i in range(length):
                    result[i] = (source[i] - p) * slope + shift
            else:
                for i in range(length):
                    y[target + i * out[2]] = (x[start + i * walk[2]] - p) * slope + shift


@jit
def interleaved_affine(x, y, walk, out, rows, out_rows, length, channels, copies, begin, end, pivot, a, b):
    if begin >= end:
        return
    samples = samples_of(begin, end, 1)
    runs = runs_within(x, (walk[0], 1, walk[2]), rows, length, channels, samples)
    runs_within(y, (out[0], 1, out[2]), out_rows, length, channels, samples)
    check_alike(rows, out_rows)
    check_lines(channels, copies, (pivot.size, a.size, b.size), (walk[2], out[2]))
    for s in range(begin, end):
        for r in range(runs):
            from_, to = s * walk[0] + start_of(rows, r), s * out[0] + start_of(out_rows, r)
            for position in range(0, length, copies):
                n = min(copies, length - position) * channels
                start = from_ + position * walk[2]
                target = to + position * out[2]
                source, result = x[start : start + n], y[target : target + n]
                for i in range(n):
                    result[i] = (source[i] - pivot[i]) * a[i] + b[i]


def affine(x: Data, axis: int, pivot: Vector, a: Vector, b: Vector, out: Data | None = None) -> Data:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    y = np.empty_like(x, dtype=x.dtype if converted.is_float(x.dtype) else np.float64) if out is None else out
    if not converted.reads(x, y):
        converted.affine(affine, x, axis, (pivot, a, b), y)
        return y
    memories, grid = grid_of_arrays([x, y], axis, outermost(x, axis))
    vectors = [grid.wide(v, y.dtype) for v in (pivot, a, b)]
    grid.share(planar_affine, interleaved_affine, x.nbytes, memories, *vectors)
    return y
