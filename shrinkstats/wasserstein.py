"""How far two sets of statistics are apart, and what to expect of a blend."""

from __future__ import annotations

import math

import numpy as np

from shrinkstats._arrays import Array, Namespace, check_channels, positive_number, statistics_dtype
from shrinkstats.moments import Moments, Statistics, as_pair
from shrinkstats.prior import prior_weight

Pair = Statistics | Moments


def wasserstein2(a: Pair, b: Pair, *, normalized: bool = False) -> Array:
    r"""SQUARED 2-Wasserstein distance per channel between normal distributions with these statistics.

    :math:`W_2^2 = (m_a - m_b)^2 + (\sigma_a - \sigma_b)^2`. Take the square root for the distance itself.

    Parameters
    ----------
    a, b : Statistics or Moments
        Vectors of shape (..., c).
    normalized : bool
        Divide by the variance of `a`: distances in units of its standard deviation, squared.

    Returns
    -------
    array of shape (..., c)
        Of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If shapes do not match or a variance is negative.
    TypeError
        If the statistics are not pairs of real arrays of one library.

    References
    ----------
    Schneider, Rusak et al. (2020), section 4 and appendix; Dowson & Landau (1982) for normal distributions.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> shrinkstats.wasserstein2(Statistics(np.zeros(2), np.ones(2)), Statistics(np.array([0.5, 3]), np.full(2, 0.25)))
    array([0.5 , 9.25])
    """
    xp, a, b = as_pair(a=a, b=b)
    mean, sd = a.mean - b.mean, xp.sqrt(a.var) - xp.sqrt(b.var)
    if normalized:
        unit = xp.sqrt(a.var)
        mean, sd = mean / unit, sd / unit
    return mean * mean + sd * sd


def wasserstein_bounds(
    source: Pair, target: Pair, *, n: float, strength: Array | float, alpha: float = 0.05
) -> tuple[Array, Array]:
    r"""Bounds on the expected squared W2 between the target and a blend estimated from n of its samples.

    With N the strength and q the alpha/2 quantile of chi-square with n - 1 degrees of freedom,

    .. math::

        L &= \Bigl(\sigma_t - \sqrt{\tfrac{N}{N+n} \sigma_s^2 + \tfrac{n-1}{N+n} \sigma_t^2}\Bigr)^2
             + \tfrac{N^2}{(N+n)^2} (m_t - m_s)^2 + \tfrac{n}{(N+n)^2} \sigma_t^2, \\
        U &= L + \sigma_t^5 \tfrac{n-1}{2 (N+n)^2}
             \Bigl(\tfrac{N}{N+n} \sigma_s^2 + \tfrac{q}{N+n} \sigma_t^2\Bigr)^{-3/2}.

    Parameters
    ----------
    source, target : Statistics or Moments
        Statistics of the training data, and the true ones of the data to adapt to; vectors of shape (..., c).
    n : float
        Samples in the batch, at least 1. A single sample has no variance to be uncertain of: both bounds agree.
    strength : float or array broadcastable to the vectors
        N, from 0 to infinity.
    alpha : float
        Between 0 and 1: the upper bound holds with probability 1 - alpha.

    Returns
    -------
    lower, upper : array of shape (..., c)
        Of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If shapes do not match, a variance or `strength` is negative, `n` is below 1 or `alpha` out of range.
    TypeError
        If the statistics are not pairs of real arrays of one library.

    References
    ----------
    Schneider, Rusak et al. (2020), Proposition 1.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> source, target = Statistics(np.zeros(1), np.ones(1)), Statistics(np.array([0.5]), np.array([0.25]))
    >>> lower, upper = shrinkstats.wasserstein_bounds(source, target, n=8, strength=1)
    >>> print(lower.round(4), upper.round(4))
    [0.0306] [0.0521]
    """
    xp, source, target = as_pair(source=source, target=target)
    n = positive_number("n", n, minimum=1)
    weight = prior_weight(strength, n, xp, like=source.mean)
    check_channels(source=source.mean, strength=weight)
    return _bounds(weight, source, target, n, _quantile(n, alpha), xp)


def _quantile(n: float, alpha: float) -> float:
    from scipy.special import chdtri

    alpha = positive_number("alpha", alpha)
    if alpha >= 1:
        raise ValueError(f"alpha must be below 1, got {alpha:g}")
    return float(chdtri(n - 1, 1 - alpha / 2)) if n > 1 else 0.0


def _bounds(
    weight: Array, source: Statistics, target: Statistics, n: float, q: float, xp: Namespace
) -> tuple[Array, Array]:
    """Prop. 1 in terms of the prior's weight N / (N + n), finite from N = 0 to infinity."""
    own = 1 - weight
    blended = weight * source.var + own * ((n - 1) / n) * target.var
    deviation = xp.sqrt(target.var) - xp.sqrt(blended)
    shift = weight * (target.mean - source.mean)
    lower = deviation * deviation + shift * shift + own * own / n * target.var
    # sd_t^5 X^(-3/2) as var_t (var_t / X)^(3/2), which overflows only where the bound does.
    certain = (target.var == 0) | (own == 0) | (n == 1)
    smallest = weight * source.var + own * (q / n) * target.var
    ratio = xp.where(certain, xp.zeros_like(smallest), target.var) / xp.where(certain, xp.ones_like(smallest), smallest)
    return lower, lower + target.var * ratio**1.5 * (own * own * ((n - 1) / (2 * n * n)))


def best_strength(source: Pair, target: Pair, *, n: float, bound: str = "upper", alpha: float = 0.05) -> Array:
    """The strength N at which a bound of :func:`wasserstein_bounds` is lowest, per channel.

    Parameters
    ----------
    source, target, n, alpha
        As in :func:`wasserstein_bounds`.
    bound : {"upper", "lower"}
        Which bound to minimize.

    Returns
    -------
    array of shape (..., c)
        N from 0 to infinity, to a relative accuracy of about 1e-7 (that of the minimum of a function in double
        precision). No gradient flows through the search.

    Raises
    ------
    ValueError
        As :func:`wasserstein_bounds`, and if `bound` is neither.
    TypeError
        As :func:`wasserstein_bounds`.

    References
    ----------
    Schneider, Rusak et al. (2020), section 6 and Proposition 1.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> source, target = Statistics(np.zeros(1), np.ones(1)), Statistics(np.array([0.5]), np.array([0.25]))
    >>> print(shrinkstats.best_strength(source, target, n=8).round(3))
    [1.445]
    """
    if bound not in ("upper", "lower"):
        raise ValueError(f'bound must be "upper" or "lower", got {bound!r}')
    xp, source, target = as_pair(source=source, target=target)
    n = positive_number("n", n, minimum=1)
    q = _quantile(n, alpha)
    zero = 0 * (source.mean + target.mean + source.var + target.var)
    # The bottom of a valley is flat: in single precision the search would see but three digits of N.
    dtype, wide = zero.dtype, statistics_dtype(zero, xp)
    zero, *vectors = (xp.astype(v, wide) for v in (zero, *source, *target))
    source, target = Statistics(*vectors[:2]), Statistics(*vectors[2:])

    def value(weight: Array) -> Array:
        return _bounds(weight, source, target, n, q, xp)[bound == "upper"]

    # The bound may have several valleys: a grid over log(N/n) first, then finer grids around the best point.
    best, half, points = zero, 28.0, 281
    while half > 1e-9:
        grid = [best + half * (2 * i / (points - 1) - 1) for i in range(points)]
        values = xp.stack([value(1 / (1 + xp.exp(-u))) for u in grid], axis=0)
        index = xp.astype(xp.argmin(values, axis=0), zero.dtype)
        best = best + half * (2 * index / (points - 1) - 1)
        half, points = 2 * half / (points - 1) * 2, 21
    inside = value(1 / (1 + xp.exp(-best)))
    none, all_ = value(zero), value(zero + 1)
    strength = xp.where(none <= inside, zero, n * xp.exp(best))
    strength = xp.where(all_ < xp.minimum(none, inside), zero + math.inf, strength)
    return xp.astype(xp.where(xp.isnan(inside), zero + np.nan, strength), dtype)
