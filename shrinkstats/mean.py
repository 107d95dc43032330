"""James-Stein estimates of a vector of means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shrinkstats._arrays import (
    Array,
    Namespace,
    as_real,
    at_least_single,
    check_vector,
    constant,
    namespace,
    nonnegative,
)


class Shrunk(NamedTuple):
    """A shrunken vector and how much of the original is left in it.

    Attributes
    ----------
    estimate : array of shape (..., c)
        target + factor (mean - target).
    factor : array of shape (...)
        The shrinkage factor: 1 keeps the sample mean, 0 replaces it by the target.
    """

    estimate: Array
    factor: Array


def unit_scale(x: Array, xp: Namespace) -> Array:
    """A power of two near the largest entry: dividing by it is exact, and squares stay in range."""
    size = constant(xp.max(xp.abs(x), axis=-1, keepdims=True))
    ordinary = (size > 0) & xp.isfinite(size)
    power = xp.floor(xp.log2(xp.where(ordinary, size, xp.ones_like(size))))
    last = xp.full_like(power, _last(x, xp))  # the logarithm of the largest number is rounded up
    return 2.0 ** xp.where(power > last, last, power)


def finite(x: Array, xp: Namespace) -> Array:
    """x, whose infinities count as the largest numbers there are."""
    largest = xp.full_like(x, xp.finfo(x.dtype).max)
    return xp.where(xp.isinf(x), xp.where(x > 0, largest, -largest), x)


def factor_from(amount: Array, squares: Array, xp: Namespace) -> Array:
    """1 - amount / squares, cut off at 0; 0 where squares is 0 (everything sits on the target); NaN stays NaN."""
    nothing = (squares == 0) | (amount > squares)
    factor = 1 - amount / xp.where(nothing, xp.ones_like(squares), squares)
    return xp.where(nothing, xp.zeros_like(factor), factor)


def shrinkage_factor(
    deviation: Array,
    noise: Array,
    amount: Callable[[Array], Array],
    xp: Namespace,
    *,
    positive_part: bool = True,
) -> Array:
    """1 - amount(noise) / sum of squared deviations, where amount is linear; no intermediate over- or underflows."""
    noise = finite(noise, xp)
    scale, unit = unit_scale(deviation, xp), unit_scale(noise, xp)
    d = deviation / scale
    squares = xp.sum(d * d, axis=-1)
    amounts = amount(noise / unit)
    nothing = (squares == 0) & ~xp.isnan(amounts)
    ratio = amounts / xp.where(nothing, xp.ones_like(squares), squares)
    # Times unit / scale^2, a power of two, which may leave the range: in two steps.
    power = (xp.log2(unit) - 2 * xp.log2(scale))[..., 0]
    half = xp.floor(power / 2)
    one, other = _power_of_two(half, xp), _power_of_two(power - half, xp)
    if positive_part:
        nothing = nothing | (ratio * one > 1 / other)
        ratio = xp.where(nothing, xp.zeros_like(ratio), ratio)
    factor = 1 - ratio * one * other
    return xp.where(nothing, xp.zeros_like(factor), factor)


def _power_of_two(power: Array, xp: Namespace) -> Array:
    """Within the range, and so that a million of it are, and its inverse."""
    last = xp.full_like(power, _last(power, xp) - 23)
    return 2.0 ** xp.where(power > last, last, xp.where(power < -last, -last, power))


def _last(x: Array, xp: Namespace) -> float:
    """The exponent of the largest power of two whose inverse is a normal number: XLA takes others for zero."""
    limits = xp.finfo(x.dtype)
    return float(math.frexp(limits.max)[1] or limits.maxexp) - 2  # as a float, the largest longdouble is infinite


def james_stein(
    mean: Array,
    noise: Array | float,
    *,
    target: Array | float | str = 0.0,
    df: float | None = None,
    positive_part: bool = True,
) -> Shrunk:
    r"""Shrink a vector of sample means towards a target.

    The factor is :math:`1 - (c-2) v / \sum_i d_i^2` with :math:`d = m - t`, its positive part by default.

    Parameters
    ----------
    mean : array of shape (..., c)
        Sample means of c channels. Leading axes are a stack of independent problems.
    noise : float or array broadcastable to `mean`
        Sampling variance of each mean: for n independent observations of variance s2 it is s2 / n,
        not s2. :attr:`Moments.noise` estimates it. Entries may differ (Bock's factor).
    target : float, array broadcastable to `mean`, or "mean"
        Where to shrink to. "mean" is the grand mean of the channels, which costs one more degree of freedom.
    df : float, optional
        Degrees of freedom behind an estimated, common `noise`: it is multiplied by df / (df + 2).
    positive_part : bool
        Cut the factor off at zero, which is never worse.

    Returns
    -------
    Shrunk
        estimate of the shape, dtype, device and kind of `mean`, and factor of shape (...).

    Raises
    ------
    ValueError
        If shapes do not match, or `noise` or `df` is negative.
    TypeError
        If the data are not real numbers, or come from different array libraries.

    Notes
    -----
    With fewer than 3 channels (4 for the grand mean) the factor is 1: there is nothing to borrow from. With
    unequal noise it is :math:`1 - (\sum_i v_i - 2 \max_i v_i)_+ / \sum_i d_i^2`. Deviations that are all zero
    give factor 0.

    References
    ----------
    James & Stein (1961), "Estimation with quadratic loss". Baranchik (1964), the positive part.
    Lindley (1962), the grand mean. Bock (1975), unequal noise.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> shrunk = shrinkstats.james_stein(np.array([1.0, -2.0, 0.5, 3.0]), 0.8)
    >>> print(shrunk.estimate.round(3), shrunk.factor.round(3))
    [ 0.888 -1.775  0.444  2.663] 0.888
    """
    pooled = isinstance(target, str)
    if pooled and target != "mean":
        raise ValueError(f'target must be a number, an array or "mean", got {target!r}')
    xp = namespace(mean=mean, noise=noise, target=None if pooled else target, df=df)
    original = as_real("mean", mean, xp)
    check_vector("mean", original)
    mean = at_least_single(original, xp)
    noise = at_least_single(nonnegative("noise", as_real("noise", noise, xp, like=mean), xp), xp)
    if df is not None:
        df = as_real("df", df, xp, like=mean)
        df = nonnegative("df", df, xp)
        _check_broadcast(mean, df=df)
        known = xp.isinf(df)
        df = xp.where(known, xp.ones_like(df), df)
        noise = noise * xp.where(known, xp.ones_like(df), df / (df + 2))
    target = _average(mean, xp) if pooled else as_real("target", target, xp, like=mean)
    _check_broadcast(mean, noise=noise, target=target)
    estimate, factor = shrink(mean, noise, xp, target=target, pooled=pooled, positive_part=positive_part)
    return Shrunk(xp.astype(estimate, original.dtype), xp.astype(factor, original.dtype))


def shrink(
    mean: Array,
    noise: Array,
    xp: Namespace,
    *,
    target: Array | None = None,
    pooled: bool = False,
    positive_part: bool = True,
) -> Shrunk:
    """`james_stein` on arguments that were checked; without a target towards zero."""
    if mean.shape[-1] < (4 if pooled else 3):
        return Shrunk(mean, xp.ones_like(mean[..., 0]))
    channels = mean.shape[-1]
    # Around the grand mean the deviations have c - 1 degrees of freedom: their covariance has trace
    # (c - 1)/c sum v, and no eigenvalue above max v.
    share = (channels - 1) / channels if pooled else 1.0

    def bock(v: Array) -> Array:
        amount = share * xp.sum(v, axis=-1) - 2 * xp.max(v, axis=-1)
        return xp.where(amount < 0, xp.zeros_like(amount), amount)

    noise = xp.broadcast_to(noise, mean.shape)
    if target is None:
        factor = shrinkage_factor(mean, noise, bock, xp, positive_part=positive_part)
        return Shrunk(factor[..., None] * mean, factor)
    smaller = _smaller(mean, target, xp)  # all that follows is multiplied by it
    deviation = smaller * mean - smaller * target
    factor = shrinkage_factor(deviation, smaller * smaller * noise, bock, xp, positive_part=positive_part)
    f = factor[..., None]
    between = f * mean + (1 - f) * target  # which keeps a mean that lies far from the target
    return Shrunk(xp.where(f >= 0, between, (smaller * target + f * deviation) / smaller), factor)


def _average(mean: Array, xp: Namespace) -> Array:
    """The grand mean; the sum may leave the range."""
    scale, first = unit_scale(mean, xp), mean[..., :1]
    average = scale * xp.mean(mean / scale, axis=-1, keepdims=True)
    equal = xp.all(mean == first, axis=-1, keepdims=True)
    return xp.where(equal, average + constant(first - average), average)  # of equal numbers without rounding


def _smaller(mean: Array, target: Array, xp: Namespace) -> Array:
    """1; a quarter where a difference might leave the range."""
    limit = float(xp.finfo(mean.dtype).max) / 4
    large = xp.any((xp.abs(mean) > limit) | (xp.abs(target) > limit), axis=-1, keepdims=True)
    return xp.where(large, xp.full_like(mean[..., :1], 0.25), xp.ones_like(mean[..., :1]))


def channel_james_stein(mean: Array) -> Shrunk:
    r"""James-Stein as published for batch norm: the noise is taken from the spread between the channels.

    The factor is :math:`1 - \frac{c-2}{c+1}\, c \operatorname{Var}_{channels}(m) / \sum_i m_i^2`, the variance
    biased (ddof=0).

    The spread between channels is not the sampling variance of a mean: as the sample grows the factor does not
    go to 1, so the estimate is not consistent and dominates nothing. It is here to be compared with
    :func:`james_stein`, and because networks with affine weights can absorb the shift.

    Parameters
    ----------
    mean : array of shape (..., c)
        Sample means of c channels. Leading axes are a stack of independent problems.

    Returns
    -------
    Shrunk
        estimate of the shape, dtype, device and kind of `mean`, and factor of shape (...), which lies in
        [3/(c+1), 1]. With fewer than 3 channels the factor is 1; with every mean zero it is 0.

    Raises
    ------
    ValueError
        If `mean` is not a vector of channels.
    TypeError
        If the data are not real numbers.

    References
    ----------
    Reference code of Ivolgina, Fletcher & Vemuri, arXiv 2507.08261, which builds on Khoshsirat & Kambhamettu
    (WACV 2024).

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> print(shrinkstats.channel_james_stein(np.array([0.3, -1.1, 2.0, 0.7, 1.4])).factor.round(4))
    0.6405
    """
    xp = namespace(mean=mean)
    original = as_real("mean", mean, xp)
    check_vector("mean", original)
    estimate, factor = shrink_by_channels(at_least_single(original, xp), xp)
    return Shrunk(xp.astype(estimate, original.dtype), xp.astype(factor, original.dtype))


def shrink_by_channels(mean: Array, xp: Namespace, *, correction: int = 1) -> Shrunk:
    """`channel_james_stein` on arguments that were checked; JSNorm's factor with a correction of 0."""
    channels = mean.shape[-1]
    if channels < 3:
        return Shrunk(mean, xp.ones_like(mean[..., 0]))
    m, spread = _between_channels(mean, xp)
    amount = (channels - 2) / (channels + correction) * xp.sum(spread * spread, axis=-1)
    factor = factor_from(amount, xp.sum(m * m, axis=-1), xp)
    return Shrunk(factor[..., None] * mean, factor)


def pull_by_channels(mean: Array, g: Array, xp: Namespace, *, correction: int = 1) -> Array:
    """The gradient of a loss for the means, from that for the estimate of `shrink_by_channels`."""
    channels = mean.shape[-1]
    if channels < 3:
        return g
    factor = shrink_by_channels(mean, xp, correction=correction).factor[..., None]
    m, spread = _between_channels(mean, xp)
    squares = xp.sum(m * m, axis=-1, keepdims=True)
    push = 2 * xp.sum(g * m, axis=-1, keepdims=True) / xp.where(squares == 0, xp.ones_like(squares), squares)
    return factor * g + push * ((1 - factor) * m - (channels - 2) / (channels + correction) * spread)


def _between_channels(mean: Array, xp: Namespace) -> tuple[Array, Array]:
    """The entries in a unit in which squares are in range, and what they deviate from their average by."""
    m = finite(mean, xp)
    m = m / unit_scale(m, xp)
    return m, m - xp.mean(m, axis=-1, keepdims=True)


def _check_broadcast(mean: Array, **others: Array) -> None:
    for name, x in others.items():
        try:
            fits = np.broadcast_shapes(mean.shape, x.shape) == tuple(mean.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} of shape {tuple(x.shape)} does not broadcast to mean of shape {tuple(mean.shape)}; "
                f"one value per problem of a stack needs a last axis of 1 ({name}[..., None])"
            )
