"""The passes as plain array operations: any array library, differentiable where the library is."""

from __future__ import annotations

from typing import Any

from shrinkstats._arrays import Array, at_least_single, constant, namespace, statistics_dtype

LARGE = 2.0**40
"""A power of two, more than there are numbers to add."""


def along(vector: Array, axis: int, ndim: int, xp: object) -> Array:
    """A vector of channels, shaped to broadcast along `axis` of an array of `ndim` axes."""
    shape = [1] * ndim
    shape[axis] = vector.shape[0]
    return xp.reshape(vector, tuple(shape))  # type: ignore[attr-defined]


def moments(x: Array, axis: int, sample_axis: int | None) -> tuple[Array, Array, Array, Array, Array]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means.

    Statistics may be of float32. So everything is summed around a pivot, in two steps: a sum of numbers around the
    middle of the range finds a point close to the mean, and one of numbers around that point finds the mean. The pivot
    is a constant: what it adds to a derivative would cancel, but for rounding. Where sums may leave the range, numbers
    are divided by a power of two first, which costs no digits.
    """
    xp = namespace(x=x)
    x = xp.astype(x, statistics_dtype(x, xp))
    others = tuple(i for i in range(x.ndim) if i != axis)
    within = tuple(i for i in others if i != sample_axis)
    low, high = xp.min(x, axis=others), xp.max(x, axis=others)
    large = constant(xp.maximum(high, -low)) > float(xp.finfo(x.dtype).max) / LARGE
    unit = xp.where(large, xp.full_like(low, LARGE), xp.ones_like(low))
    x = x / along(unit, axis, x.ndim, xp)
    pivot = _finite(constant(low / unit / 2 + high / unit / 2), xp)
    pivot = pivot + _finite(constant(xp.mean(x - along(pivot, axis, x.ndim, xp), axis=others)), xp)
    deviation = x - along(pivot, axis, x.ndim, xp)
    if sample_axis is None or not within:
        mean, sample_m2 = xp.mean(deviation, axis=others), None
    else:
        means = xp.mean(deviation, axis=within)
        means = means if sample_axis < axis else xp.permute_dims(means, (1, 0))
        first = _finite(constant(means[0, :]), xp)
        mean = first + xp.mean(means - first, axis=0)  # of equal numbers it is exact
        sample_m2 = xp.sum((means - mean) ** 2, axis=0)
    deviation = deviation - along(mean, axis, x.ndim, xp)
    m2 = xp.sum(deviation * deviation, axis=others)
    m2 = m2 * unit * unit
    return (pivot + mean) * unit, m2, low, high, m2 if sample_m2 is None else sample_m2 * unit * unit


def _finite(x: Array, xp: Any) -> Array:
    return xp.where(xp.isfinite(x), x, xp.zeros_like(x))


def affine(x: Array, axis: int, pivot: Array, a: Array, b: Array) -> Array:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    xp = namespace(x=x)
    wide = at_least_single(x, xp)
    pivot, a, b = (along(xp.astype(v, wide.dtype), axis, x.ndim, xp) for v in (pivot, a, b))
    return xp.astype((wide - pivot) * a + b, x.dtype)
