"""The passes over CuPy arrays, on the device where they lie and in the current stream."""

from __future__ import annotations

import cupy

from shrinkstats._arrays import Array
from shrinkstats.kernels import cuda
from shrinkstats.kernels.cuda import Grid, Library, Passes

LIBRARY = Library(cupy.empty, lambda x: int(x.data.ptr))


def moments(x: Array, axis: int, sample_axis: int | None) -> tuple[Array, Array, Array, Array, Array]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means."""
    with x.device:
        if sample_axis is not None and x.shape[axis] * x.shape[sample_axis] == x.size > x.shape[axis]:
            mean, m2, low, high, _ = moments(x, axis, None)  # nothing within a sample
            return mean, m2, low, high, m2
        x, grid = _dense(x, axis, sample_axis)
        found, _ = _passes(x).moments(grid, x.data.ptr)
        mean, m2, low, high, sample_m2 = found
        return mean, m2, low, high, m2 if sample_axis is None else sample_m2


def affine(x: Array, axis: int, pivot: Array, a: Array, b: Array) -> Array:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    with x.device:
        x, grid = _dense(x, axis, None)
        y, lines = cupy.empty_like(x), cupy.stack((pivot, a, b))
        _passes(x).affine(grid, x.data.ptr, y.data.ptr, lines.data.ptr)
        return y


def reduce_grad(g: Array, x: Array, axis: int, mean: Array) -> tuple[Array, Array]:
    """Per channel: the sums of g and of ``g (x - mean)``."""
    with x.device:
        x, grid = _dense(x, axis, None)
        g, pivot = _like(g, x), _rounded(mean, x)
        total, product = _passes(x).reduce_grad(grid, g.data.ptr, x.data.ptr, pivot.data.ptr)[:, 0]
        return total, product - (mean - pivot) * total


def combine(g: Array, x: Array, axis: int, mean: Array, a: Array, b: Array, d: Array) -> Array:
    """``a g + b (x - mean) + d`` per channel; rows of d, if it has several, belong to slices of axis 0."""
    with x.device:
        each = d.ndim == 2 and len(d) > 1
        x, grid = _dense(x, axis, 0 if each else None)
        g, pivot = _like(g, x), _rounded(mean, x)
        y, push = cupy.empty_like(x), b * (pivot - mean)
        lines = cupy.stack((pivot, a, b, push if each else push + d.reshape(-1), cupy.ones_like(mean)))
        d = cupy.ascontiguousarray(d, dtype=mean.dtype)
        arrays = (g.data.ptr, x.data.ptr, y.data.ptr, lines.data.ptr, d.data.ptr if each else 0)
        _passes(x).combine(grid, *arrays)
        return y


def _passes(x: Array) -> Passes:
    return Passes(x.dtype.name, x.device.id, LIBRARY)


def _dense(x: Array, axis: int, sample_axis: int | None) -> tuple[Array, Grid]:
    """x, copied if it has gaps or if samples are not outermost, and how it lies."""
    grid = cuda.grid_of(x.shape, tuple(s / x.itemsize for s in x.strides), axis, sample_axis)
    if grid is not None:
        return x, grid
    order = sorted(range(x.ndim), key=lambda i: i != sample_axis)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return _dense(cupy.ascontiguousarray(x.transpose(*order)).transpose(*back), axis, sample_axis)


def _like(g: Array, x: Array) -> Array:
    """g, in memory as x is."""
    if g.strides == x.strides and g.dtype == x.dtype:
        return g
    copy = cupy.empty_like(x)
    copy[...] = g
    return copy


def _rounded(mean: Array, x: Array) -> Array:
    """A pivot near the data, as the kernels read it."""
    return mean if x.dtype.itemsize == 8 else mean.astype(cupy.float32).astype(mean.dtype)
