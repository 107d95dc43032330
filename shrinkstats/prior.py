"""Statistics of a batch blended with those of the training data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shrinkstats import kernels
from shrinkstats._arrays import (
    Array,
    Namespace,
    as_real,
    can_look,
    check_channels,
    is_torch_array,
    namespace,
    nonnegative,
    positive_number,
    root,
)
from shrinkstats.mean import shrinkage_factor
from shrinkstats.values import Moments, SamplingNoise, Statistics, as_pair
from shrinkstats.values import Prior as Prior  # whose home this was


def blend(
    source: Statistics | Moments, target: Statistics | Moments, *, n: float, strength: Array | float
) -> Statistics:
    r"""Blend batch statistics with training statistics, these counting as much as `strength` samples.

    :math:`\frac{N}{N+n} \text{source} + \frac{n}{N+n} \text{target}` for mean and variance.

    Parameters
    ----------
    source, target : Statistics or Moments
        Training and batch statistics, vectors of shape (..., c) with the same c; leading axes broadcast.
    n : float
        Samples in the batch.
    strength : float or array broadcastable to the vectors
        N, the pseudo sample size of the training statistics: 0 gives the batch, infinity the training data.

    Returns
    -------
    Statistics
        Vectors of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If shapes do not match, `n` is not positive, or `strength` or a variance is negative.
    TypeError
        If the statistics are not pairs of real arrays of one library.

    References
    ----------
    Schneider, Rusak et al. (2020), "Improving robustness against common corruptions by covariate shift
    adaptation", eq. 3.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> source, target = Statistics(np.zeros(2), np.ones(2)), Statistics(np.array([0.5, -1]), np.array([0.25, 3]))
    >>> shrinkstats.blend(source, target, n=8, strength=16)
    Statistics(mean=array([ 0.16666667, -0.33333333]), var=array([0.75      , 1.66666667]))
    """
    xp, source, target = as_pair(source=source, target=target)
    # PyTorch has numbers that a graph leaves open: symbols, and under torch.jit.trace tensors.
    if isinstance(n, (int, float)) or not (hasattr(n, "node") or (is_torch_array(n) and not can_look(n))):
        n = positive_number("n", n)
    weight, own = weights(strength, n, xp, source, target)
    return Statistics(*(_times(weight, a, xp) + _times(own, b, xp) for a, b in zip(source, target, strict=True)))


def _times(weight: Array, x: Array, xp: Namespace) -> Array:
    """The product; nothing of an infinity without weight."""
    return weight * xp.where((weight == 0) & xp.isinf(x), xp.zeros_like(x), x)


def _check_goes_with(source: Array, name: str, x: Array) -> None:
    """One number a channel, or one for all channels of each problem of a stack."""
    one_each = tuple(x.shape[-1:]) == (1,) and source.ndim > 0
    check_channels(**{"source": source[..., :1] if one_each else source, name: x})


def weights(
    strength: Array | float, n: float, xp: Namespace, source: Statistics, target: Statistics
) -> tuple[Array, Array]:
    """N / (N + n) and n / (N + n), for N from 0 to infinity."""
    namespace(source=source.mean, target=target.mean, strength=strength)  # one library
    strength = nonnegative("strength", as_real("strength", strength, xp, like=source.mean), xp)
    _check_goes_with(source.mean, "strength", strength)
    one, zero = xp.ones_like(strength), xp.zeros_like(strength)
    infinite, large = xp.isinf(strength), strength > n
    smaller = xp.where(large, one * n, strength) / xp.where(large & ~infinite, strength, one * n)
    smaller = xp.where(infinite, zero, smaller)  # over the larger of both
    total = 1 + smaller
    return xp.where(large, one, smaller) / total, xp.where(large, smaller, one) / total


def stein_blend(
    source: Statistics | Moments,
    target: Statistics | Moments,
    *,
    noise: SamplingNoise | Array | float | None = None,
    kappa: float = 1.0,
) -> Statistics:
    r"""Blend batch statistics with training statistics; how much is read off the data.

    In units of the training data's standard deviation, :math:`d = (m_t - m_s)/\sigma_s` is the shift that was
    seen and :math:`v` the shift that sampling alone would show. The batch's weight is Stein's
    :math:`w = (1 - \kappa \sum_i v_i / \sum_i d_i^2)_+`:

    .. math:: m = m_s + w (m_t - m_s), \qquad \sigma^2 = (1 - w')\, \sigma_s^2 + w' \sigma_t^2 .

    With a plain `noise` :math:`w' = w`, which is :func:`blend` of strength :math:`n (1-w)/w`.

    With :class:`SamplingNoise` the standard deviation is corrected for the bias of small batches and has a weight
    of its own. The ratio :math:`r = \sigma_t / (\sigma_s (1 + b))` is 1 but for chance without shift. Data that
    vary more than the training data have statistics that vary more, so the noise grows with :math:`r^2`; u is the
    calibrated variance of the standard deviation in units of :math:`\sigma_s`, b its bias:

    .. math::

        w = \Bigl(1 - \kappa \frac{\sum_i r_i^2 v_i}{\sum_i d_i^2}\Bigr)_+, \qquad
        w' = \Bigl(1 - \kappa \frac{\overline{r^2} \sum_i u_i}{\sum_i (r_i - 1)^2}\Bigr)_+, \qquad
        \sigma = \sigma_s (1 + w' (r - 1)) .

    Parameters
    ----------
    source, target : Statistics or Moments
        Training and batch statistics, vectors of shape (..., c) with the same c; leading axes broadcast.
    noise : SamplingNoise, array or float, optional
        Sampling variance of `target`'s mean, in its squared units, or what calibration measured; arrays broadcast
        to the vectors. Left out, it is ``target.noise``, for which `target` must be Moments.
    kappa : float
        Factor on the noise; 1 is Stein's.

    Returns
    -------
    Statistics
        Vectors of the kind and on the device of the arguments.

    Raises
    ------
    ValueError
        If shapes do not match, a noise or variance is negative, or the noise is nowhere to be found.
    TypeError
        If the statistics are not pairs of real arrays of one library.

    Notes
    -----
    This is an empirical-Bayes rule: the channels of a layer are strongly correlated, so no dominance is claimed.
    Channels whose training variance is zero (or infinite) have no unit to measure a shift in; they do not vote on the
    weights. Where a variance is infinite the blend's is.

    In a network, where the samples are images, :class:`shrinkstats.estimators.SteinBlend` counts the training data
    as one of them.

    References
    ----------
    New here; the blend is that of Schneider, Rusak et al. (2020), the weight James & Stein's (1961) with its
    positive part.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> source, target = Statistics(np.zeros(4), np.ones(4)), Statistics(np.full(4, 0.5), np.full(4, 2.0))
    >>> shrinkstats.stein_blend(source, target, noise=0.05)
    Statistics(mean=array([0.4, 0.4, 0.4, 0.4]), var=array([1.8, 1.8, 1.8, 1.8]))
    """
    if noise is None:
        if not isinstance(target, Moments):
            raise ValueError("noise is missing: pass noise=, or Moments as target, which estimate their own")
        noise = target.noise
    return shrunken_blend(source, target, noise, positive_number("kappa", kappa, zero=True))


def shrunken_blend(source: Any, target: Any, noise: Any, kappa: float, n: float = math.inf) -> Statistics:
    """:func:`stein_blend`; if the batch has n samples, the training data count as one of n + 1 at least."""
    share = 1 / (1 + 1 / n)
    quick = _compiled(source, target, noise, kappa, share)
    if quick is not None:
        return quick
    xp, source, target = as_pair(source=source, target=target)
    parts = noise if isinstance(noise, SamplingNoise) else SamplingNoise(noise, None, None)
    namespace(
        source=source.mean, target=target.mean, **{f"noise.{k}": v for k, v in parts._asdict().items()}
    )  # one library
    if noise is parts and any(v is None for v in parts):
        raise TypeError("noise has a part that is None: SamplingNoise needs mean, sd and sd_bias")
    checked = {k: as_real(f"noise.{k}", v, xp, like=source.mean) for k, v in parts._asdict().items() if v is not None}
    shape = np.broadcast_shapes(source.mean.shape, source.var.shape, target.mean.shape, target.var.shape)
    for name, x in checked.items():
        _check_goes_with(source.mean, f"noise.{name}", x)
        if np.broadcast_shapes(shape, x.shape) != shape:
            raise ValueError(
                f"noise.{name} of shape {tuple(x.shape)} does not broadcast to statistics of shape {shape}"
            )
        if name != "sd_bias":
            checked[name] = nonnegative(f"noise.{name}", x, xp)
    weights = blend_weights(source, target, SamplingNoise(*(checked.get(k) for k in SamplingNoise._fields)), kappa, xp)
    w, w_spread = (share * v[..., None] for v in weights)
    half = source.mean / 2  # or a difference of means might leave the range
    mean = 2 * (half + w * (target.mean / 2 - half))
    if "sd" not in checked:
        return Statistics(mean, _between(w_spread, source.var, target.var, xp))
    sd = _between(w_spread, root(source.var, xp), unbiased_sd(source, target, checked["sd_bias"], xp), xp)
    return Statistics(mean, sd * sd)


def _between(w: Array, a: Array, b: Array, xp: Namespace) -> Array:
    """(1 - w) a + w b; infinite where one of them is, whatever its weight: that was found by such numbers too."""
    known = [xp.where(xp.isinf(v), xp.zeros_like(v), v) for v in (a, b)]
    return (1 - w) * known[0] + w * known[1] + ((a - known[0]) + (b - known[1]))


def _compiled(source: Any, target: Any, noise: Any, kappa: float, share: float) -> Statistics | None:
    """The blend of ordinary NumPy vectors with calibrated noise, which is what a network asks for; else None."""
    if not (isinstance(source, Statistics) and isinstance(target, Moments) and isinstance(noise, SamplingNoise)):
        return None
    vectors, mean = (*source, *noise), target.mean
    if {type(v) for v in (*vectors, mean)} != {np.ndarray}:
        return None
    if any(v.dtype != np.float64 for v in (*vectors, mean)) or mean.size == 0:
        return None
    if any(v.ndim != 1 or v.shape != mean.shape[-1:] for v in vectors):
        return None
    found = kernels.load("blend").stein_blend(source, (mean, target.var()), noise, kappa, share)
    return None if found is None else Statistics(*found)


def blend_weights(
    source: Statistics, target: Statistics, noise: SamplingNoise, kappa: float, xp: Namespace
) -> tuple[Array, Array]:
    """Stein's weights for mean and variance, or standard deviation, on arguments that were checked."""
    votes = (source.var > 0) & ~xp.isinf(source.var)
    votes = votes | xp.isnan(source.var)
    one, zero = xp.ones_like(source.var), xp.zeros_like(source.var)
    var = xp.where(votes, source.var, one)
    sd = root(var, xp)

    def weight(deviation: Array, spread: Array) -> Array:
        deviation = xp.where(votes, deviation, zero)
        spread = xp.where(votes, xp.broadcast_to(spread, deviation.shape), zero)
        return shrinkage_factor(deviation, spread, lambda v: kappa * xp.sum(v, axis=-1), xp)

    shift = (target.mean / 2 - source.mean / 2) / (sd / 2)
    if noise.sd is None:
        w = weight(shift, noise.mean / var)
        return w, w
    ratio = xp.where(votes, unbiased_sd(source, target, noise.sd_bias, xp) / sd, zero)
    squares = ratio * ratio
    voters = xp.sum(xp.astype(votes, squares.dtype), axis=-1, keepdims=True)
    grown = xp.sum(squares, axis=-1, keepdims=True) / xp.where(voters == 0, xp.ones_like(voters), voters)
    return weight(shift, _times(noise.mean / var, squares, xp)), weight(ratio - 1, _times(noise.sd, grown, xp))


def unbiased_sd(source: Statistics, target: Statistics, bias: Array, xp: Namespace) -> Array:
    """The target's standard deviation without the bias of small batches; the source's where batches have none."""
    correction = 1 + bias
    seen = correction > 0  # one number a channel has no spread, and says nothing of it
    sd = root(target.var, xp) / xp.where(seen, correction, xp.ones_like(correction))
    return xp.where(seen | xp.isnan(correction), sd, root(source.var, xp))
