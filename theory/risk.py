"""Exact risks of James-Stein estimators of a normal mean."""

from __future__ import annotations

import math
import operator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, gammainc, gammaln, roots_legendre, xlogy

from shrinkstats._arrays import positive_number

Vector = NDArray[np.float64]

NEGLIGIBLE = 42.0  # exp(-42) is below double precision


def james_stein_risk(
    dim: int, radius: ArrayLike, *, df: float | None = None, positive_part: bool = False
) -> float | Vector:
    r"""Expected squared error of the James-Stein estimate of a normal mean, in units of one coordinate's variance.

    For :math:`X \sim N(\theta, I_c)` with :math:`r = \|\theta - t\|` the risk is

    .. math:: c - (c-2)^2\, E\,\frac{1}{c - 2 + 2K}, \qquad K \sim \mathrm{Poisson}(r^2/2),

    where the sample mean's is c. With the variance estimated on `df` degrees of freedom (and the factor
    df/(df+2) in the estimate) the second term is multiplied by df/(df+2). Below 3 dimensions nothing is shrunk.

    Parameters
    ----------
    dim : int
        c, at least 1.
    radius : float or array of any shape
        r, the distance of the true mean from the target in standard deviations of one coordinate.
    df : float, optional
        Degrees of freedom of an independent estimate of the variance; None if it is known.
    positive_part : bool
        For the positive-part estimate (the default of :func:`shrinkstats.james_stein`).

    Returns
    -------
    float or array of the shape of `radius`
        NaN where the radius is NaN. The integral and the series behind it are carried to double precision:
        relative errors stay below 1e-12.

    Raises
    ------
    ValueError
        If `dim` is below 1, a radius is negative or `df` is not positive.

    Notes
    -----
    The expectation is the integral :math:`\int_0^1 t^{c-3} e^{-r^2 (1 - t^2)/2}\,dt`, by Gauss-Legendre
    quadrature. The positive part changes the loss only where :math:`S = \|X - t\|^2` is below
    :math:`b = (c-2)\hat v`; by Stein's identity the difference of the risks is
    :math:`E[(S - 2c + (2(c-2)b - b^2)/S)\,1(S < b)]`, a Poisson mixture of incomplete gamma functions (of
    incomplete beta functions if the variance is estimated).

    References
    ----------
    James & Stein (1961), "Estimation with quadratic loss". Baranchik (1964) for the positive part. Stein (1981)
    for the identity.

    Examples
    --------
    >>> from shrinkstats.theory import james_stein_risk
    >>> james_stein_risk(10, 0.0)
    2.0
    >>> print(james_stein_risk(10, [0.0, 3.0, 30.0], positive_part=True).round(4))
    [1.2577 5.8574 9.9294]
    """
    dim = operator.index(dim)
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if df is not None:
        df = positive_number("df", df)
    r = np.asarray(radius, dtype=np.float64)
    if np.any(r < 0):
        raise ValueError(f"radius must not be negative, got {np.min(r):g}")
    risk = np.array([_risk(dim, float(value), df, positive_part) for value in r.ravel()]).reshape(r.shape)
    return risk if r.ndim else float(risk)


def _risk(dim: int, radius: float, df: float | None, positive_part: bool) -> float:
    if math.isnan(radius):
        return math.nan
    if dim < 3:
        return float(dim)
    if math.isinf(radius):
        return float(dim)
    rate = radius * radius / 2
    gain = 1.0 if df is None else df / (df + 2)
    # 1 - (c - 2) E 1/(c - 2 + 2K) = r^2 E 1/(c + 2K): with it nothing cancels near the target.
    risk = dim - gain * (dim - 2) + gain * (dim - 2) * 2 * rate * _mean_inverse(dim + 2, rate)
    return risk + _positive_part_gain(dim, rate, df) if positive_part else risk


@lru_cache(maxsize=1)
def _nodes() -> tuple[Vector, Vector]:
    """Gauss-Legendre on [0, 1] in panels that halve towards 0: few nodes each, which are exact to the last digit."""
    x, weights = roots_legendre(24)
    ends = np.concatenate([[0.0], 0.5 ** np.arange(5, -1, -1)])
    width = np.diff(ends)[:, None]
    return (ends[:-1, None] + width * (x + 1) / 2).ravel(), (width / 2 * weights).ravel()


def _mean_inverse(dim: int, rate: float) -> float:
    """E 1/(c - 2 + 2K), K ~ Poisson(rate): the integral of t^(c-3) exp(-rate (1 - t^2)) over [0, 1]."""
    nodes, weights = _nodes()
    # With u = 1 - t the integrand falls off at least like exp(-(c - 3 + rate) u).
    length = min(1.0, NEGLIGIBLE / max(dim - 3 + rate, NEGLIGIBLE))
    u = length * nodes
    return float(length * np.sum(weights * np.exp(xlogy(dim - 3, 1 - u) - rate * u * (2 - u))))


def _positive_part_gain(dim: int, rate: float, df: float | None) -> float:
    """Risk of the positive part minus that of the plain estimate: a sum over K ~ Poisson(rate)."""
    half = 12 * math.sqrt(rate) + 60
    first = max(0, math.floor(rate - half))
    if first > 50 * (dim + 50):  # P(S < b) is then below any double
        return 0.0
    k = np.arange(first, math.ceil(rate + half) + 1)
    log_weight = xlogy(k, rate) - rate - gammaln(k + 1)
    p = dim / 2 + k  # S given K is chi-square with 2p degrees of freedom
    a = dim - 2.0
    if df is None:
        expected = 2 * p * gammainc(p + 1, a / 2) - 2 * dim * gammainc(p, a / 2)
        expected += a * a / (2 * p - 2) * gammainc(p - 1, a / 2)
    else:  # S < slope W with W chi-square on df degrees of freedom: S / (S + W) is a beta variable
        slope, q = a / (df + 2), df / 2
        x = slope / (1 + slope)
        expected = 2 * p * betainc(p + 1, q, x) - 2 * dim * betainc(p, q, x)
        expected += 2 * a * slope * df / (2 * p - 2) * betainc(p - 1, q + 1, x)
        expected -= slope**2 * df * (df + 2) / (2 * p - 2) * betainc(p - 1, q + 2, x)
    return float(np.sum(np.exp(log_weight) * expected))
