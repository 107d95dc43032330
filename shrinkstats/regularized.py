"""The regularized baselines that Stein estimates are compared with: ridge and soft threshold."""

from __future__ import annotations

import math

import numpy as np

from shrinkstats._arrays import Array, Namespace, namespace, positive_number
from shrinkstats.values import Moments, Statistics, as_statistics

STRENGTH = 1e-3
"""The published lambda."""

TINY = float(np.finfo(np.float64).tiny)


def ridge(batch: Statistics | Moments, *, n: float, strength: float = STRENGTH) -> Statistics:
    r"""Ridge estimates: mean :math:`m N/(N + \lambda)`, variance :math:`s^2/(1 + \lambda)`.

    Parameters
    ----------
    batch : Statistics or Moments
        Sample statistics, vectors of shape (..., c).
    n : float
        N, the observations behind each mean.
    strength : float
        lambda, at least 0.

    Returns
    -------
    Statistics
        Vectors of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If `n` is not positive, or `strength` or a variance is negative.
    TypeError
        If the statistics are not a pair of real arrays.

    References
    ----------
    Ivolgina, Fletcher & Vemuri, arXiv 2507.08261, the baselines of its experiments (lambda = 1e-3).

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> shrinkstats.ridge(shrinkstats.Statistics(np.array([1.0]), np.array([3.0])), n=4, strength=1.0)
    Statistics(mean=array([0.8]), var=array([1.5]))
    """
    batch, n, strength = _checked(batch, n, strength)
    with np.errstate(invalid="ignore"):  # of infinity times a weight too small to be represented
        found = ridge_statistics(batch, n, strength)
    if math.isinf(n + strength):
        n, strength = n / 2, strength / 2
        found = found._replace(mean=ridge_statistics(batch, n, strength).mean)
    if n / (n + strength) < TINY:  # digits are lost, but a mean may be large
        found = found._replace(mean=batch.mean / (n + strength) * n)
    return found


def ridge_statistics(batch: Statistics, n: float, strength: float) -> Statistics:
    """`ridge` on arguments that were checked."""
    return Statistics(batch.mean * (n / (n + strength)), batch.var / (1 + strength))


def soft_threshold(batch: Statistics | Moments, *, n: float, strength: float = STRENGTH) -> Statistics:
    r"""Lasso estimates: the mean soft-thresholded at :math:`\lambda/(2N)`, the variance at :math:`\lambda/2`.

    Parameters
    ----------
    batch : Statistics or Moments
        Sample statistics, vectors of shape (..., c).
    n : float
        N, the observations behind each mean.
    strength : float
        lambda, at least 0.

    Returns
    -------
    Statistics
        Vectors of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If `n` is not positive, or `strength` or a variance is negative.
    TypeError
        If the statistics are not a pair of real arrays.

    References
    ----------
    Ivolgina, Fletcher & Vemuri, arXiv 2507.08261, the baselines of its experiments (lambda = 1e-3).

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> shrinkstats.soft_threshold(shrinkstats.Statistics(np.array([-1.0]), np.array([3.0])), n=4, strength=1.0)
    Statistics(mean=array([-0.875]), var=array([2.5]))
    """
    batch, n, strength = _checked(batch, n, strength)
    return lasso_statistics(batch, n, strength, namespace(batch=batch.mean))


def lasso_statistics(batch: Statistics, n: float, strength: float, xp: Namespace) -> Statistics:
    """`soft_threshold` on arguments that were checked."""

    def soft(x: Array, threshold: float) -> Array:
        excess = xp.abs(x) - threshold
        kept = xp.where(excess < 0, xp.zeros_like(excess), excess)
        return xp.where(x < 0, -kept, kept)

    return Statistics(soft(batch.mean, strength / 2 / n), soft(batch.var, strength / 2))


def _checked(batch: Statistics | Moments, n: float, strength: float) -> tuple[Statistics, float, float]:
    strength = positive_number("strength", strength, zero=True)
    return as_statistics("batch", batch), positive_number("n", n), strength
