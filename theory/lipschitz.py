"""How far a small change of its input can move what a normalization layer puts out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import svds

from shrinkstats._arrays import positive_number, whole_number
from shrinkstats.estimators import Estimator
from shrinkstats.moments import check_axes, moments
from shrinkstats.theory.arguments import real
from shrinkstats.values import Cotangent, Moments, Prior, Statistics, as_prior

Array = NDArray[np.float64]

DENSE = 256  # rows of a matrix whose singular values cost no more than an iteration


class Lipschitz(NamedTuple):
    """Local Lipschitz constants of a normalization layer at one batch.

    Attributes
    ----------
    frozen : float
        With the statistics held at their values, as in evaluation with these as trained statistics.
    through : float
        With the statistics following the input, as in training and in adaptation.
    """

    frozen: float
    through: float


def lipschitz(
    x: ArrayLike,
    estimator: Estimator,
    *,
    axis: int = 1,
    sample: int | None = None,
    weight: ArrayLike | None = None,
    prior: Any = None,
    eps: float = 1e-5,
) -> Lipschitz:
    r"""Local Lipschitz constants of :func:`shrinkstats.normalize` at the batch x, from l2 to l2.

    They are the largest singular values of its Jacobian: no small change of the input of length h moves the output
    by more than h times the constant, and some change does move it that far. With the statistics frozen that is

    .. math:: \max_c |w_c| / s_c ,

    w the weight and s the scale of a channel. Through the statistics the Jacobian is

    .. math:: J = \mathrm{diag}(w/s) \otimes I + B C B^\top ,

    where B holds, for every channel, the few directions in which its moments move (all ones; the deviations from
    the mean; the deviations of the samples' means; the elements at the extremes) and C the derivative of the
    estimator.

    Parameters
    ----------
    x : array
        Data of two axes or more; slices along the first axis that is not `axis` are independent samples (images).
    estimator : Estimator
        One of :mod:`shrinkstats.estimators`.
    axis : int
        The axis of the channels.
    sample : int, optional
        Change only this sample, and look only at its own output. Left out: the whole batch.
    weight : array of shape (c,), optional
        The affine weight; 1 if left out.
    prior : Statistics, Prior or Moments, optional
        Statistics of the training data, for the estimators that blend with them.
    eps : float
        As in :func:`shrinkstats.normalize`.

    Returns
    -------
    Lipschitz
        `frozen` and `through`, in units of output per input. NaN where the data hold NaN, or where the scale has
        no derivative (RobustNorm on a constant channel).

    Raises
    ------
    ValueError
        If `x` is empty or has one axis, `sample` is not in the batch, shapes do not match, or the estimator needs a
        prior and has none.
    TypeError
        If the data are not real numbers or `estimator` is not one.
    ModuleNotFoundError
        If the estimator has no `pullback` of its own (SteinBlend) and PyTorch, which then differentiates it, is not
        installed.

    Notes
    -----
    Outside the span of B the Jacobian is the frozen one. So its largest singular value is that of a matrix with a
    handful of rows per channel, found by Lanczos's form of power iteration (directly if it is small) to double
    precision; power iteration on the whole Jacobian converges to the same number. At a kink of the estimator (a
    positive part, a soft threshold, two elements that share an extreme) it is the derivative that a layer's
    backward pass uses.

    Through the statistics, plain batch norm of three observations or more has the frozen constant: it only takes
    directions away. A mean that is shrunk leaves ``mean - center`` behind, which every change of the scale moves.

    References
    ----------
    The formula follows from Ioffe & Szegedy (2015), "Batch normalization", section 3, by the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.estimators import BatchStatistics, Stein
    >>> from shrinkstats.theory import lipschitz
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(rng.normal(size=(8, 1, 1)), 0.5, size=(4, 8, 6, 6))
    >>> for estimator in (BatchStatistics(), Stein.published()):
    ...     print("frozen {:.2f}, through the statistics {:.2f}".format(*lipschitz(x, estimator)))
    frozen 2.27, through the statistics 2.27
    frozen 2.24, through the statistics 3.07
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(f"estimator must be one of shrinkstats.estimators, such as Stein(), got {estimator!r}")
    eps = positive_number("eps", eps, zero=True)
    data = _by_channel(x, axis)
    batch = moments(data, axis=0, sample_axis=1)
    source = None if prior is None else as_prior(prior)
    statistics = estimator.statistics(batch, source)
    scale = estimator.scale(statistics.var, eps)
    slope = _weight(weight, scale) / scale
    frozen = float(np.abs(slope).max())

    pulled = _derivative(estimator, batch, source)
    names = [name for name, rows in pulled._asdict().items() if name in ("mean", "m2") or rows.any()]
    directions, sizes = _directions(data, batch, names)
    if sample is not None:
        directions = directions[:, [_index(sample, data.shape[1])]]
    directions = directions.reshape(len(slope), -1, len(names))

    # Channel i's output moves by -slope (d center + (x - center) d log(scale)), where
    # x - center = (x - mean) + (mean - center).
    c = len(slope)
    coupling = np.zeros((c, len(names), c, len(names)))
    with np.errstate(divide="ignore", invalid="ignore"):  # a scale without a derivative
        steepness = estimator.scale_gradient(statistics.var, scale) / scale
        # Of a root at 0 a layer takes 0 for the slope, which grows without end: that says nothing of how far it moves.
        nearer, near = (np.full_like(scale, spread) for spread in (1e-300, 1e-150))
        slopes = [estimator.scale_gradient(v, estimator.scale(v, eps)) for v in (nearer, near)]
        steepness = np.where((statistics.var == 0) & (slopes[0] > 2 * slopes[1]), math.inf, steepness)
        for j, name in enumerate(names):
            center, spread = getattr(pulled, name).reshape(2, c, c) * sizes[j]
            log_scale = steepness[:, None] * spread
            at_ones = center + (batch.mean - statistics.mean)[:, None] * log_scale
            coupling[:, names.index("mean"), :, j] = -slope[:, None] * at_ones
            coupling[:, names.index("m2"), :, j] = -slope[:, None] * log_scale
    if not (np.isfinite(coupling).all() and np.isfinite(slope).all()):
        return Lipschitz(frozen, math.nan)
    return Lipschitz(frozen, _largest_singular_value(slope, directions, coupling))


def _largest_singular_value(slope: Array, directions: Array, coupling: Array) -> float:
    """The value of ``diag(slope) + B C B^T``, B block diagonal: in an orthonormal basis of each block, and outside."""
    r: Array = np.asarray(np.linalg.qr(directions, mode="r"))
    c, rank, k = r.shape
    left = np.einsum("cri,cidj->crdj", r, coupling).reshape(c * rank, c, k)
    inside = np.einsum("adj,dsj->ads", left, r).reshape(c * rank, c * rank)
    inside += np.diag(np.repeat(slope, rank))
    if len(inside) <= DENSE or not inside.any():
        largest = float(np.linalg.norm(inside, 2))
    else:  # power iteration on J^T J, as Lanczos speeds it up
        start = np.random.default_rng(0).normal(size=len(inside))
        largest = float(svds(inside, k=1, v0=start, return_singular_vectors=False)[0])
    outside = directions.shape[1] > rank
    return max(largest, float(np.abs(slope).max())) if outside else largest


def _directions(data: Array, batch: Moments, names: list[str]) -> tuple[Array, list[float]]:
    """The gradient of each of these moments with respect to x, up to a constant; and the constants."""
    mean = batch.mean[:, None, None]
    size = batch.count // batch.samples
    gradients: dict[str, Callable[[], tuple[Array, float]]] = {
        "mean": lambda: (np.ones_like(data), 1 / batch.count),
        "m2": lambda: (data - mean, 2.0),
        "minimum": lambda: (_at(data, batch.minimum), 1.0),
        "maximum": lambda: (_at(data, batch.maximum), 1.0),
        "sample_m2": lambda: (np.broadcast_to(data.mean(axis=2, keepdims=True) - mean, data.shape), 2.0 * size),
    }
    parts, sizes = zip(*(gradients[name]() for name in names), strict=True)
    return np.stack(parts, axis=-1), list(sizes)


def _at(data: Array, extreme: Array) -> Array:
    """The gradient of an extreme: elements that share it share the gradient."""
    there = data == extreme[:, None, None]
    share: Array = there / np.maximum(there.sum(axis=(1, 2), keepdims=True), 1)
    return share


def _derivative(estimator: Estimator, batch: Moments, prior: Prior | None) -> Cotangent:
    """The derivative of center and spread (2c rows) with respect to each of the moments (c columns)."""
    c = len(batch.mean)
    units = [Statistics(row[:c], row[c:]) for row in np.eye(2 * c)]
    first = estimator.pullback(batch, prior, units[0])
    if first is None:
        return _autograd(estimator, batch, prior)
    rows = [first, *(estimator.pullback(batch, prior, unit) for unit in units[1:])]
    zero = np.zeros(c)
    return Cotangent(*(np.stack([zero if v is None else v for v in column]) for column in zip(*rows, strict=True)))


def _autograd(estimator: Estimator, batch: Moments, prior: Prior | None) -> Cotangent:
    """`_derivative` by PyTorch, for an estimator without a pullback."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{type(estimator).__name__} is differentiated by PyTorch: pip install "shrinkstats[torch]"'
        ) from error

    def tensors(value: Any) -> Any:
        if isinstance(value, tuple):  # the noise of a prior
            return type(value)(*map(tensors, value))
        return None if value is None else torch.tensor(np.asarray(value, dtype=np.float64))

    leaves = {name: tensors(getattr(batch, name)).requires_grad_() for name in Cotangent._fields}
    vectors = replace(batch, **leaves, sample_mean=leaves["mean"])
    rows = torch.cat(tuple(estimator.statistics(vectors, tensors(prior))))
    found = [
        torch.autograd.grad(row, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True)
        if row.requires_grad
        else [torch.zeros_like(leaf) for leaf in leaves.values()]
        for row in rows
    ]
    return Cotangent(*(torch.stack(column).numpy() for column in zip(*found, strict=True)))


def _by_channel(x: ArrayLike, axis: int) -> Array:
    """The data as (channels, samples, elements of a sample)."""
    array = real("x", x)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"x must have a channel and a sample axis and not be empty, got shape {array.shape}")
    axis, _ = check_axes(array, axis, None)
    array = np.moveaxis(array, axis, 0)
    return np.ascontiguousarray(array).reshape(*array.shape[:2], -1)


def _weight(weight: ArrayLike | None, scale: Array) -> Array:
    vector = np.ones_like(scale) if weight is None else real("weight", weight)
    if vector.shape != scale.shape:
        raise ValueError(f"weight must have one entry per channel, shape {scale.shape}, got {vector.shape}")
    return vector


def _index(sample: int, samples: int) -> int:
    index = whole_number("sample", sample)
    if not -samples <= index < samples:
        raise ValueError(f"sample must be one of the {samples} of the batch, got {sample}")
    return index
