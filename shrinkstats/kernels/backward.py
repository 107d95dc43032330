"""The backward passes, compiled: `reduce_grad`, `combine`, and the gradient of an extreme, which goes where it was."""

from __future__ import annotations

import numpy as np

from shrinkstats.kernels import converted, threads
from shrinkstats.kernels.compiled import (
    REORDER,
    SEGMENT,
    Data,
    Vector,
    check_alike,
    check_lines,
    check_sizes,
    grid_of_arrays,
    inner,
    jit,
    runs_within,
    samples_of,
    start_of,
)
from shrinkstats.kernels.layout import outermost


@inner(fastmath=REORDER)
def _products(g, x, pivot):
    total = pivot - pivot
    product = total
    for i in range(g.size):
        total += g[i]
        product += g[i] * (x[i] - pivot)
    return total, product


@jit
def planar_products(g, x, g_walk, walk, g_rows, rows, length, channels, begin, end, pivot, total, product):
    if begin >= end:
        return
    samples = samples_of(begin, end, channels)
    runs = runs_within(x, walk, rows, length, channels, samples)
    runs_within(g, g_walk, g_rows, length, channels, samples)
    check_alike(rows, g_rows)
    check_sizes(channels, (pivot.size,))
    check_sizes(end, (total.size, product.size))
    for group in range(begin, end):
        s, c = group // channels, group % channels
        total[group] = product[group] = 0.0
        for r in range(runs):
            i = s * g_walk[0] + c * g_walk[1] + start_of(g_rows, r)
            j = s * walk[0] + c * walk[1] + start_of(rows, r)
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
def interleaved_products(g, x, g_walk, walk, g_rows, rows, length, channels, copies, begin, end, pivot, total, product):
    if begin >= end:
        return
    samples = samples_of(begin, end, 1)
    runs = runs_within(x, (walk[0], 1, walk[2]), rows, length, channels, samples)
    runs_within(g, (g_walk[0], 1, g_walk[2]), g_rows, length, channels, samples)
    check_alike(rows, g_rows)
    check_lines(channels, copies, (pivot.size,), (g_walk[2], walk[2]))
    check_sizes(float(samples) * channels, (total.size, product.size))
    lanes = copies * channels
    lane_total, lane_product = np.empty(lanes, pivot.dtype), np.empty(lanes, pivot.dtype)
    for s in range(begin, end):
        t, q = total[s * channels : (s + 1) * channels], product[s * channels : (s + 1) * channels]
        for c in range(channels):
            t[c], q[c] = 0.0, 0.0
        for r in range(runs):
            i, j = s * g_walk[0] + start_of(g_rows, r), s * walk[0] + start_of(rows, r)
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
    if not converted.reads(g, x):
        return converted.reduce_grad(reduce_grad, g, x, axis, mean)  # type: ignore[no-any-return]
    memories, grid = grid_of_arrays([g, x], axis, outermost(x, axis))
    pivot = mean.astype(x.dtype)
    sums = np.zeros((2, grid.samples * grid.channels))
    grid.share(planar_products, interleaved_products, x.nbytes, memories, grid.wide(pivot, x.dtype), *sums)
    total, product = sums.reshape(2, grid.samples, grid.channels).sum(axis=1)
    return total, product - (mean - pivot) * total


@inner
def _check_added(d, step, channels, samples):
    if step < 0:
        raise ValueError("what is added per sample lies one after the other")
    check_sizes((samples - 1.0) * step + channels, (d.size,))


@jit
def planar_combine(
    g, x, y, g_walk, walk, out, g_rows, rows, out_rows, length, channels, begin, end, pivot, a, b, d, d_step
):
    if begin >= end:
        return
    samples = samples_of(begin, end, channels)
    runs = runs_within(x, walk, rows, length, channels, samples)
    runs_within(g, g_walk, g_rows, length, channels, samples)
    runs_within(y, out, out_rows, length, channels, samples)
    check_alike(rows, g_rows)
    check_alike(rows, out_rows)
    check_sizes(channels, (pivot.size, a.size, b.size))
    _check_added(d, d_step, channels, samples)
    for group in range(begin, end):
        s, c = group // channels, group % channels
        p, u, v, w = pivot[c], a[c], b[c], d[s * d_step + c]
        for r in range(runs):
            i = s * g_walk[0] + c * g_walk[1] + start_of(g_rows, r)
            j = s * walk[0] + c * walk[1] + start_of(rows, r)
            k = s * out[0] + c * out[1] + start_of(out_rows, r)
            if g_walk[2] == 1 and walk[2] == 1 and out[2] == 1:
                gradient, source, result = g[i : i + length], x[j : j + length], y[k : k + length]
                for q in range(length):
                    result[q] = u * gradient[q] + (v * (source[q] - p) + w)
            else:
                for q in range(length):
                    y[k + q * out[2]] = u * g[i + q * g_walk[2]] + (v * (x[j + q * walk[2]] - p) + w)


@jit
def interleaved_combine(
    g, x, y, g_walk, walk, out, g_rows, rows, out_rows, length, channels, copies, begin, end, pivot, a, b, d, d_step
):
    if begin >= end:
        return
    samples = samples_of(begin, end, 1)
    runs = runs_within(x, (walk[0], 1, walk[2]), rows, length, channels, samples)
    runs_within(g, (g_walk[0], 1, g_walk[2]), g_rows, length, channels, samples)
    runs_within(y, (out[0], 1, out[2]), out_rows, length, channels, samples)
    check_alike(rows, g_rows)
    check_alike(rows, out_rows)
    check_lines(channels, copies, (pivot.size, a.size, b.size), (g_walk[2], walk[2], out[2]))
    _check_added(d, d_step, channels, samples)
    w = np.empty(copies * channels, y.dtype)
    for s in range(begin, end):
        for k in range(copies):
            for c in range(channels):
                w[k * channels + c] = d[s * d_step + c]
        for r in range(runs):
            g_row, row = s * g_walk[0] + start_of(g_rows, r), s * walk[0] + start_of(rows, r)
            out_row = s * out[0] + start_of(out_rows, r)
            for position in range(0, length, copies):
                n = min(copies, length - position) * channels
                i, j, k = g_row + position * g_walk[2], row + position * walk[2], out_row + position * out[2]
                gradient, source, result = g[i : i + n], x[j : j + n], y[k : k + n]
                for c in range(n):
                    result[c] = a[c] * gradient[c] + (b[c] * (source[c] - pivot[c]) + w[c])


def combine(g: Data, x: Data, axis: int, mean: Vector, a: Vector, b: Vector, d: Vector, out: Data) -> Data:
    """``a g + b (x - mean) + d`` per channel, into `out`; rows of d, if it has several, belong to slices of axis 0."""
    if not converted.reads(g, x, out):
        converted.combine(combine, g, x, axis, (mean, a, b), d, out)
        return out
    each = d.ndim == 2 and len(d) > 1
    memories, grid = grid_of_arrays([g, x, out], axis, 0 if each else outermost(x, axis))
    pivot = mean.astype(x.dtype)
    d = np.ascontiguousarray(d - b * (mean - pivot), dtype=x.dtype).reshape(-1)
    vectors = [grid.wide(v, x.dtype) for v in (pivot, a, b)]
    grid.share(planar_combine, interleaved_combine, x.nbytes, memories, *vectors, d, grid.channels if each else 0)
    return out


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
    if begin >= end:
        return
    runs = runs_within(x, walk, rows, length, channels, samples_of(begin, end, channels))
    check_sizes(channels, (low.size, high.size))
    check_sizes(end, (at_low.size, at_high.size))
    for group in range(begin, end):
        s, c = group // channels, group % channels
        for r in range(runs):
            row = s * walk[0] + c * walk[1] + start_of(rows, r)
            n_low, n_high = _hits(x, row, walk[2], length, low[c], high[c])
            at_low[group] += n_low
            at_high[group] += n_high


@jit
def _planar_add(x, y, walk, out, rows, out_rows, length, channels, begin, end, low, high, at_low, at_high):
    if begin >= end:
        return
    samples = samples_of(begin, end, channels)
    runs = runs_within(x, walk, rows, length, channels, samples)
    runs_within(y, out, out_rows, length, channels, samples)
    check_alike(rows, out_rows)
    check_sizes(channels, (low.size, high.size, at_low.size, at_high.size))
    for group in range(begin, end):
        s, c = group // channels, group % channels
        for r in range(runs):
            start = s * walk[0] + c * walk[1] + start_of(rows, r)
            target = s * out[0] + c * out[1] + start_of(out_rows, r)
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
    memories, grid = grid_of_arrays([x], axis, outermost(x, axis))
    parts = grid.samples * grid.channels
    at_low, at_high = (np.zeros(parts) for _ in range(2))
    fixed, ends = (*memories, *grid.walks), [v.astype(x.dtype) for v in (low, high)]  # exact: they are elements of x
    threads.share(lambda i, j: _planar_ties(*fixed, i, j, *ends, at_low, at_high), parts, x.nbytes)
    at_low, at_high = (v.reshape(-1, grid.channels).sum(axis=0) for v in (at_low, at_high))
    return at_low, at_high


def add_at_extremes(x: Data, axis: int, low: Vector, high: Vector, at_low: Vector, at_high: Vector, out: Data) -> None:
    """Add to `out`, where x is at its channel's minimum or maximum."""
    memories, grid = grid_of_arrays([x, out], axis, outermost(x, axis))
    fixed, parts = (*memories, *grid.walks), grid.samples * grid.channels
    ends = [v.astype(x.dtype) for v in (low, high)]
    threads.share(lambda i, j: _planar_add(*fixed, i, j, *ends, at_low, at_high), parts, x.nbytes)
