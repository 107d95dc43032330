"""Exact risks of James-Stein estimators of a normal mean, and the lines to compare them with."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, gammainc, gammaln, roots_legendre, xlog1py, xlogy

from shrinkstats._arrays import positive_number
from shrinkstats.theory.arguments import at_least, real

Vector = NDArray[np.float64]

NEGLIGIBLE = 42.0  # exp(-42) is below double precision
CHUNK = 1024  # radii at a time: their nodes fit the cache
LARGEST_CONSTANT = 100.0  # the series grows with it
KNOWN = 1e16  # with as many degrees of freedom an estimate is the variance itself, to double precision

TABLE = 2**18  # entries of a table that is kept
LONGEST = 2**22  # terms of a sum at one radius


def james_stein_risk(
    dim: int,
    radius: ArrayLike,
    *,
    df: float | None = None,
    positive_part: bool = False,
    constant: float = 1.0,
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
        r, the distance of the true mean from the target in standard deviations of one coordinate. At 0 and at
        infinity the risk is exact: 2 for the plain estimate with known variance, and c.
    df : float, optional
        Degrees of freedom of an independent estimate of the variance; None or infinity if it is known.
    positive_part : bool
        For the positive-part estimate (the default of :func:`shrinkstats.james_stein`).
    constant : float
        k, from 0 to 100: c - 2 is multiplied by it in the estimate, and the second term of the risk by k (2 - k). To
        leave out the factor df/(df+2) take (df+2)/df.

    Returns
    -------
    float or array of the shape of `radius`
        NaN where the radius is NaN. Relative errors stay below 1e-14, or 1e-12 with the positive part. There they are
        larger in more than 5,000 dimensions (1e-10 in a million; beyond it no bound is known), and for `df` beyond a
        million (1e-10 at a billion).

    Raises
    ------
    ValueError
        If `dim` is below 1, a radius is negative, `df` is not positive or `constant` out of range; if the positive part
        would take too long, at radii beyond 200,000 in so many dimensions that the target still matters there.

    Notes
    -----
    The expectation is the integral :math:`\int_0^1 t^{c-3} e^{-r^2 (1 - t^2)/2}\,dt`, by Gauss-Legendre
    quadrature. The positive part changes the loss only where :math:`S = \|X - t\|^2` is below
    :math:`b = k (c-2)\hat v`; by Stein's identity the difference of the risks is
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
    dim = check_dimension(dim)
    if df is not None:
        df = positive_number("df", df, infinite=True)
        df = df if df < KNOWN else None
    constant = positive_number("constant", constant, zero=True)
    if constant > LARGEST_CONSTANT:
        raise ValueError(f"constant must be at most {LARGEST_CONSTANT:g}, got {constant:g}")
    r = _radius(radius)
    if dim < 3 or constant == 0:
        risk = np.where(np.isnan(r), np.nan, float(dim))
    else:
        with np.errstate(over="ignore"):
            rate = r.ravel() ** 2 / 2
        near = np.isfinite(rate)  # elsewhere the risk is that of the sample mean to every digit
        risk = np.where(np.isnan(rate), np.nan, float(dim))
        risk[near] = _plain(dim, rate[near], df, constant)
        if positive_part:
            gain = _positive_part_gain(dim, rate[near], df, constant)
            risk[near] = np.maximum(risk[near] + gain, 0)  # a risk of almost nothing may be rounded below it
        risk = risk.reshape(r.shape)
    return risk if r.ndim else float(risk)


def minimax_risk(dim: int) -> float:
    """The smallest worst-case risk of any estimate of a normal mean: c, that of the sample mean.

    Parameters
    ----------
    dim : int
        c, at least 1.

    Returns
    -------
    float
        In units of one coordinate's variance.

    References
    ----------
    Hodges & Lehmann (1950), "Some problems in minimax point estimation".

    Examples
    --------
    >>> from shrinkstats.theory.risk import minimax_risk
    >>> minimax_risk(8)
    8.0
    """
    return float(check_dimension(dim))


def bayes_risk(dim: int, radius: ArrayLike) -> float | Vector:
    r"""Risk of the Bayes estimate where the prior is known: :math:`c r^2 / (c + r^2)`.

    The prior is :math:`\theta \sim N(t, \tau^2 I_c)` with :math:`\tau^2 = r^2/c`, so that the mean squared
    distance of the true mean from the target is :math:`r^2`. It is also the least risk that a fixed factor
    (``target + factor (mean - target)``) can have at a true mean at distance r.

    Parameters
    ----------
    dim : int
        c, at least 1.
    radius : float or array of any shape
        r, in standard deviations of one coordinate.

    Returns
    -------
    float or array of the shape of `radius`
        In units of one coordinate's variance: 0 at radius 0, c at infinity.

    Raises
    ------
    ValueError
        If `dim` is below 1 or a radius is negative.

    References
    ----------
    Efron & Morris (1973), "Stein's estimation rule and its competitors".

    Examples
    --------
    >>> from shrinkstats.theory.risk import bayes_risk
    >>> bayes_risk(8, [0.0, 4.0, float("inf")])
    array([0.        , 5.33333333, 8.        ])
    """
    dim = check_dimension(dim)
    r = _radius(radius)
    with np.errstate(divide="ignore", over="ignore"):
        risk = dim / (1 + (math.sqrt(dim) / r) ** 2)
    return risk if r.ndim else float(risk)


def check_dimension(dim: int) -> int:
    """dim as a whole number, at least 1."""
    return at_least("dim", 1, dim)


def _radius(radius: ArrayLike) -> Vector:
    r = real("radius", radius)
    if np.any(r < 0):
        raise ValueError(f"radius must not be negative, got {np.min(r[r < 0]):g}")
    return r


def _plain(dim: int, rate: Vector, df: float | None, constant: float) -> Vector:
    share, rest = (1.0, 0.0) if df is None else (df / (df + 2), 2 / (df + 2))
    gain = constant * (2 - constant) * share
    loss = (1 - constant) ** 2 + constant * (2 - constant) * rest  # 1 - gain, of which nothing cancels
    # 1 - (c - 2) E 1/(c - 2 + 2K) = r^2 E 1/(c + 2K): with it nothing cancels near the target.
    far = np.empty_like(rate)
    for start in range(0, rate.size, CHUNK):
        part = rate[start : start + CHUNK]
        far[start : start + CHUNK] = 2 * part * _mean_inverse(dim + 2, part)
    return 2 + loss * (dim - 2) + gain * (dim - 2) * far


@lru_cache(maxsize=1)
def _nodes() -> tuple[Vector, Vector]:
    """Gauss-Legendre on [0, 1] in panels that halve towards 0: few nodes each, which are exact to the last digit."""
    x, weights = roots_legendre(24)
    ends = np.concatenate([[0.0], 0.5 ** np.arange(5, -1, -1)])
    width = np.diff(ends)[:, None]
    return (ends[:-1, None] + width * (x + 1) / 2).ravel(), (width / 2 * weights).ravel()


def _mean_inverse(dim: int, rate: Vector) -> Vector:
    """E 1/(c - 2 + 2K), K ~ Poisson(rate): the integral of t^(c-3) exp(-rate (1 - t^2)) over [0, 1]."""
    nodes, weights = _nodes()
    # With u = 1 - t the integrand falls off at least like exp(-(c - 3 + rate) u).
    length = np.minimum(1.0, NEGLIGIBLE / np.maximum(dim - 3 + rate, NEGLIGIBLE))
    u = length[:, None] * nodes
    integral: Vector = length * (np.exp(xlog1py(dim - 3, -u) - rate[:, None] * u * (2 - u)) @ weights)
    return integral


def _positive_part_gain(dim: int, rate: Vector, df: float | None, constant: float) -> Vector:
    """Risk of the positive part minus that of the plain estimate: a sum over K ~ Poisson(rate)."""
    table = _table(dim, df, constant)
    given = _GainGivenK(dim, df, constant)
    gain = np.zeros_like(rate)
    half = 12 * np.sqrt(rate) + 60
    first = np.maximum(rate - half, 0)
    last = rate + half + 1 if table is None else np.minimum(rate + half + 1, table[0].size)
    for i in np.flatnonzero(first < last):
        if table is None:
            if given.negligible_from(first[i]):
                continue
            if last[i] - first[i] > LONGEST:
                raise ValueError(
                    f"the positive part in {dim} dimensions takes too many terms at radius {math.sqrt(2 * rate[i]):g}; "
                    "the plain estimate has the same risk but for some standard deviations of one coordinate"
                )
        k = np.arange(int(first[i]), int(last[i]))
        expected, log_factorial = (given(k), gammaln(k + 1)) if table is None else (v[k] for v in table)
        weight = np.exp(xlogy(k, rate[i]) - rate[i] - log_factorial)
        gain[i] = weight @ expected
    return gain


@lru_cache(maxsize=16)
def _table(dim: int, df: float | None, constant: float) -> tuple[Vector, Vector] | None:
    """The gain for K = 0, 1, 2, ... as long as it counts, and log K! beside it; None if that is long."""
    given, end = _GainGivenK(dim, df, constant), 64
    while not given.negligible_from(end - 1):
        end *= 2
        if end > TABLE:
            return None
    k = np.arange(end)
    return given(k), gammaln(k + 1)


class _GainGivenK:
    """The gain where K is known."""

    def __init__(self, dim: int, df: float | None, constant: float) -> None:
        self.dim, self.df, self.level = dim, df, constant * (dim - 2)
        self.slope = 0.0 if df is None else self.level / (df + 2)  # b = slope W, W chi-square on df degrees of freedom

    def below(self, p: ArrayLike, more: int) -> Vector:
        """P(S < b) for S chi-square on 2p degrees of freedom, `more` pairs of degrees of freedom added to W."""
        if self.df is None:
            return np.asarray(gammainc(p, self.level / 2))
        x = self.slope / (1 + self.slope)  # S / (S + W) is a beta variable
        # Above one half, with many degrees of freedom, betainc loses digits that its complement keeps.
        probability, rest = (f(p, self.df / 2 + more, x) for f in (betainc, betaincc))
        return np.asarray(np.where(rest < 0.5, 1 - rest, probability))

    def negligible_from(self, k: float) -> bool:
        """Whether it adds nothing for this K and larger ones."""
        return bool(self.below(np.asarray(self.dim / 2 + k), 2) * (self.dim + k + 1) <= math.exp(-NEGLIGIBLE))

    def __call__(self, k: NDArray[Any]) -> Vector:
        dim, df, level, slope, below = self.dim, self.df, self.level, self.slope, self.below
        p = dim / 2 + k  # S given K is chi-square with 2p degrees of freedom
        expected = 2 * p * below(p + 1, 0) - 2 * dim * below(p, 0)
        if df is None:
            expected += (2 * (dim - 2) - level) * level / (2 * p - 2) * below(p - 1, 0)
        else:
            expected += 2 * (dim - 2) * slope * df / (2 * p - 2) * below(p - 1, 1)
            expected -= slope**2 * df * (df + 2) / (2 * p - 2) * below(p - 1, 2)
        return expected
