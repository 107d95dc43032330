"""Normalize an array with any of the estimators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import is_dask_array

from shrinkstats import kernels
from shrinkstats._arrays import (
    Array,
    as_constant,
    as_real,
    constant,
    is_numpy,
    namespace,
    positive_number,
    where_it_lies,
)
from shrinkstats.estimators import Estimator
from shrinkstats.moments import check_axes, moments


def normalize(
    x: Array,
    estimator: Estimator,
    *,
    axis: int = 1,
    weight: Array | None = None,
    bias: Array | None = None,
    prior: Any = None,
    eps: float = 1e-5,
) -> Array:
    """Batch normalization of an array: ``weight (x - center) / scale + bias``, statistics by `estimator`.

    Parameters
    ----------
    x : array
        Data; slices along the first axis that is not `axis` are independent samples.
    estimator : Estimator
        One of :mod:`shrinkstats.estimators`, for instance ``Stein()``.
    axis : int
        The axis of the channels.
    weight, bias : array of shape (c,), optional
        Affine parameters; 1 and 0 if left out.
    prior : Statistics, Prior or Moments, optional
        Statistics of the training data, for the estimators that blend with them.
    eps : float
        Added to variances before the square root (to the range's power for RobustNorm).

    Returns
    -------
    array
        Of the shape, dtype (integers: the default float), device and kind of `x`.

    Raises
    ------
    ValueError
        If `x` is empty, shapes do not match, or the estimator needs a prior and has none.
    TypeError
        If the data are not real numbers or `estimator` is not one.

    References
    ----------
    Ioffe & Szegedy (2015), "Batch normalization".

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats.estimators import BatchStatistics
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=(8, 3, 16, 16))
    >>> y = shrinkstats.normalize(x, BatchStatistics())
    >>> print(abs(y.mean(axis=(0, 2, 3))).max() < 1e-12, y.var(axis=(0, 2, 3)).round(4))
    True [1. 1. 1.]
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(f"estimator must be one of shrinkstats.estimators, such as Stein(), got {estimator!r}")
    eps = positive_number("eps", eps, zero=True)
    with where_it_lies(x):
        return _normalize(x, estimator, axis, weight, bias, prior, eps)


def _normalize(
    x: Array, estimator: Estimator, axis: int, weight: Array | None, bias: Array | None, prior: Any, eps: float
) -> Array:
    xp = namespace(x=x, weight=weight, bias=bias)
    x = as_constant(x, xp)
    if isinstance(x, np.memmap):  # or the result would claim to be one
        x = x.view(np.ndarray)
    x = x if kernels.supports(x) else as_real("x", x, xp)
    axis, _ = check_axes(x, axis, None)
    if math.prod(x.shape) == 0:
        raise ValueError(f"x of shape {tuple(x.shape)} is empty: there is nothing to estimate statistics from")
    if x.ndim == 1:
        m = moments(x, axis=axis, sample_axis=None)
    else:
        m = moments(x, axis=axis, sample_axis=1 if axis == 0 else 0)
    center, scale = estimator(m, prior=prior, eps=eps)
    for vector in (center, scale):
        if tuple(vector.shape) != (x.shape[axis],):
            raise ValueError(
                f"x has {x.shape[axis]} channels, but {estimator} gave statistics of shape {tuple(vector.shape)}; "
                "mean and var of the prior must have one entry per channel"
            )
    if is_numpy(x):  # vectors in memory go with deferred data, but not the other way round
        vectors = {"weight": weight, "bias": bias, "prior.mean": center, "prior.var": scale}
        for name in (name for name, vector in vectors.items() if is_dask_array(vector)):
            raise TypeError(
                f"arrays of different libraries: x is a numpy array, {name} a dask array; call {name}.compute() first, "
                "or pass x as a dask array"
            )
    slope = _channel_vector("weight", weight, center, xp) / scale if weight is not None else 1 / scale
    pivot = constant(xp.astype(xp.astype(center, _width(x, xp)), center.dtype))  # its derivative cancels
    pivot = xp.where(xp.isinf(scale), 0.0, pivot)  # times 0, a difference beyond the range is NaN
    shift = (pivot - center) * slope
    if bias is not None:
        shift = shift + _channel_vector("bias", bias, center, xp)
    return kernels.backend(x).affine(x, axis, pivot, slope, shift)


def _width(x: Array, xp: Any) -> Any:
    """The dtype the affine pass computes in."""
    if kernels.supports(x) and x.dtype.name == "bfloat16":  # which NumPy's and CuPy's own rules do not know
        return xp.float32
    if not xp.isdtype(x.dtype, "real floating"):
        return xp.float64
    return xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype


def _channel_vector(name: str, x: Array, like: Array, xp: Any) -> Array:
    vector = as_real(name, x, xp, like=like)
    if tuple(vector.shape) != tuple(like.shape):
        raise ValueError(
            f"{name} must have one entry per channel, shape {tuple(like.shape)}, got {tuple(vector.shape)}"
        )
    return vector
