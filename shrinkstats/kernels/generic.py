"""The passes as plain array operations: any array library, differentiable where the library is."""

from __future__ import annotations

from shrinkstats._arrays import Array, at_least_single, namespace, statistics_dtype


def along(vector: Array, axis: int, ndim: int, xp: object) -> Array:
    """A vector of channels, shaped to broadcast along `axis` of an array of `ndim` axes."""
    shape = [1] * ndim
    shape[axis] = vector.shape[0]
    return xp.reshape(vector, tuple(shape))  # type: ignore[attr-defined]


def moments(x: Array, axis: int, sample_axis: int | None) -> tuple[Array, Array, Array, Array, Array]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means."""
    xp = namespace(x=x)
    x = xp.astype(x, statistics_dtype(x, xp))
    others = tuple(i for i in range(x.ndim) if i != axis)
    within = tuple(i for i in others if i != sample_axis)
    if sample_axis is None or not within:
        mean = xp.mean(x, axis=others)
        deviation = x - along(mean, axis, x.ndim, xp)
        sample_m2 = m2 = xp.sum(deviation * deviation, axis=others)
    else:
        means = xp.mean(x, axis=within)
        means = means if sample_axis < axis else xp.permute_dims(means, (1, 0))
        mean = xp.mean(means, axis=0)
        deviation = x - along(mean, axis, x.ndim, xp)
        m2 = xp.sum(deviation * deviation, axis=others)
        sample_m2 = xp.sum((means - mean) ** 2, axis=0)
    return mean, m2, xp.min(x, axis=others), xp.max(x, axis=others), sample_m2


def affine(x: Array, axis: int, pivot: Array, a: Array, b: Array) -> Array:
    """``a (x - pivot) + b`` per channel, of x's dtype. The pivot, near the data, keeps float32 exact far from zero."""
    xp = namespace(x=x)
    wide = at_least_single(x, xp)
    pivot, a, b = (along(xp.astype(v, wide.dtype), axis, x.ndim, xp) for v in (pivot, a, b))
    return xp.astype((wide - pivot) * a + b, x.dtype)
