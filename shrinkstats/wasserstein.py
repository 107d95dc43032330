"""How far two sets of statistics are apart, and what to expect of a blend."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np
from array_api_compat import is_dask_array

from shrinkstats._arrays import (
    Array,
    Namespace,
    can_look,
    constant,
    device_of,
    is_torch_array,
    namespace,
    positive_number,
    root,
    statistics_dtype,
)
from shrinkstats._first_use import undisturbed
from shrinkstats.prior import weights
from shrinkstats.values import Moments, Statistics, as_pair

Pair = Statistics | Moments

NEAR, FINE = 28, 0.25
"""The search looks at N = n exp(u) for u from -NEAR to NEAR first, so far apart,"""
FAR, COARSE = 700, 1.0
"""and where numbers are of very different size, up to FAR."""
ALIKE = 1e9
"""Ratios up to which the best N is near."""
POINTS, STEPS = 7, 16
"""Each step looks at so many points, and keeps the stretch between the neighbours of the best: a quarter."""
BLOCK = 2**13
"""Numbers looked at at a time."""


def wasserstein2(a: Pair, b: Pair, *, normalized: bool = False) -> Array:
    r"""SQUARED 2-Wasserstein distance per channel between normal distributions with these statistics.

    :math:`W_2^2 = (m_a - m_b)^2 + (\sigma_a - \sigma_b)^2`. Take the square root for the distance itself.

    Parameters
    ----------
    a, b : Statistics or Moments
        Vectors of shape (..., c) with the same c; leading axes broadcast.
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
        Statistics of the training data, and the true ones of the data to adapt to; vectors of shape (..., c)
        with the same c; leading axes broadcast.
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
    alpha = positive_number("alpha", alpha)
    if alpha >= 1:
        raise ValueError(f"alpha must be below 1, got {alpha:g}")
    return 2 * float(_scipy().gammaincinv((n - 1) / 2, alpha / 2)) if n > 1 else 0.0


@cache
@undisturbed()
def _scipy() -> Any:
    import scipy.special

    return scipy.special


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
    # sd_t^5 X^(-3/2) (n / (N + n))^2 as var_t r^(3/2) own^(1/2), where r = own var_t / X is n / q at most.
    part = own * target.var
    certain = (part == 0) | (n == 1)
    smallest = weight * source.var + own * (q / n) * target.var
    ratio = xp.where(certain, xp.zeros_like(smallest), part) / xp.where(certain, xp.ones_like(smallest), smallest)
    return lower, lower + target.var * (ratio * root(ratio, xp)) * (root(own, xp) * ((n - 1) / n / 2 / n))


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
        precision), also for ratios of variances up to 1e300. Without float64 (JAX, unless it is switched on) three
        digits are right at best, and a large N may stand for infinity. No gradient flows through the search.

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
    with np.errstate(over="ignore", invalid="ignore"):  # bounds, and strengths, beyond the range
        return search(*vectors)


def _search(mean_s: Array, var_s: Array, mean_t: Array, var_t: Array, *, n: float, q: float, bound: str) -> Array:
    """The best strengths for statistics of one shape; of ordinary arrays a block at a time, to keep them in a cache."""
    vectors = (mean_s, var_s, mean_t, var_t)
    xp = namespace(x=mean_s)
    dtype = xp.result_type(*vectors)
    # The bottom of a valley is flat: in single precision the search would see but three digits of N.
    wide = statistics_dtype(xp.astype(mean_s, dtype), xp)
    flat = [constant(xp.reshape(v, (-1,))) for v in vectors]
    flat = [xp.astype(v, wide) for v in flat]
    kernel = partial(_search_block, n=n, q=q, bound=bound, xp=xp)
    far = _apart(*flat, n=n, q=q, xp=xp)
    if not can_look(mean_s):
        found = kernel(*flat, far=far)
    elif not bool(xp.any(far)):
        found = _in_blocks(kernel, flat, None, xp)
    else:  # the far grid takes its time: only where it is worth it
        parts = [xp.nonzero(~far)[0], xp.nonzero(far)[0]]
        found = xp.concat(
            [
                _in_blocks(kernel, [xp.take(v, part) for v in flat], xp.take(far, part) if i else None, xp)
                for i, part in enumerate(parts)
            ]
        )
        found = xp.take(found, xp.argsort(xp.concat(parts)))
    return xp.astype(xp.reshape(found, mean_s.shape), dtype)


def _apart(mean_s: Array, var_s: Array, mean_t: Array, var_t: Array, *, n: float, q: float, xp: Namespace) -> Array:
    """Whether scales differ by more than the near grid covers."""
    none = xp.full_like(var_s, math.inf)
    scales = [root(var_s, xp), root(var_t, xp), xp.abs(mean_t - mean_s)]
    largest, smallest = xp.zeros_like(var_s), none
    for scale in scales:
        largest = xp.maximum(largest, scale)
        smallest = xp.minimum(smallest, xp.where(scale > 0, scale, none))
    return largest / smallest > math.sqrt(ALIKE / max(n, n / q if q > 0 else n))


def _in_blocks(kernel: Any, vectors: list[Array], far: Array | None, xp: Namespace) -> Array:
    """A few channels at a time, whose numbers stay in a cache."""
    size = vectors[0].shape[0]
    step = BLOCK // POINTS
    pieces = [slice(i, min(i + step, size)) for i in range(0, max(size, 1), step)]
    found = [kernel(*(v[piece] for v in vectors), far=None if far is None else far[piece]) for piece in pieces]
    return xp.concat(found) if len(found) > 1 else found[0]


def _search_block(
    mean_s: Array,
    var_s: Array,
    mean_t: Array,
    var_t: Array,
    *,
    far: Array | None,
    n: float,
    q: float,
    bound: str,
    xp: Namespace,
) -> Array:
    """The best strengths; on the near grid alone where `far` is None."""
    source, target = Statistics(mean_s, var_s), Statistics(mean_t, var_t)

    def at(weight: Any, own: Any) -> Array:
        return _bounds(weight, own, source, target, n, q, xp)[bound == "upper"]

    def value(u: Array) -> Array:
        """The bound at N = n exp(u); infinity where it is none."""
        smaller = xp.exp(-xp.abs(u))
        own = xp.where(u > 0, smaller, xp.ones_like(u)) / (1 + smaller)
        found = at(xp.where(u > 0, xp.ones_like(u), smaller) / (1 + smaller), own)
        return xp.where(xp.isnan(found), xp.full_like(found, math.inf), found)

    def constants(values: list[float]) -> Array:
        return xp.asarray(values, dtype=mean_s.dtype, device=device_of(mean_s))[:, None]

    zero = xp.zeros_like(mean_s)
    size, look = mean_s.shape[0], can_look(mean_s)
    grid = [i * FINE for i in range(round(-NEAR / FINE), round(NEAR / FINE) + 1)]
    if far is not None:
        beyond = [NEAR + COARSE * (i + 1) for i in range(round((FAR - NEAR) / COARSE))]
        grid = [*(-u for u in reversed(beyond)), *grid, *beyond]
    # The bound may have several valleys: the grid over log(N/n) first.
    best, least = zero, zero + math.inf
    step = max(BLOCK // max(size, 1), 1) if look else max(256 * BLOCK // max(size, 1), 64)
    for i in range(0, len(grid), step):
        points = constants(grid[i : i + step])
        found = value(points)
        if far is not None:
            found = xp.where(far | (xp.abs(points) <= NEAR), found, zero + math.inf)
        lowest = xp.min(found, axis=0)
        where = xp.take(points[:, 0], xp.argmin(found, axis=0))
        best, least = xp.where(lowest < least, where, best), xp.minimum(least, lowest)
    # Then smaller and smaller stretches between the neighbours of the best point.
    half = xp.where(xp.abs(best) < NEAR, zero + FINE, zero + COARSE)
    offsets = constants([2 * (i + 1) / (POINTS + 1) - 1 for i in range(POINTS)])
    for _ in range(STEPS):
        lowest = xp.argmin(value(best + half * offsets), axis=0)
        best = best + half * xp.take(offsets[:, 0], lowest)
        half = half * (2 / (POINTS + 1))
    inside, none, all_ = value(best), at(zero, zero + 1), at(zero + 1, zero)
    strength = xp.where(none <= inside, zero, n * xp.exp(best))
    strength = xp.where(all_ < xp.minimum(none, inside), zero + math.inf, strength)
    return xp.where(xp.isnan(at(zero + 0.5, zero + 0.5)), zero + math.nan, strength)
