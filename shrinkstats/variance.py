"""Stein-type estimates of a vector of variances."""

from __future__ import annotations

import math

from shrinkstats._arrays import (
    Array,
    Namespace,
    as_real,
    at_least_single,
    check_vector,
    namespace,
    nonnegative,
    positive_number,
)


def gamma_stein(var: Array, n: float) -> Array:
    r"""Shrink a vector of sample variances towards their geometric mean.

    :math:`\frac{N}{N+1} s_i^2 + M \bigl(\prod_j s_j^2\bigr)^{1/c}` with
    :math:`M = \frac{4 (c-1) N}{(N+1) ((N-1) c + 2)}`. The geometric mean is the exponential of a mean of
    logarithms: a plain product underflows (512 variances of 0.001 multiply to zero in any precision).

    Parameters
    ----------
    var : array of shape (..., c)
        Sample variances. Leading axes are a stack of independent problems.
    n : float
        N, the number of observations behind each variance.

    Returns
    -------
    array of shape (..., c)
        Of the dtype, device and kind of `var`.

    Raises
    ------
    ValueError
        If a variance is negative, `n` is below 1, or `var` is not a vector of channels.
    TypeError
        If the data are not real numbers.

    References
    ----------
    DasGupta (1986), "Simultaneous estimation in the multiparameter gamma distribution under weighted quadratic
    losses", as in the reference code of arXiv 2507.08261.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> print(shrinkstats.gamma_stein(np.array([0.5, 2.0, 1.25, 0.01, 4.0]), 24).round(4))
    [0.5521 1.9921 1.2721 0.0817 3.9121]
    """
    xp = namespace(var=var)
    n = positive_number("n", n, minimum=1)
    original = as_real("var", var, xp)
    check_vector("var", original)
    var = nonnegative("var", at_least_single(original, xp), xp)
    return xp.astype(shrink_variances(var, n, xp), original.dtype)


def shrink_variances(var: Array, n: float, xp: Namespace) -> Array:
    """`gamma_stein` on arguments that were checked."""
    weight, share = _weights(n, var.shape[-1])
    if var.shape[-1] == 1:  # a channel alone has no share in a mean, which may be infinite
        return weight * var
    return weight * var + share * _geometric_mean(var, xp)


def _weights(n: float, channels: int) -> tuple[float, float]:
    """Those of the variances and of their geometric mean."""
    weight = n / (n + 1)
    return weight, 4 * (channels - 1) * weight / ((n - 1) * channels + 2)


def _geometric_mean(var: Array, xp: Namespace) -> Array:
    zero, infinite = var == 0, xp.isinf(var)
    logs = xp.log(xp.where(zero | infinite, xp.ones_like(var), var))
    geometric = xp.exp(xp.mean(logs, axis=-1, keepdims=True))
    # One variance of zero makes the product zero, else one of infinity makes it infinite, unless a NaN makes it NaN.
    for extreme, value in ((infinite, math.inf), (zero, 0.0)):
        decides = xp.any(extreme, axis=-1, keepdims=True) & ~xp.isnan(geometric)
        geometric = xp.where(decides, xp.full_like(geometric, value), geometric)
    return geometric
