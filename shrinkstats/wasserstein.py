"""How far two sets of statistics are apart, and what to expect of a blend."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from array_api_compat import is_dask_array

from shrinkstats._arrays import (
    Array,
    Namespace,
    can_look,
    constant,
    is_torch_array,
    namespace,
    positive_number,
    root,
    statistics_dtype,
)
from shrinkstats.moments import Moments, Statistics, as_pair
from shrinkstats.prior import weights

Pair = Statistics | Moments

GRID, SPACING = 112, 0.25
"""The search looks at N = n exp(i SPACING) for i from -GRID to GRID first."""
GOLDEN = (math.sqrt(5) - 1) / 2
ACCURACY = 2e-9
"""Of the logarithm of N."""
BLOCK = 2**14
"""Channels searched at a time."""


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
    mean, sd = a.mean - b.mean, root(a.var, xp) - root(b.var, xp)
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
    return _bounds(*weights(strength, n, xp, source, target), source, target, n, _quantile(n, alpha), xp)


def _quantile(n: float, alpha: float) -> float:
    from scipy.special import gammaincinv

    alpha = positive_number("alpha", alpha)
    if alpha >= 1:
        raise ValueError(f"alpha must be below 1, got {alpha:g}")
    return 2 * float(gammaincinv((n - 1) / 2, alpha / 2)) if n > 1 else 0.0


def _bounds(
    weight: Array, own: Array, source: Statistics, target: Statistics, n: float, q: float, xp: Namespace
) -> tuple[Array, Array]:
    """Prop. 1 in terms of the weights N / (N + n) and n / (N + n), finite from N = 0 to infinity."""
    blended = weight * source.var + own * ((n - 1) / n) * target.var
    # sd_t - sd of the blend, of which a large N leaves but a few digits, as a difference of variances over a sum.
    sd, both = root(blended, xp), target.var > 0
    total = xp.where(both, root(target.var, xp) + sd, xp.ones_like(sd))
    deviation = xp.where(both, (weight * (target.var - source.var) + own / n * target.var) / total, -sd)
    shift = weight * (target.mean - source.mean)
    lower = deviation * deviation + shift * shift + own * own / n * target.var
    # sd_t^5 X^(-3/2) as var_t (var_t / X)^(3/2), which overflows only where the bound does.
    certain = (target.var == 0) | (own == 0) | (n == 1)
    smallest = weight * source.var + own * (q / n) * target.var
    ratio = xp.where(certain, xp.zeros_like(smallest), target.var) / xp.where(certain, xp.ones_like(smallest), smallest)
    return lower, lower + target.var * (ratio * root(ratio, xp)) * (own * own * ((n - 1) / (2 * n * n)))


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
    if not isinstance(bound, str) or bound not in ("upper", "lower"):
        raise ValueError(f'bound must be "upper" or "lower", got {bound!r}')
    xp, source, target = as_pair(source=source, target=target)
    n = positive_number("n", n, minimum=1)
    search = partial(_search, n=n, q=_quantile(n, alpha), bound=bound)
    vectors = xp.broadcast_arrays(*source, *target)
    if not is_torch_array(vectors[0]) and is_dask_array(vectors[0]):
        return xp.map_blocks(search, *vectors, dtype=xp.result_type(*vectors), meta=vectors[0]._meta)
    return search(*vectors)


def _search(mean_s: Array, var_s: Array, mean_t: Array, var_t: Array, *, n: float, q: float, bound: str) -> Array:
    """The best strengths for statistics of one shape; of ordinary arrays a block at a time, to keep them in a cache."""
    vectors = (mean_s, var_s, mean_t, var_t)
    xp = namespace(x=mean_s)
    dtype = xp.result_type(*vectors)
    # The bottom of a valley is flat: in single precision the search would see but three digits of N.
    wide = statistics_dtype(xp.astype(mean_s, dtype), xp)
    flat = [constant(xp.reshape(v, (-1,))) for v in vectors]
    size = flat[0].shape[0]
    step = BLOCK if can_look(mean_s) else max(size, 1)
    found = [
        _search_block(*(xp.astype(v[i : min(i + step, size)], wide) for v in flat), n=n, q=q, bound=bound, xp=xp)
        for i in range(0, max(size, 1), step)
    ]
    return xp.astype(xp.reshape(xp.concat(found) if len(found) > 1 else found[0], mean_s.shape), dtype)


def _search_block(
    mean_s: Array, var_s: Array, mean_t: Array, var_t: Array, *, n: float, q: float, bound: str, xp: Namespace
) -> Array:
    source, target = Statistics(mean_s, var_s), Statistics(mean_t, var_t)

    def at(weight: Any, own: Any) -> Array:
        return _bounds(weight, own, source, target, n, q, xp)[bound == "upper"]

    def value(u: Array) -> Array:
        """The bound at N = n exp(u)."""
        smaller = xp.exp(-xp.abs(u))
        own = xp.where(u > 0, smaller, xp.ones_like(u)) / (1 + smaller)
        return at(xp.where(u > 0, xp.ones_like(u), smaller) / (1 + smaller), own)

    # The bound may have several valleys: a grid over log(N/n) first.
    zero = xp.zeros_like(mean_s)
    one_zero = zero[: min(zero.shape[0], 1)]
    best, least = zero, zero + math.inf
    for i in range(-GRID, GRID + 1):
        smaller = math.exp(-abs(i) * SPACING)
        pair = (1 / (1 + smaller), smaller / (1 + smaller))
        found = at(*(one_zero + v for v in (pair if i > 0 else pair[::-1])))
        best = xp.where(found < least, zero + i * SPACING, best)
        least = xp.where(found < least, found, least)
    # Then a golden section of the stretch between the neighbours of the best point.
    low, high = best - SPACING, best + SPACING
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    width = 2 * SPACING
    while width > ACCURACY:
        lower = at_left < at_right
        low, high = xp.where(lower, low, left), xp.where(lower, right, high)
        new = xp.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = value(new)
        left, right = xp.where(lower, new, right), xp.where(lower, left, new)
        at_left, at_right = xp.where(lower, at_new, at_right), xp.where(lower, at_left, at_new)
        width *= GOLDEN
    best = (low + high) / 2
    inside, none, all_ = value(best), at(zero, zero + 1), at(zero + 1, zero)
    strength = xp.where(none <= inside, zero, n * xp.exp(best))
    strength = xp.where(all_ < xp.minimum(none, inside), zero + math.inf, strength)
    return xp.where(xp.isnan(inside), zero + math.nan, strength)
