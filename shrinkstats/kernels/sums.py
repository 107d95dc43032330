"""The loops of `moments`, compiled: sums around a pivot, and a second look at groups whose sums have lost digits.

A group is what one sample holds of one channel. Sums of float32 data are kept in float32 around a pivot taken from the
data, in segments short enough that rounding stays near the data's own; segments add up in float64, always in the same
order, so that the bits do not depend on the number of threads.

Two orders of memory have loops of their own: planar, where neighbours belong to one channel (runs), and interleaved,
where they are channels (lanes: accumulators side by side).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from shrinkstats.kernels.compiled import (
    LANES,
    REORDER,
    SEGMENT,
    check_sizes,
    inner,
    jit,
    runs_within,
    samples_of,
    start_of,
)

STRIPE = 128  # neighbouring channels that are looked at again together
CACHED = 24 * 2**20  # bytes of data that a cache may still hold
LEAD = 16  # the pivot comes from this many leading elements of a group
TINY = 1e-25  # below it, squares of float32 deviations may have underflowed
FAR = 8  # squares around the pivot this many times those around the mean have lost digits


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
    """The elements start, start + step, ..., in ascending order: a sum does not mind. (A slice has no step of 0.)"""
    start += min(step, 0) * (n - 1)
    return x[start : start + (n - 1) * abs(step) + 1 : abs(step)]


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
def planar_sums(x, walk, rows, length, channels, begin, end, zero, extremes, pivot, total, squares, low, high):
    """Sums of the groups from begin to end (sample by sample), each around its pivot."""
    if begin >= end:
        return
    runs = runs_within(x, walk, rows, length, channels, samples_of(begin, end, channels))
    check_sizes(end, (pivot.size, total.size, squares.size))
    if extremes:
        check_sizes(end, (low.size, high.size))
    sample, channel, step = walk
    segment = SEGMENT if step == 1 else SEGMENT // 8  # of strided elements a few are added in vectors at best
    for group in range(begin, end):
        base = (group // channels) * sample + (group % channels) * channel
        p = _pivot(x, base + rows[0], step, length, zero)
        t, q = 0.0, 0.0
        a = b = zero + x[base + rows[0]]
        for r in range(runs):
            row = base + start_of(rows, r)
            if step == 0:  # one element, again and again
                value = zero + x[row]
                d = value - p
                t += length * d
                q += length * (d * d)
                a, b = lower(value, a), higher(value, b)
                continue
            for position in range(0, length, segment):
                start, n = row + position * step, min(segment, length - position)
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
def interleaved_sums(
    x, walk, rows, length, channels, side, begin, end, zero, extremes, lanes, pivot, total, squares, low, high
):
    """Sums of the tiles from begin to end (sample by sample), each group around its pivot."""
    if begin >= end:
        return
    samples = samples_of(begin, end, tiles(channels))
    sample, _, step = walk
    runs = runs_within(x, (sample, 1, step), rows, length, channels, samples)
    reached = (samples - 1.0) * channels + min((end - 1) % tiles(channels) * LANES + LANES, channels)
    check_sizes(reached, (pivot.size, total.size, squares.size))
    if extremes:
        check_sizes(reached, (low.size, high.size))
    check_sizes(5 * LANES, (lanes.size,))
    if side < 1 or side > max(1, LANES // channels):
        raise ValueError("more positions side by side than there are lanes")
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
        for r in range(runs):
            row = base + start_of(rows, r)
            for block in range(0, length, segment):
                for lane in range(copies * width):
                    lanes[LANES + lane], lanes[2 * LANES + lane] = zero, zero
                position, stop = block, min(block + segment, length)
                while position + 4 * copies <= stop:
                    start = row + position * step
                    if far:
                        _fetch(x, start, copies * step, copies * width)
                    _four(x, start, copies * step, copies * width, extremes, lanes)
                    position += 4 * copies
                while position < stop:
                    _one(x, row + position * step, width, extremes, lanes)
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


# --- the second look ---------------------------------------------------------------------------------------------


@inner
def _along(x, base, step, rows, runs, length, lanes):
    """Sums of a group around a pivot in float64, and whether it holds a NaN."""
    for r in range(runs):
        row = base + start_of(rows, r)
        if step == 0:
            d = x[row] - lanes[0]
            total, squares = length * d, length * (d * d)
        else:
            total, squares = _sums(_strided(x, row, step, length), lanes[0])
        lanes[LANES] += total
        lanes[2 * LANES] += squares
    if math.isnan(lanes[LANES]):
        for r in range(runs):
            row = base + start_of(rows, r)
            for i in range(length):
                lanes[3 * LANES] += math.isnan(x[row + i * step])


@inner
def _side_by_side(x, base, step, rows, runs, length, width, lanes):
    """The same for neighbouring channels: one at a time would read all of the memory for each."""
    copies = STRIPE // width if step == width else 1
    for lane in range(width, copies * width):
        lanes[lane] = lanes[lane - width]
    for r in range(runs):
        row, position = base + start_of(rows, r), 0
        while position + 4 * copies <= length:
            _four(x, row + position * step, copies * step, copies * width, False, lanes)
            position += 4 * copies
        while position < length:
            _one(x, row + position * step, width, False, lanes)
            position += 1
    for lane in range(copies * width - 1, width - 1, -1):
        lanes[LANES + lane - width] += lanes[LANES + lane]
        lanes[2 * LANES + lane - width] += lanes[2 * LANES + lane]
    if np.isnan(lanes[LANES : LANES + width]).any():
        for r in range(runs):
            row = base + start_of(rows, r)
            for position in range(length):
                start = row + position * step
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
def _look_again(x, walk, rows, runs, length, channels, begin, end, mean, total, squares, low, high):
    """Sums anew, around the mean and in float64, of the groups that need it."""
    n = runs * length
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
                _side_by_side(x, base, walk[2], rows, runs, length, width, lanes)
            else:
                _along(x, base, walk[2], rows, runs, length, lanes)
            for c in range(width):
                g = group + c
                if lost[c]:
                    mean[g], total[g], squares[g] = lanes[c], lanes[LANES + c], lanes[2 * LANES + c]
                    if lanes[3 * LANES + c] and low.size:
                        low[g] = high[g] = math.nan
        group += width


@jit
def describe(x, walk, rows, length, channels, begin, end, mean, total, m2, low, high):
    """Mean and squared deviations from the sums (the pivot comes in `mean`, the squares in `m2`)."""
    if begin >= end:
        return
    runs = runs_within(x, walk, rows, length, channels, samples_of(begin, end, channels))
    check_sizes(end, (mean.size, total.size, m2.size))
    if low.size:
        check_sizes(end, (low.size, high.size))
    n = runs * length
    lost = 0
    for group in range(begin, end):
        lost += _lost(total[group], m2[group], n)
    if lost:  # the exception: the rest has no branches, and costs next to nothing
        _look_again(x, walk, rows, runs, length, channels, begin, end, mean, total, m2, low, high)
    for group in range(begin, end):
        shift = total[group] / n
        squares = m2[group] - total[group] * shift
        mean[group] += shift
        m2[group] = 0.0 if squares < 0 else squares
