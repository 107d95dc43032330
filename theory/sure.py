"""Stein's unbiased estimate of the risk of an estimate of a normal mean, from the data alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkstats._arrays import positive_number
from shrinkstats.theory.arguments import real
from shrinkstats.theory.risk import check_dimension

Vector = NDArray[np.float64]
Estimator = Callable[[Any], ArrayLike]

EPS = np.finfo(float).eps
DIVERGENCES = ("central", "complex")
COMPLEX_STEP = 1e-20  # in standard deviations: its square is nothing, and itself no underflow


def unbiased_risk(
    estimator: Estimator, x: ArrayLike, *, variance: float = 1.0, divergence: Estimator | str = "central"
) -> Vector:
    r"""Unbiased estimate of the expected squared error of a differentiable estimator of a normal mean.

    For :math:`X \sim N(\theta, v I_c)` and an estimate g(X) it is

    .. math:: \|g(x) - x\|^2 - c v + 2 v \sum_i \partial g_i / \partial x_i,

    the expectation of which is :math:`E\|g(X) - \theta\|^2` at every :math:`\theta`.

    Parameters
    ----------
    estimator : callable
        From samples (..., c) to estimates (..., c), each from its own sample. Continuous, and differentiable almost
        everywhere: an estimate that jumps (a hard threshold) has another risk.
    x : array of shape (..., c)
        Samples.
    variance : float
        v, known and common to the coordinates.
    divergence : callable, "central" or "complex"
        The sum of the derivatives, a callable from (..., c) to (...); or how to find it: by central differences
        (relative errors of at most about 1e-9 for an estimator that is smooth on the scale of sqrt(v); 1e-9 r^(2/3)
        for coordinates that are r > 1 of these units away from zero), or by complex steps (to double precision,
        for an estimator that computes with complex numbers and takes neither their absolute value nor their
        conjugate).

    Returns
    -------
    array of shape (...)
        One a sample, in the units of x squared. Single values may be negative; their mean estimates the risk.

    Raises
    ------
    ValueError
        If `variance` is not positive, `divergence` unknown, or a shape is not as described.

    References
    ----------
    Stein (1981), "Estimation of the mean of a multivariate normal distribution". Squire & Trapp (1998), "Using
    complex variables to estimate derivatives of real functions".

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.theory.sure import unbiased_risk
    >>> x = np.random.default_rng(0).normal(size=(10_000, 5))
    >>> half = unbiased_risk(lambda x: x / 2, x)  # its risk at zero is 5/4
    >>> bool(abs(half.mean() - 1.25) < 4 * half.std() / 100)
    True
    """
    if not callable(estimator):
        raise TypeError(f"estimator must be callable, from samples to estimates, got {type(estimator).__name__}")
    variance = positive_number("variance", variance)
    x = real("x", x)
    if x.ndim == 0:
        raise ValueError("x must be a sample (c coordinates), or a stack of them, got a number")
    estimate = _expect("estimator", estimator(x.copy()), x.shape)
    if callable(divergence):
        slopes = _expect("divergence", divergence(x.copy()), x.shape[:-1])
    elif isinstance(divergence, str) and divergence in DIVERGENCES:
        slopes = _divergence(estimator, x, math.sqrt(variance), complex_step=divergence == "complex")
    else:
        raise ValueError(f'divergence must be a callable, "central" or "complex", got {divergence!r}')
    risk: Vector = np.sum((estimate - x) ** 2, axis=-1) - x.shape[-1] * variance + 2 * variance * slopes
    return risk


def symmetric_unbiased_risk(
    amount: ArrayLike, slope: ArrayLike, w: ArrayLike, *, dim: int, noise_df: float | None = None
) -> Vector:
    r"""Stein's unbiased risk estimate of ``target + (1 - a(w) / w) (X - target)``, in closed form.

    With :math:`w = \|X - t\|^2 / v` it is, in units of v,

    .. math:: c + \frac{(1 + 2/m)\, a^2 - 2 (c - 2) a}{w} - 4 a' \left(1 + \frac{a}{m}\right),

    m being infinite if v is known. Otherwise w holds, in place of v, an independent estimate of it on m degrees of
    freedom.

    Parameters
    ----------
    amount, slope : array broadcastable to `w`
        a and its derivative, at w. James-Stein is c - 2 and 0; a :class:`~shrinkstats.theory.JamesStein` has a
        method for the first.
    w : array of any shape
        Squared distances from the target over the noise, above 0.
    dim : int
        c.
    noise_df : float, optional
        m; None if the noise is known.

    Returns
    -------
    array of the shape of `w`
        In units of the variance of one mean.

    Raises
    ------
    ValueError
        If `dim` is below 1 or `noise_df` is not positive.

    References
    ----------
    Stein (1981); Efron & Morris (1976), "Families of minimax estimators of the mean of a multivariate normal
    distribution", for the estimated variance.

    Examples
    --------
    >>> from shrinkstats.theory.sure import symmetric_unbiased_risk
    >>> symmetric_unbiased_risk(8.0, 0.0, [8.0, 64.0], dim=10)
    array([2., 9.])
    """
    dim = check_dimension(dim)
    per_df = 0.0 if noise_df is None else 1 / positive_number("noise_df", noise_df, infinite=True)
    a, da, w = (real(name, x) for name, x in (("amount", amount), ("slope", slope), ("w", w)))
    try:
        np.broadcast_shapes(a.shape, da.shape, w.shape)
    except ValueError as error:
        raise ValueError(f"amount, slope and w have shapes {a.shape}, {da.shape} and {w.shape}") from error
    risk: Vector = dim + a * ((1 + 2 * per_df) * a - 2 * (dim - 2)) / w - 4 * da * (1 + a * per_df)
    return risk


def _divergence(estimator: Estimator, x: Vector, sd: float, *, complex_step: bool) -> Vector:
    """The sum over coordinates of the derivative of each by itself, an estimate being smooth on the scale of `sd`."""

    def coordinate(i: int, change: Any) -> Any:
        """Coordinate i of the estimate, where that of the sample is changed."""
        moved = x.astype(np.result_type(x, change))
        moved[..., i] += change
        estimate = np.asarray(estimator(moved))
        if complex_step and not np.iscomplexobj(estimate):
            raise ValueError('the estimator drops imaginary parts; use divergence="central"')
        return estimate[..., i]

    total = np.zeros(x.shape[:-1])
    for i in range(x.shape[-1]):
        if complex_step:
            step = COMPLEX_STEP * sd
            total += coordinate(i, 1j * step).imag / step
        else:
            # Where the curvature, (h / sd)^2, and the rounding of x, eps |x| / h, weigh the same; a few ulps at least.
            size = np.abs(x[..., i])
            h = np.maximum(sd * np.cbrt(EPS * np.maximum(1.0, size / sd)), 4 * np.spacing(size))
            total += (coordinate(i, h) - coordinate(i, -h)) / ((x[..., i] + h) - (x[..., i] - h))
    return total


def _expect(name: str, result: ArrayLike, shape: tuple[int, ...]) -> Vector:
    result = real(f"what {name} returns", result)
    if result.shape != shape:
        raise ValueError(f"{name} must return an array of shape {shape}, got {result.shape}")
    return result
