"""The passes compiled by Numba, for NumPy arrays of any strides.

Every run of memory is read once. Sums of float32 data are kept in float32 around a pivot taken from the data, in
segments short enough that rounding stays near the data's own; segments merge in float64 by Chan's formula, always
in the same order, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from shrinkstats.kernels import threads
from shrinkstats.kernels.layout import Layout, backwards, flat, layout, outermost

Data = NDArray[Any]
Vector = NDArray[np.float64]

SEGMENT = 2048  # elements of a run between two merges into float64
LANES = 512  # accumulators side by side when neighbours in memory are channels
FAR = 8  # squares around the pivot this many times those around the mean: it was far off, and digits are lost
TINY = 1e-25  # below it, squares of float32 deviations may have underflowed

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


def _select(order: str) -> Any:
    """min or max of a value and a bound that the vectorizer understands; undefined for NaN."""

    @intrinsic
    def select(context: Any, value: Any, bound: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            v, b = target.cast(builder, arguments[0], value, bound), arguments[1]
            return builder.select(builder.fcmp_ordered(order, v, b, flags=("fast",)), v, b, flags=("fast",))

        return bound(value, bound), generate

    return select


lower = _select("<")
higher = _select(">")


# --- moments: one read -----------------------------------------------------------------------------------------


@jit(fastmath=REORDER)
def _segment(run, pivot, low, high):
    total = pivot - pivot
    squares = total
    for i in range(run.size):
        value = run[i]
        d = value - pivot
        total += d
        squares += d * d
        low, high = lower(value, low), higher(value, high)
    return total, squares, low, high


@jit
def _describe(run, pivot, total, squares, low, high):
    """Mean, squared deviations and extremes from the sums, looking again where the sums cannot say."""
    n = run.size
    if math.isnan(total):
        for i in range(n):
            if math.isnan(run[i]):
                return math.nan, math.nan, math.nan, math.nan
    elif low == high:  # constant
        return low, low - low, low, high
    m2 = squares - total * (total / n)
    # Out of float32's range, though maybe not out of the result's; or a difference of nearly equal numbers.
    if not TINY < squares < math.inf or squares > FAR * m2:
        wide = pivot + total / n
        wide = wide if math.isfinite(wide) else pivot
        total, squares = 0.0, 0.0
        for i in range(n):
            d = run[i] - wide
            total += d
            squares += d * d
        pivot, m2 = wide, squares - total * (total / n)
    return pivot + total / n, (0.0 if m2 < 0 else m2), low, high


@jit
def _merge(at, one, n, count, mean, m2, low, high):
    """Chan's formula: n elements described by `one` join the `count` before them."""
    if count == 0:
        mean[at], m2[at], low[at], high[at] = one
        return
    d = one[0] - mean[at]
    share = n / (count + n)
    mean[at] += d * share
    m2[at] += one[1] + d * d * (count * share)
    low[at] = low[at] if low[at] < one[2] or low[at] != low[at] else one[2]
    high[at] = high[at] if high[at] > one[3] or high[at] != high[at] else one[3]


@jit
def _pivot(first, middle, last, zero):
    """A value near the data: the median of three, which an outlier or a border does not draw away."""
    pivot = max(min(first, middle), min(max(first, middle), last))
    return pivot if math.isfinite(pivot) else zero


@jit
def _run(run, zero):
    """Mean, squared deviations and extremes of one run."""
    pivot = _pivot(zero + run[0], zero + run[run.size // 2], zero + run[run.size - 1], zero)
    total, squares = 0.0, 0.0
    low = high = zero + run[0]
    for start in range(0, run.size, SEGMENT):
        t, q, low, high = _segment(run[start : start + SEGMENT], pivot, low, high)
        total += t
        squares += q
    return _describe(run, np.float64(pivot), total, squares, np.float64(low), np.float64(high))


@jit
def _planar(x, walk, rows, length, channels, begin, end, zero, mean, m2, low, high):
    """Runs within one channel: the groups (sample, channel) from begin to end."""
    sample, channel, step = walk
    for group in range(begin, end):
        base = (group // channels) * sample + (group % channels) * channel
        count = 0
        for r in range(rows.size):
            start = base + rows[r]
            if step == 1:
                one = _run(x[start : start + length], zero)
            else:
                one = _run(x[start : start + (length - 1) * step + 1 : max(step, 1)], zero)
            _merge(group, one, length, count, mean, m2, low, high)
            count += length


@jit
def _eight(x, start, step, n, lanes):
    """Eight positions of n neighbouring channels."""
    n = min(n, LANES)
    x0, x1 = x[start : start + n], x[start + step : start + step + n]
    x2, x3 = x[start + 2 * step : start + 2 * step + n], x[start + 3 * step : start + 3 * step + n]
    x4, x5 = x[start + 4 * step : start + 4 * step + n], x[start + 5 * step : start + 5 * step + n]
    x6, x7 = x[start + 6 * step : start + 6 * step + n], x[start + 7 * step : start + 7 * step + n]
    pivot, total, squares = lanes[0:LANES], lanes[LANES : 2 * LANES], lanes[2 * LANES : 3 * LANES]
    low, high = lanes[3 * LANES : 4 * LANES], lanes[4 * LANES : 5 * LANES]
    for c in range(n):
        v0, v1, v2, v3, v4, v5, v6, v7 = x0[c], x1[c], x2[c], x3[c], x4[c], x5[c], x6[c], x7[c]
        p = pivot[c]
        d0, d1, d2, d3, d4, d5, d6, d7 = v0 - p, v1 - p, v2 - p, v3 - p, v4 - p, v5 - p, v6 - p, v7 - p
        total[c] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
        squares[c] += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7))
        a, b = lower(v1, lower(v0, low[c])), higher(v1, higher(v0, high[c]))
        a, b = lower(v3, lower(v2, a)), higher(v3, higher(v2, b))
        a, b = lower(v5, lower(v4, a)), higher(v5, higher(v4, b))
        low[c], high[c] = lower(v7, lower(v6, a)), higher(v7, higher(v6, b))


@jit
def _one(x, start, n, lanes):
    """One position of n neighbouring channels."""
    n = min(n, LANES)
    row = x[start : start + n]
    pivot, total, squares = lanes[0:LANES], lanes[LANES : 2 * LANES], lanes[2 * LANES : 3 * LANES]
    low, high = lanes[3 * LANES : 4 * LANES], lanes[4 * LANES : 5 * LANES]
    for c in range(n):
        value = row[c]
        d = value - pivot[c]
        total[c] += d
        squares[c] += d * d
        low[c], high[c] = lower(value, low[c]), higher(value, high[c])


@jit
def _block(x, start, step, positions, channels, copies, lanes, zero):
    """Lanes of sums over a block of positions. With few channels, several positions lie side by side."""
    middle, last = start + positions // 2 * step, start + (positions - 1) * step
    for c in range(channels):
        first = zero + x[start + c]
        pivot = _pivot(first, zero + x[middle + c], zero + x[last + c], zero)
        for k in range(copies):
            lane = k * channels + c
            lanes[lane], lanes[LANES + lane], lanes[2 * LANES + lane] = pivot, zero, zero
            lanes[3 * LANES + lane], lanes[4 * LANES + lane] = first, first
    position = 0
    while position + 8 * copies <= positions:
        _eight(x, start + position * step, copies * step, copies * channels, lanes)
        position += 8 * copies
    while position < positions:
        _one(x, start + position * step, channels, lanes)
        position += 1


@jit
def _interleaved(x, walk, rows, length, channels, first, last, begin, end, lanes, zero, mean, m2, low, high):
    """Runs across channels: samples from begin to end, channels from first to last."""
    sample, _, step = walk
    for s in range(begin, end):
        for tile in range(first, last, LANES):
            width = min(LANES, last - tile)
            copies = LANES // width if step == channels == width else 1
            count = 0
            for r in range(rows.size):
                for position in range(0, length, SEGMENT * copies):
                    start = s * sample + tile + rows[r] + position * step
                    n = min(SEGMENT * copies, length - position)
                    _block(x, start, step, n, width, copies, lanes, zero)
                    for c in range(width):
                        total, squares = 0.0, 0.0
                        a, b = lanes[3 * LANES + c], lanes[4 * LANES + c]
                        for lane in range(c, copies * width, width):
                            total += lanes[LANES + lane]
                            squares += lanes[2 * LANES + lane]
                            a = lower(lanes[3 * LANES + lane], a)
                            b = higher(lanes[4 * LANES + lane], b)
                        run = x[start + c : start + c + (n - 1) * step + 1 : max(step, 1)]
                        one = _describe(run, np.float64(lanes[c]), total, squares, np.float64(a), np.float64(b))
                        _merge(s * channels + tile + c, one, n, count, mean, m2, low, high)
                    count += n


def moments(x: Data, axis: int, sample_axis: int | None) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means."""
    turn = backwards(x)
    x = x[turn]
    memory, strides = flat(x)
    outer = outermost(x.shape, strides, axis) if sample_axis is None else sample_axis
    if outer is None or x.shape[axis] * x.shape[outer] == x.size:  # nothing within a sample: all in one group
        outer = None
    grid = layout(x.shape, (strides,), axis, outer)
    zero = np.zeros((), np.float32 if x.dtype == np.float32 else np.float64)[()]
    mean, m2, low, high = groups = [np.empty((grid.samples, grid.channels)) for _ in range(4)]
    _share_moments(memory, grid, zero, [g.reshape(-1) for g in groups], x.nbytes)
    if grid.samples == 1:
        alone = sample_axis is None or x.shape[sample_axis] > 1
        result = (mean[0], m2[0], low[0], high[0], (m2[0] if alone else np.zeros(grid.channels)))
    else:
        result = _merge_samples(mean, m2, low, high, x.size // mean.size, separate=sample_axis is not None)
    return tuple(vector[turn[axis]] for vector in result)  # type: ignore[return-value]


def _merge_samples(
    mean: Data, m2: Data, low: Data, high: Data, size: int, *, separate: bool
) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """The statistics of samples of one size as those of all."""
    low, high = low.min(axis=0), high.max(axis=0)
    with np.errstate(invalid="ignore"):  # infinity in the data: its mean is infinite and its deviations are NaN
        # A mean of equal numbers may be off by a bit; that of a constant channel is the constant.
        center = np.where(low == high, low, mean.mean(axis=0))
        sample_m2 = np.square(mean - center).sum(axis=0)
        whole = m2.sum(axis=0) + size * sample_m2
    return center, whole, low, high, (sample_m2 if separate else whole)


def _share_moments(x: Data, grid: Layout, zero: Any, groups: list[Vector], size: int) -> None:
    (walk,) = grid.walks
    steps, rows, length, channels = walk.steps, walk.rows, grid.length, grid.channels

    def new_lanes() -> Data:
        return np.empty(5 * LANES, dtype=zero.dtype)

    if not grid.interleaved:

        def task(i: int, j: int) -> None:
            _planar(x, steps, rows, length, channels, i, j, zero, *groups)

        threads.share(task, grid.samples * channels, size)
    elif grid.samples > 1:

        def task(i: int, j: int) -> None:
            _interleaved(x, steps, rows, length, channels, 0, channels, i, j, new_lanes(), zero, *groups)

        threads.share(task, grid.samples, size)
    else:

        def task(i: int, j: int) -> None:
            last = min(j * LANES, channels)
            _interleaved(x, steps, rows, length, channels, i * LANES, last, 0, 1, new_lanes(), zero, *groups)

        threads.share(task, -(-channels // LANES), size)


# --- affine: one read, one write -------------------------------------------------------------------------------


@jit
def _affine_planar(x, y, walk, out, rows, out_rows, length, channels, begin, end, pivot, a, b):
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
def _affine_interleaved(x, y, step, out_step, rows, out_rows, length, begin, end, pivot, a, b):
    """Stretches of as many elements as pivot, a and b have: one position's channels, or several positions'."""
    for i in range(begin, end):
        r, position = i // length, i % length
        start, target = rows[r] + position * step, out_rows[r] + position * out_step
        source, result = x[start : start + pivot.size], y[target : target + pivot.size]
        for c in range(pivot.size):
            result[c] = (source[c] - pivot[c]) * a[c] + b[c]


def affine(x: Data, axis: int, pivot: Vector, a: Vector, b: Vector) -> Data:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    turn = backwards(x)
    x = x[turn]
    y = np.empty_like(x, dtype=x.dtype if x.dtype.kind == "f" else np.float64)
    (source, strides), (target, out_strides) = flat(x), flat(y)
    vectors = [np.ascontiguousarray(v[turn[axis]], dtype=y.dtype) for v in (pivot, a, b)]
    grid = layout(x.shape, (strides, out_strides), axis, None)
    if grid.interleaved:
        _share_affine_interleaved(source, target, grid, vectors, x.nbytes)
        return y[turn]
    grid = layout(x.shape, (strides, out_strides), axis, outermost(x.shape, strides, axis))
    walk, out = grid.walks

    def task(i: int, j: int) -> None:
        _affine_planar(
            source,
            target,
            walk.steps,
            out.steps,
            walk.rows,
            out.rows,
            grid.length,
            grid.channels,
            i,
            j,
            *vectors,
        )

    threads.share(task, grid.samples * grid.channels, x.nbytes)
    return y[turn]


def _share_affine_interleaved(x: Data, y: Data, grid: Layout, vectors: list[Data], size: int) -> None:
    walk, out = grid.walks
    dense = walk.step == out.step == grid.channels and walk.rows.size == 1
    copies = max(1, LANES // grid.channels) if dense else 1
    whole = grid.length // copies * copies

    def stretch(begin: int, end: int, copies: int) -> None:
        wide = [np.tile(v, copies) for v in vectors]
        length, shift = max(1, (end - begin) // copies), begin * grid.channels
        step, out_step = walk.step * copies, out.step * copies

        def task(i: int, j: int) -> None:
            _affine_interleaved(x[shift:], y[shift:], step, out_step, walk.rows, out.rows, length, i, j, *wide)

        threads.share(task, length * walk.rows.size, size)

    if whole:
        stretch(0, whole, copies)
    if whole < grid.length:
        stretch(whole, grid.length, 1)
