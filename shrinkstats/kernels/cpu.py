"""The passes compiled by Numba, for NumPy arrays of any strides.

Every element is read once. Sums of float32 data are kept in float32 around a pivot taken from the data, in segments
short enough that rounding stays near the data's own; segments add up in float64, always in the same order, so that
the bits do not depend on the number of threads. A group is what one sample holds of one channel.

Two orders of memory have loops of their own: planar, where neighbours belong to one channel (runs), and interleaved,
where they are channels (lanes: accumulators side by side).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from shrinkstats.kernels import threads
from shrinkstats.kernels.layout import Layout, flat, layout, outermost

Data = NDArray[Any]
Vector = NDArray[np.float64]

SEGMENT = 2048  # elements of a run between two additions in float64
LANES = 512  # accumulators side by side when neighbours in memory are channels
STRIPE = 128  # of them that are looked at again together
CACHED = 24 * 2**20  # bytes of data that a cache may still hold
BLOCKS = 64  # into which one long run is cut, so that threads can share it
LEAD = 16  # the pivot comes from this many leading elements of a group
TINY = 1e-25  # below it, squares of float32 deviations may have underflowed
FAR = 8  # squares around the pivot this many times those around the mean have lost digits

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


def _select(order: str) -> Any:
    """min or max of a value and a bound that the vectorizer understands; undefined for NaN."""

    @intrinsic
    def select(context: Any, value: Any, bound: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            v, b = target.cast(builder, arguments[0], value, bound), arguments[1]
            return builder.select(builder.fcmp_ordered(order, v, b, flags=("fast",)), v, b, flags=("fast",))

        return bound(value, bound), generate

    return select


@intrinsic
def _read(context: Any, x: Any, i: Any) -> Any:
    """Read x[i] and forget it: a load that the compiler may not leave out."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = target.make_array(signature.args[0])(target, builder, arguments[0]).data
        byte = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        builder.load_atomic(byte, "monotonic", 1)
        return target.get_dummy_value()

    return types.void(x, types.intp), generate


lower = _select("<")
higher = _select(">")


def _steps(grid: Layout) -> list[tuple[tuple[int, int, int], NDArray[np.int64]]]:
    return [(walk.steps, walk.rows) for walk in grid.walks]


def _work_type(x: Data) -> Any:
    """float32 data are summed in float32, all others in float64."""
    return np.float32 if x.dtype == np.float32 else np.float64


# --- moments: reads x ------------------------------------------------------------------------------------------


class GroupMoments(NamedTuple):
    """Moments of every group: arrays of shape (samples, channels); extremes are empty where nobody asked."""

    mean: Vector
    m2: Vector
    low: Vector
    high: Vector


@inner(fastmath=REORDER)
def _sums(run, pivot):
    total = pivot - pivot
    squares = total
    for i in range(run.size):
        d = run[i] - pivot
        total += d
        squares += d * d
    return total, squares


@inner(fastmath=REORDER)
def _sums_and_extremes(run, pivot, low, high):
    total = pivot - pivot
    squares = total
    for i in range(run.size):
        value = run[i]
        d = value - pivot
        total += d
        squares += d * d
        low, high = lower(value, low), higher(value, high)
    return total, squares, low, high


@inner
def _strided(x, start, step, n):
    """The elements start, start + step, ..., in ascending order: a sum does not mind."""
    start += min(step, 0) * (n - 1)
    return x[start : start + (n - 1) * abs(step) + 1 : max(abs(step), 1)]


@inner
def _pivot(x, start, step, n, zero):
    """A value near the data: the median of three, which an outlier or a border does not draw away.

    The three are close together: looking further ahead would wait for memory.
    """
    last = min(n, LEAD) - 1
    first, middle, third = zero + x[start], zero + x[start + last // 2 * step], zero + x[start + last * step]
    pivot = max(min(first, middle), min(max(first, middle), third))
    return pivot if math.isfinite(pivot) else zero


@jit
def _planar_sums(x, walk, rows, length, channels, begin, end, zero, extremes, pivot, total, squares, low, high):
    """Sums of the groups from begin to end (sample by sample), each around its pivot."""
    sample, channel, step = walk
    segment = SEGMENT if step == 1 else SEGMENT // 8  # of strided elements a few are added in vectors at best
    for group in range(begin, end):
        base = (group // channels) * sample + (group % channels) * channel
        p = _pivot(x, base + rows[0], step, length, zero)
        t, q = 0.0, 0.0
        a = b = zero + x[base + rows[0]]
        for r in range(rows.size):
            for position in range(0, length, segment):
                start, n = base + rows[r] + position * step, min(segment, length - position)
                if step != 1:
                    t1, q1, a, b = _sums_and_extremes(_strided(x, start, step, n), p, a, b)
                elif extremes:
                    t1, q1, a, b = _sums_and_extremes(x[start : start + n], p, a, b)
                else:
                    t1, q1 = _sums(x[start : start + n], p)
                t += t1
                q += q1
        pivot[group], total[group], squares[group] = p, t, q
        if extremes:
            low[group], high[group] = a, b


@inner
def _four(x, start, step, n, extremes, lanes):
    """Four positions of n neighbouring channels."""
    n = min(n, LANES)
    x0, x1 = x[start : start + n], x[start + step : start + step + n]
    x2, x3 = x[start + 2 * step : start + 2 * step + n], x[start + 3 * step : start + 3 * step + n]
    pivot, total, squares = lanes[0:LANES], lanes[LANES : 2 * LANES], lanes[2 * LANES : 3 * LANES]
    for c in range(n):
        p = pivot[c]
        d0, d1, d2, d3 = x0[c] - p, x1[c] - p, x2[c] - p, x3[c] - p
        total[c] += (d0 + d1) + (d2 + d3)
        squares[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    if extremes:
        low, high = lanes[3 * LANES : 4 * LANES], lanes[4 * LANES : 5 * LANES]
        for c in range(n):
            a, b = lower(x1[c], lower(x0[c], low[c])), higher(x1[c], higher(x0[c], high[c]))
            low[c], high[c] = lower(x3[c], lower(x2[c], a)), higher(x3[c], higher(x2[c], b))


@inner
def _one(x, start, n, extremes, lanes):
    """One position of n neighbouring channels."""
    n = min(n, LANES)
    row = x[start : start + n]
    pivot, total, squares = lanes[0:LANES], lanes[LANES : 2 * LANES], lanes[2 * LANES : 3 * LANES]
    for c in range(n):
        d = row[c] - pivot[c]
        total[c] += d
        squares[c] += d * d
    if extremes:
        low, high = lanes[3 * LANES : 4 * LANES], lanes[4 * LANES : 5 * LANES]
        for c in range(n):
            low[c], high[c] = lower(row[c], low[c]), higher(row[c], high[c])


@inner
def _fetch(x, start, step, n):
    """Bring four positions of n neighbouring channels into the cache, one after the other.

    Memory that is read in one direction comes ahead of its use. Whoever reads four places in turn, as `_four` does,
    waits for it: three times as long.
    """
    half = 32 // x.itemsize  # of a line; one read a line is not noticed
    for position in range(4):
        for i in range(start + position * step, start + position * step + n, half):
            _read(x, i)


@inner
def _lane_pivots(x, start, step, length, width, zero, extremes, lanes, pivot, low, high):
    """The pivot of every channel, as `_pivot` but side by side; their extremes start at the first position."""
    last = min(length, LEAD) - 1
    x0, x1 = x[start : start + width], x[start + last // 2 * step : start + last // 2 * step + width]
    x2 = x[start + last * step : start + last * step + width]
    for c in range(width):
        a, b, d = zero + x0[c], zero + x1[c], zero + x2[c]
        p = higher(lower(a, b), lower(higher(a, b), d))
        p = p if abs(a + b + d) < math.inf else zero  # of p itself the compiler believes that it is finite
        lanes[c], pivot[c] = p, p
    if extremes:
        for c in range(width):
            low[c] = high[c] = zero + x0[c]


@jit
def tiles(channels):
    """Into how many tiles of LANES channels a sample is divided."""
    return -(-channels // LANES)


@jit
def first_group(tile, channels):
    """The first group of a tile, counted over all samples."""
    return tile // tiles(channels) * channels + tile % tiles(channels) * LANES


@jit
def _interleaved_sums(
    x, walk, rows, length, channels, side, begin, end, zero, extremes, lanes, pivot, total, squares, low, high
):
    """Sums of the tiles from begin to end (sample by sample), each group around its pivot."""
    sample, _, step = walk
    far = x.size * x.itemsize > CACHED and step == channels <= LANES
    for item in range(begin, end):
        s, tile = item // tiles(channels), item % tiles(channels) * LANES
        width = min(LANES, channels - tile)
        copies = min(side, max(1, length // 32)) if step == channels == width else 1
        if far:  # fewer at a time are fetched while others are added up
            copies = max(1, copies // 2)
        segment = SEGMENT // 4 * copies  # a lane adds one position after the other
        base = s * sample + tile
        here, there = s * channels + tile, s * channels + tile + width
        p, t, q, a, b = pivot[here:there], total[here:there], squares[here:there], low[here:there], high[here:there]
        _lane_pivots(x, base + rows[0], step, length, width, zero, extremes, lanes, p, a, b)
        for k in range(1, copies):
            for c in range(width):
                lanes[k * width + c] = lanes[c]
        if extremes:
            for k in range(copies):
                for c in range(width):
                    lanes[3 * LANES + k * width + c], lanes[4 * LANES + k * width + c] = a[c], b[c]
        for c in range(width):
            t[c], q[c] = 0.0, 0.0
        for r in range(rows.size):
            for block in range(0, length, segment):
                for lane in range(copies * width):
                    lanes[LANES + lane], lanes[2 * LANES + lane] = zero, zero
                position, stop = block, min(block + segment, length)
                while position + 4 * copies <= stop:
                    start = base + rows[r] + position * step
                    if far:
                        _fetch(x, start, copies * step, copies * width)
                    _four(x, start, copies * step, copies * width, extremes, lanes)
                    position += 4 * copies
                while position < stop:
                    _one(x, base + rows[r] + position * step, width, extremes, lanes)
                    position += 1
                for k in range(copies):
                    for c in range(width):
                        t[c] += lanes[LANES + k * width + c]
                        q[c] += lanes[2 * LANES + k * width + c]
        if extremes:
            for k in range(copies):
                for c in range(width):
                    a[c] = lower(lanes[3 * LANES + k * width + c], a[c])
                    b[c] = higher(lanes[4 * LANES + k * width + c], b[c])


@inner
def _along(x, base, step, rows, length, lanes):
    """Sums of a group around a pivot in float64, and whether it holds a NaN."""
    for r in range(rows.size):
        total, squares = _sums(_strided(x, base + rows[r], step, length), lanes[0])
        lanes[LANES] += total
        lanes[2 * LANES] += squares
    if math.isnan(lanes[LANES]):
        for r in range(rows.size):
            for i in range(length):
                lanes[3 * LANES] += math.isnan(x[base + rows[r] + i * step])


@inner
def _side_by_side(x, base, step, rows, length, width, lanes):
    """The same for neighbouring channels: one at a time would read all of the memory for each."""
    copies = STRIPE // width if step == width else 1
    for lane in range(width, copies * width):
        lanes[lane] = lanes[lane - width]
    for r in range(rows.size):
        position = 0
        while position + 4 * copies <= length:
            _four(x, base + rows[r] + position * step, copies * step, copies * width, False, lanes)
            position += 4 * copies
        while position < length:
            _one(x, base + rows[r] + position * step, width, False, lanes)
            position += 1
    for lane in range(copies * width - 1, width - 1, -1):
        lanes[LANES + lane - width] += lanes[LANES + lane]
        lanes[2 * LANES + lane - width] += lanes[2 * LANES + lane]
    if np.isnan(lanes[LANES : LANES + width]).any():
        for r in range(rows.size):
            for position in range(length):
                start = base + rows[r] + position * step
                for c in range(width):
                    lanes[3 * LANES + c] += math.isnan(x[start + c])


@inner
def _lost(total, squares, n):
    """Whether sums are out of float32's range, though maybe not out of the result's, or differ too little."""
    return not TINY < squares < math.inf or squares > FAR * (squares - total * (total / n))


@inner
def _constant(total, squares, low, high, group):
    """Whether nothing but the pivot was seen. Without extremes, squares may have underflowed: below float32's least."""
    return total == 0 and squares == 0 and (low.size == 0 or low[group] == high[group])


@inner
def _look_again(x, walk, rows, length, channels, begin, end, mean, total, squares, low, high):
    """Sums anew, around the mean and in float64, of the groups that need it."""
    n = rows.size * length
    together = STRIPE if walk[1] == 1 and walk[2] != 1 else 1
    lanes = np.empty(5 * LANES)
    lost = np.empty(STRIPE, np.bool_)
    group = begin
    while group < end:
        width = min(together, channels - group % channels, end - group)
        for c in range(width):
            g = group + c
            lost[c] = _lost(total[g], squares[g], n) and not _constant(total[g], squares[g], low, high, g)
            shift = total[g] / n
            lanes[c] = mean[g] + shift if math.isfinite(shift) else mean[g]
        if lost[:width].any():
            base = (group // channels) * walk[0] + (group % channels) * walk[1]
            lanes[LANES : 4 * LANES] = 0
            if together > 1:
                _side_by_side(x, base, walk[2], rows, length, width, lanes)
            else:
                _along(x, base, walk[2], rows, length, lanes)
            for c in range(width):
                g = group + c
                if lost[c]:
                    mean[g], total[g], squares[g] = lanes[c], lanes[LANES + c], lanes[2 * LANES + c]
                    if lanes[3 * LANES + c] and low.size:
                        low[g] = high[g] = math.nan
        group += width


@jit
def _describe(x, walk, rows, length, channels, begin, end, mean, total, m2, low, high):
    """Mean and squared deviations from the sums (the pivot comes in `mean`, the squares in `m2`)."""
    n = rows.size * length
    lost = 0
    for group in range(begin, end):
        lost += _lost(total[group], m2[group], n)
    if lost:  # the exception: the rest has no branches, and costs next to nothing
        _look_again(x, walk, rows, length, channels, begin, end, mean, total, m2, low, high)
    for group in range(begin, end):
        shift = total[group] / n
        squares = m2[group] - total[group] * shift
        mean[group] += shift
        m2[group] = 0.0 if squares < 0 else squares


def group_moments(x: Data, axis: int, sample_axis: int | None, *, extremes: bool = True) -> GroupMoments:
    """Moments of every group; the samples are slices along `sample_axis`, or all is one."""
    memory, strides = flat(x)
    return _of_groups(memory, layout(x.shape, (strides,), axis, sample_axis), extremes)


def _of_groups(memory: Data, grid: Layout, extremes: bool) -> GroupMoments:
    ((walk, rows),) = _steps(grid)
    length, samples, channels = grid.length, grid.samples, grid.channels
    size = samples * channels * rows.size * length * memory.itemsize
    zero = _work_type(memory)(0)
    mean, total, m2 = (np.empty(samples * channels) for _ in range(3))
    low, high = (np.empty(samples * channels if extremes else 0) for _ in range(2))

    def planar(begin: int, end: int) -> None:
        _planar_sums(memory, walk, rows, length, channels, begin, end, zero, extremes, mean, total, m2, low, high)
        _describe(memory, walk, rows, length, channels, begin, end, mean, total, m2, low, high)

    def interleaved(begin: int, end: int) -> None:
        lanes, copies = np.empty(5 * LANES, dtype=zero.dtype), copies_of(channels)
        _interleaved_sums(
            memory, walk, rows, length, channels, copies, begin, end, zero, extremes, lanes, mean, total, m2, low, high
        )
        begin, end = first_group(begin, channels), first_group(end, channels)
        _describe(memory, walk, rows, length, channels, begin, end, mean, total, m2, low, high)

    if grid.interleaved:
        threads.share(interleaved, samples * tiles(channels), size)
    else:
        threads.share(planar, samples * channels, size)
    return GroupMoments(*(v.reshape(-1, channels) for v in (mean, m2, low, high)))


def moments(x: Data, axis: int, sample_axis: int | None) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means."""
    samples = x.size // x.shape[axis] if sample_axis is None else x.shape[sample_axis]
    memory, strides = flat(x)
    grid = layout(x.shape, (strides,), axis, None)
    if grid.walks[0].rows.size == 1 and samples in (1, grid.length):  # a table: nothing within a sample, or one sample
        mean, m2, low, high = _of_table(memory, grid)
        return mean, m2, low, high, m2 if samples > 1 else np.zeros_like(m2)
    outer = outermost(x, axis) if sample_axis is None or samples == 1 else sample_axis
    groups = _of_groups(memory, layout(x.shape, (strides,), axis, outer), True)
    mean, m2, sample_m2 = merge(groups.mean, groups.m2, x.size // groups.mean.size)
    sample_m2 = m2 if sample_axis is None else sample_m2 if samples > 1 else np.zeros_like(m2)
    return mean, m2, groups.low.min(axis=0), groups.high.max(axis=0), sample_m2


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


@inner
def _finite(value):
    return value if math.isfinite(value) else 0.0


@jit
def _join(mean, m2, n, other_mean, other_m2, other_n):
    """Chan's formula for two parts of any sizes; into the first."""
    share = other_n / (n + other_n)
    for c in range(mean.size):
        d = other_mean[c] - mean[c]
        m2[c] += other_m2[c] + d * d * (n * share)
        mean[c] = mean[c] + d * share if math.isfinite(d) else mean[c] + other_mean[c]


@jit
def _merge(means, m2, size, mean, whole, between):
    """Over the groups of every channel: mean, squared deviations, and those of the groups' means."""
    samples, channels = means.shape
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
    _merge(means, m2, size, mean, whole, between)
    return mean, whole, between


# --- affine: reads x, writes y ---------------------------------------------------------------------------------


@jit
def _planar_affine(x, y, walk, out, rows, out_rows, length, channels, begin, end, pivot, a, b):
    for group in range(begin, end):
        s, c = group // channels, group % channels
        p, slope, shift = pivot[c], a[c], b[c]
        for r in range(rows.size):
            start = s * walk[0] + c * walk[1] + rows[r]
            target = s * out[0] + c * out[1] + out_rows[r]
            if walk[2] == 1 and out[2] == 1:
                source, result = x[start : start + length], y[target : target + length]
                for i in range(length):
                    result[i] = (source[i] - p) * slope + shift
            else:
                for i in range(length):
                    y[target + i * out[2]] = (x[start + i * walk[2]] - p) * slope + shift


@jit
def _interleaved_affine(x, y, walk, out, rows, out_rows, length, channels, copies, begin, end, pivot, a, b):
    for s in range(begin, end):
        for r in range(rows.size):
            for position in range(0, length, copies):
                n = min(copies, length - position) * channels
                start = s * walk[0] + rows[r] + position * walk[2]
                target = s * out[0] + out_rows[r] + position * out[2]
                source, result = x[start : start + n], y[target : target + n]
                for i in range(n):
                    result[i] = (source[i] - pivot[i]) * a[i] + b[i]


class _Grid(NamedTuple):
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


def _grid(arrays: list[Data], axis: int, sample_axis: int | None) -> tuple[list[Data], _Grid]:
    """The memory of the arrays, and the grid they share."""
    memories, strides = zip(*map(flat, arrays), strict=True)
    return list(memories), grid_of(arrays[0].shape, strides, axis, sample_axis)


def copies_of(channels: int) -> int:
    """Positions side by side in one stretch: LANES elements or less, if possible a multiple of what a loop takes."""
    unit = 32 // math.gcd(channels, 32)
    return max(1, LANES // channels // unit * unit or LANES // channels)


@lru_cache(maxsize=1024)
def grid_of(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], axis: int, sample_axis: int | None) -> _Grid:
    grid = layout(shape, strides, axis, sample_axis)
    if grid.interleaved and grid.length == 1 and sample_axis is not None:  # positions are all there is: walk along them
        return grid_of(shape, strides, axis, None)
    walks, rows = zip(*_steps(grid), strict=True)
    dense = all(walk[2] == grid.channels for walk in walks)
    copies = copies_of(grid.channels) if dense else 1
    return _Grid((*walks, *rows, grid.length, grid.channels), grid.samples, grid.channels, grid.interleaved, copies)


def affine(x: Data, axis: int, pivot: Vector, a: Vector, b: Vector, out: Data | None = None) -> Data:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    y = np.empty_like(x, dtype=x.dtype if x.dtype.kind == "f" else np.float64) if out is None else out
    memories, grid = _grid([x, y], axis, outermost(x, axis))
    vectors = [grid.wide(v, y.dtype) for v in (pivot, a, b)]
    grid.share(_planar_affine, _interleaved_affine, x.nbytes, memories, *vectors)
    return y


# --- reduce_grad: reads g and x --------------------------------------------------------------------------------


@inner(fastmath=REORDER)
def _products(g, x, pivot):
    total = pivot - pivot
    product = total
    for i in range(g.size):
        total += g[i]
        product += g[i] * (x[i] - pivot)
    return total, product


@jit
def _planar_products(g, x, g_walk, walk, g_rows, rows, length, channels, begin, end, pivot, total, product):
    for group in range(begin, end):
        s, c = group // channels, group % channels
        total[group] = product[group] = 0.0
        for r in range(rows.size):
            i, j = s * g_walk[0] + c * g_walk[1] + g_rows[r], s * walk[0] + c * walk[1] + rows[r]
            for start in range(0, length, SEGMENT):
                n = min(SEGMENT, length - start)
                if g_walk[2] == 1 and walk[2] == 1:
                    t, q = _products(g[i + start : i + start + n], x[j + start : j + start + n], pivot[c])
                else:
                    t, q = pivot[c] - pivot[c], pivot[c] - pivot[c]
                    for k in range(start, start + n):
                        t += g[i + k * g_walk[2]]
                        q += g[i + k * g_walk[2]] * (x[j + k * walk[2]] - pivot[c])
                total[group] += t
                product[group] += q


@inner
def _four_products(g, x, i, j, g_step, step, n, pivot, total, product):
    """Four positions of n neighbouring channels."""
    g0, g1, g2, g3 = (g[i : i + n], g[i + g_step : i + g_step + n],
                      g[i + 2 * g_step : i + 2 * g_step + n], g[i + 3 * g_step : i + 3 * g_step + n])  # fmt: skip
    x0, x1, x2, x3 = (x[j : j + n], x[j + step : j + step + n],
                      x[j + 2 * step : j + 2 * step + n], x[j + 3 * step : j + 3 * step + n])  # fmt: skip
    for c in range(n):
        p = pivot[c]
        total[c] += (g0[c] + g1[c]) + (g2[c] + g3[c])
        product[c] += (g0[c] * (x0[c] - p) + g1[c] * (x1[c] - p)) + (g2[c] * (x2[c] - p) + g3[c] * (x3[c] - p))


@jit
def _interleaved_products(
    g, x, g_walk, walk, g_rows, rows, length, channels, copies, begin, end, pivot, total, product
):
    lanes = copies * channels
    lane_total, lane_product = np.empty(lanes, pivot.dtype), np.empty(lanes, pivot.dtype)
    for s in range(begin, end):
        t, q = total[s * channels : (s + 1) * channels], product[s * channels : (s + 1) * channels]
        for c in range(channels):
            t[c], q[c] = 0.0, 0.0
        for r in range(rows.size):
            i, j = s * g_walk[0] + g_rows[r], s * walk[0] + rows[r]
            for block in range(0, length, SEGMENT * copies):
                for lane in range(lanes):
                    lane_total[lane], lane_product[lane] = 0, 0
                position, stop = block, min(block + SEGMENT * copies, length)
                while position + 4 * copies <= stop:
                    _four_products(
                        g, x, i + position * g_walk[2], j + position * walk[2], copies * g_walk[2], copies * walk[2],
                        lanes, pivot, lane_total, lane_product,
                    )  # fmt: skip
                    position += 4 * copies
                while position < stop:
                    at, to = i + position * g_walk[2], j + position * walk[2]
                    gradient, source = g[at : at + channels], x[to : to + channels]
                    for c in range(channels):
                        lane_total[c] += gradient[c]
                        lane_product[c] += gradient[c] * (source[c] - pivot[c])
                    position += 1
                for k in range(copies):
                    for c in range(channels):
                        t[c] += lane_total[k * channels + c]
                        q[c] += lane_product[k * channels + c]


def reduce_grad(g: Data, x: Data, axis: int, mean: Vector) -> tuple[Vector, Vector]:
    """Per channel: the sums of g and of ``g (x - mean)``."""
    memories, grid = _grid([g, x], axis, outermost(x, axis))
    pivot = mean.astype(x.dtype)
    sums = np.zeros((2, grid.samples * grid.channels))
    grid.share(_planar_products, _interleaved_products, x.nbytes, memories, grid.wide(pivot, x.dtype), *sums)
    total, product = sums.reshape(2, grid.samples, grid.channels).sum(axis=1)
    return total, product - (mean - pivot) * total


# --- combine: reads g and x, writes dx -------------------------------------------------------------------------


@jit
def _planar_combine(
    g, x, y, g_walk, walk, out, g_rows, rows, out_rows, length, channels, begin, end, pivot, a, b, d, d_step
):
    for group in range(begin, end):
        s, c = group // channels, group % channels
        p, u, v, w = pivot[c], a[c], b[c], d[s * d_step + c]
        for r in range(rows.size):
            i, j = s * g_walk[0] + c * g_walk[1] + g_rows[r], s * walk[0] + c * walk[1] + rows[r]
            k = s * out[0] + c * out[1] + out_rows[r]
            if g_walk[2] == 1 and walk[2] == 1 and out[2] == 1:
                gradient, source, result = g[i : i + length], x[j : j + length], y[k : k + length]
                for q in range(length):
                    result[q] = u * gradient[q] + (v * (source[q] - p) + w)
            else:
                for q in range(length):
                    y[k + q * out[2]] = u * g[i + q * g_walk[2]] + (v * (x[j + q * walk[2]] - p) + w)


@jit
def _interleaved_combine(
    g, x, y, g_walk, walk, out, g_rows, rows, out_rows, length, channels, copies, begin, end, pivot, a, b, d, d_step
):
    w = np.empty(copies * channels, y.dtype)
    for s in range(begin, end):
        for k in range(copies):
            for c in range(channels):
                w[k * channels + c] = d[s * d_step + c]
        for r in range(rows.size):
            for position in range(0, length, copies):
                n = min(copies, length - position) * channels
                i = s * g_walk[0] + g_rows[r] + position * g_walk[2]
                j = s * walk[0] + rows[r] + position * walk[2]
                k = s * out[0] + out_rows[r] + position * out[2]
                gradient, source, result = g[i : i + n], x[j : j + n], y[k : k + n]
                for c in range(n):
                    result[c] = a[c] * gradient[c] + (b[c] * (source[c] - pivot[c]) + w[c])


def combine(g: Data, x: Data, axis: int, mean: Vector, a: Vector, b: Vector, d: Vector, out: Data) -> Data:
    """``a g + b (x - mean) + d`` per channel, into `out`; rows of d, if it has several, belong to slices of axis 0."""
    each = d.ndim == 2 and len(d) > 1
    memories, grid = _grid([g, x, out], axis, 0 if each else outermost(x, axis))
    pivot = mean.astype(x.dtype)
    d = np.ascontiguousarray(d - b * (mean - pivot), dtype=x.dtype).reshape(-1)
    vectors = [grid.wide(v, x.dtype) for v in (pivot, a, b)]
    grid.share(_planar_combine, _interleaved_combine, x.nbytes, memories, *vectors, d, grid.channels if each else 0)
    return out


# --- the gradient of an extreme goes to the elements there -----------------------------------------------------


@inner
def _hits(x, start, step, length, low, high):
    """How many elements of a row equal one value, and another, in x's own type."""
    at_low, at_high = 0, 0
    if step == 1:  # contiguous: the compiler makes vectors of it
        row = x[start : start + length]
        for i in range(length):
            at_low += row[i] == low
            at_high += row[i] == high
    else:
        for i in range(length):
            at_low += x[start + i * step] == low
            at_high += x[start + i * step] == high
    return at_low, at_high


@jit
def _planar_ties(x, walk, rows, length, channels, begin, end, low, high, at_low, at_high):
    for group in range(begin, end):
        s, c = group // channels, group % channels
        for r in range(rows.size):
            n_low, n_high = _hits(x, s * walk[0] + c * walk[1] + rows[r], walk[2], length, low[c], high[c])
            at_low[group] += n_low
            at_high[group] += n_high


@jit
def _planar_add(x, y, walk, out, rows, out_rows, length, channels, begin, end, low, high, at_low, at_high):
    for group in range(begin, end):
        s, c = group // channels, group % channels
        for r in range(rows.size):
            start, target = s * walk[0] + c * walk[1] + rows[r], s * out[0] + c * out[1] + out_rows[r]
            n_low, n_high = _hits(x, start, walk[2], length, low[c], high[c])
            if n_low + n_high == 0:  # most rows: an extreme is rare
                continue
            for i in range(length):
                if x[start + i * walk[2]] == low[c]:
                    y[target + i * out[2]] += at_low[c]
                if x[start + i * walk[2]] == high[c]:
                    y[target + i * out[2]] += at_high[c]


def count_extremes(x: Data, axis: int, low: Vector, high: Vector) -> tuple[Vector, Vector]:
    """Per channel: how many elements equal its minimum, and its maximum."""
    memories, grid = _grid([x], axis, outermost(x, axis))
    parts = grid.samples * grid.channels
    at_low, at_high = (np.zeros(parts) for _ in range(2))
    fixed, ends = (*memories, *grid.walks), [v.astype(x.dtype) for v in (low, high)]  # exact: they are elements of x
    threads.share(lambda i, j: _planar_ties(*fixed, i, j, *ends, at_low, at_high), parts, x.nbytes)
    at_low, at_high = (v.reshape(-1, grid.channels).sum(axis=0) for v in (at_low, at_high))
    return at_low, at_high


def add_at_extremes(x: Data, axis: int, low: Vector, high: Vector, at_low: Vector, at_high: Vector, out: Data) -> None:
    """Add to `out`, where x is at its channel's minimum or maximum."""
    memories, grid = _grid([x, out], axis, outermost(x, axis))
    fixed, parts = (*memories, *grid.walks), grid.samples * grid.channels
    ends = [v.astype(x.dtype) for v in (low, high)]
    threads.share(lambda i, j: _planar_add(*fixed, i, j, *ends, at_low, at_high), parts, x.nbytes)
