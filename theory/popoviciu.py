"""Popoviciu's inequality, which ties the range of data to their variance, and what follows for RobustNorm."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkstats._arrays import positive_number
from shrinkstats.theory.arguments import at_least, real


def variance_bounds(spread: ArrayLike, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Bounds on the variance (ddof=0) of n numbers whose range is known: :math:`R^2/(2n) \le s^2 \le R^2/4`.

    Parameters
    ----------
    spread : array of any shape
        R, the range max - min.
    n : int
        How many numbers, at least 2.

    Returns
    -------
    lower, upper : arrays of the shape of `spread`
        The lower is reached by one number at either end and all others midway, the upper by half of the numbers at
        either end.

    Raises
    ------
    ValueError
        If a range is negative or `n` is below 2.

    References
    ----------
    Popoviciu (1935), "Sur les equations algebriques ayant toutes leurs racines reelles", the upper bound; von
    Szokefalvi Nagy (1918), "Ueber algebraische Gleichungen mit lauter reellen Wurzeln", the lower.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.theory import variance_bounds
    >>> x = np.array([1.0, 2.0, 4.0, 9.0])
    >>> lower, upper = variance_bounds(np.ptp(x), n=4)
    >>> print(lower, x.var(), upper)
    8.0 9.5 16.0
    """
    r = real("spread", spread)
    if np.any(r < 0):
        raise ValueError(f"spread must not be negative, got {np.min(r):g}")
    return r * r / 2 / float(at_least("n", 2, n)), r * r / 4


def robustnorm_scale_bounds(
    sd: ArrayLike, n: int, *, power: float = 0.2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Bounds on RobustNorm's scale where the standard deviation is known.

    .. math:: (2 s)^p \le (\max - \min)^p \le (\sqrt{2n}\, s)^p .

    So with p = 1 RobustNorm would divide by at least twice what batch norm divides by; p was introduced against that.
    With p below 1 it normalizes in part: the standard deviation of its output lies between
    :math:`(2n)^{-p/2} s^{1-p}` and :math:`2^{-p} s^{1-p}`, and still grows with that of the input. Its frozen
    Lipschitz constant is below batch norm's for every batch with :math:`s < 2^{p/(1-p)}` (1.19 for p = 0.2), and
    above for every one with :math:`s > (2n)^{p/(2(1-p))}`.

    Parameters
    ----------
    sd : array of any shape
        s, with ddof=0.
    n : int
        Observations behind it, at least 2.
    power : float
        p, above 0.

    Returns
    -------
    lower, upper : arrays of the shape of `sd`
        Of the scale without its eps.

    Raises
    ------
    ValueError
        If a standard deviation is negative, `n` is below 2 or `power` is not positive.

    References
    ----------
    ICLR 2020 submission "Towards an adversarially robust normalization approach", eqs. 12 to 14, and
    :func:`variance_bounds`.

    Examples
    --------
    >>> from shrinkstats.theory import robustnorm_scale_bounds
    >>> lower, upper = robustnorm_scale_bounds(1.0, n=131072)
    >>> print(lower.round(3), upper.round(3))
    1.149 3.482
    """
    power = positive_number("power", power)
    s = real("sd", sd)
    if np.any(s < 0):
        raise ValueError(f"sd must not be negative, got {np.min(s):g}")
    return (2 * s) ** power, (2 * math.sqrt(at_least("n", 2, n) / 2) * s) ** power
