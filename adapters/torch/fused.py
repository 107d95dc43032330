"""Batch normalization with any estimator as one autograd function around the four passes.

Forward: `moments`, the estimator on vectors of channels, `affine`. Backward: `reduce_grad`, the estimator's
vector-Jacobian product on the vectors, `combine`. Only the input is saved, and vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from shrinkstats.adapters.torch import distributed, memory
from shrinkstats.estimators import Cotangent, Estimator, Stein
from shrinkstats.kernels import cpu, generic, threads, vectors
from shrinkstats.moments import Moments, Statistics, moments
from shrinkstats.prior import Prior

HALF = (torch.float16, torch.bfloat16)
FULL = (torch.float32, torch.float64)
_NOTHING = np.empty(0)


@dataclass
class Rule:
    """What a layer normalizes with, and what came out of it."""

    estimator: Estimator
    prior: Prior | None
    eps: float
    group: Any = None  # of ranks whose batches are one
    prior_of: Callable[[int], Prior | None] | None = None  # where it depends on the samples of all ranks
    moments: Moments | None = field(default=None, repr=False)
    statistics: Statistics | None = field(default=None, repr=False)


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """``weight (x - center) / scale + bias`` over axis 1, by the rule, which also gets the statistics."""
    return _FusedNormalize.apply(x, weight, bias, rule) if fits(x, rule.group) else plain(x, weight, bias, rule)


def fits(x: Tensor, group: Any = None) -> bool:
    """Whether the compiled passes read x: on the CPU, computed now, and not traced or transformed.

    Ranks of a group answer alike, also those that have nothing: both ways wait for each other, but not across.
    """
    return (
        type(x) in (Tensor, nn.Parameter)  # subclasses see every operation
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and (x.numel() > 0 or group is not None)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # no mode that records operations
        and forward_ad._current_level < 0
    )


def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """The same in PyTorch's own operations: for compilers, transforms, other devices and higher derivatives."""
    rule.moments = moments(x)
    if rule.group is not None:
        _synchronize(rule, x)
    prior = None if rule.prior is None else _tensors(rule.prior, rule.moments.mean)
    rule.statistics = rule.estimator.statistics(rule.moments, prior)
    center, spread = rule.statistics
    slope = 1 / rule.estimator.scale(spread, rule.eps)
    if weight is not None:
        slope = slope * weight
    pivot = center.detach().to(torch.promote_types(x.dtype, torch.float32)).to(center.dtype)
    shift = (pivot - center) * slope
    if bias is not None:
        shift = shift + bias
    return generic.affine(x, 1, pivot, slope, shift)


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """With as many threads as PyTorch itself may use, at most."""

    @wraps(function)
    def limited(*args: Any) -> Any:
        with threads.at_most(torch.get_num_threads()):
            return function(*args)

    return limited


class _FusedNormalize(torch.autograd.Function):
    @staticmethod
    @_limited
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
        data = _array(x)
        with np.errstate(all="ignore"):  # NaN and infinity pass through, as everywhere in PyTorch
            rule.moments, groups = _moments(data, rule.estimator.uses_extremes)
            ctx.drift = None
            if rule.group is not None:
                _synchronize(rule, x)
                rule.moments, ctx.drift = distributed.around_the_mean(rule.moments)
            statistics = _statistics(rule)
            scale = rule.estimator.scale(statistics.var, rule.eps)
            pivot = np.empty(data.shape[1], data.dtype)
            slope, shift = vectors.affine_vectors(statistics.mean, scale, _vector(weight), _vector(bias), pivot)
        y = memory.empty_like(x, torch.float32 if x.dtype in HALF else x.dtype)
        if data.size:
            cpu.affine(data, 1, pivot, slope, shift, out=y.numpy())
        rule.statistics = statistics
        ctx.save_for_backward(x, weight, bias)
        ctx.rule, ctx.means, ctx.scale, ctx.slope = rule, groups.mean, scale, slope
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @staticmethod
    @_limited
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants to differentiate the gradient
            return (*_plain_gradient(ctx, x, weight, bias, g), None)
        rule, batch, statistics = ctx.rule, ctx.rule.moments, ctx.rule.statistics
        data, gradient = _array(x), _array(g)
        total, product = cpu.reduce_grad(gradient, data, 1, batch.mean) if data.size else np.zeros((2, x.size(1)))
        with np.errstate(all="ignore"):
            d_center, d_scale, d_weight = vectors.scale_gradients(
                total, product, batch.mean, statistics.mean, ctx.scale, ctx.slope
            )
            dx, ties = None, None
            if ctx.needs_input_grad[0]:
                if rule.group is not None:
                    ties = _ties(data, batch) if rule.estimator.uses_extremes else ()
                    d_center, d_scale, *ties = distributed.add([d_center, d_scale, *ties], rule.group)
                d_spread = d_scale * rule.estimator.scale_gradient(statistics.var, ctx.scale)
                cotangent = _pullback(rule, Statistics(d_center, d_spread))
                if ctx.drift is not None and cotangent.sample_m2 is not None:
                    lean = -2 * ctx.drift * cotangent.sample_m2
                    cotangent = cotangent._replace(mean=lean if cotangent.mean is None else cotangent.mean + lean)
                dx = _input_gradient(gradient, data, x, ctx.slope, cotangent, batch, ctx.means, ties)
            d_weight = torch.from_numpy(d_weight).to(weight.dtype) if ctx.needs_input_grad[1] else None
        d_bias = torch.from_numpy(total).to(bias.dtype) if ctx.needs_input_grad[2] else None
        return dx, d_weight, d_bias, None


def _moments(data: Any, extremes: bool) -> tuple[Moments, cpu.GroupMoments]:
    """Moments of a batch, without the extremes where nobody looks at them, and those of its samples."""
    samples, channels = data.shape[:2]
    if not data.size:
        return Moments.empty(channels), cpu.GroupMoments(*[np.empty((0, channels))] * 4)
    count = data.size // channels
    alone = count == samples  # nothing within a sample: one group holds all of them
    groups = cpu.group_moments(data, 1, None if alone else 0, extremes=extremes)
    mean, m2, sample_m2 = cpu.merge_groups(groups, count // samples)
    nobody = np.full(channels, np.nan)
    low, high = (groups.low.min(axis=0), groups.high.max(axis=0)) if extremes else (nobody, nobody)
    size = float(count // samples)
    sample_m2 = m2 if alone else size * size * sample_m2
    return Moments(count, samples, mean, m2, low, high, samples * size * size, mean, sample_m2), groups


def _statistics(rule: Rule) -> Statistics:
    """The estimator on the batch's moments; Stein's rules, the layers' default, are compiled."""
    estimator, batch = rule.estimator, rule.moments
    if type(estimator) is not Stein:
        return estimator.statistics(batch, rule.prior)
    return Statistics(*vectors.stein(batch.mean, batch.m2, batch.noise, batch.count, *estimator.rules))


def _pullback(rule: Rule, g: Statistics) -> Cotangent:
    """The estimator's vector-Jacobian product: its own, or by autograd on the vectors."""
    own = rule.estimator.pullback(rule.moments, rule.prior, g)
    if own is not None:
        return own
    batch = rule.moments
    mean, m2, low, high, sample_m2 = leaves = [
        torch.from_numpy(v.copy()).requires_grad_()
        for v in (batch.mean, batch.m2, batch.minimum, batch.maximum, batch.sample_m2)
    ]
    with torch.enable_grad():
        vectors = Moments(batch.count, batch.samples, mean, m2, low, high, batch.sample_weight, mean, sample_m2)
        statistics = rule.estimator.statistics(vectors, None if rule.prior is None else _tensors(rule.prior, mean))
    wanted = [(s, torch.from_numpy(v)) for s, v in zip(statistics, g, strict=True) if s.requires_grad]
    if not wanted:
        return Cotangent()
    outputs, gradients = zip(*wanted, strict=True)
    found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
    return Cotangent(*(None if v is None else v.numpy() for v in found))


def _input_gradient(
    g: Any, data: Any, x: Tensor, slope: Any, cotangent: Cotangent, batch: Moments, means: Any, ties: Any
) -> Tensor:
    """The gradient of the input: ``slope g``, and what flows through the moments of the batch."""
    if not data.size:
        return torch.zeros_like(x)
    b, d = vectors.combine_vectors(
        *(_NOTHING if v is None else v for v in (cotangent.mean, cotangent.m2, cotangent.sample_m2)),
        means, batch.mean, float(batch.count), math.prod(data.shape[2:]),
    )  # fmt: skip
    dx = memory.empty_like(x, torch.float32 if x.dtype in HALF else x.dtype)
    cpu.combine(g, data, 1, batch.mean, slope, b, d, out=dx.numpy())
    if cotangent.minimum is not None or cotangent.maximum is not None:
        ties = _ties(data, batch) if ties is None else ties
        at = [
            np.divide(0.0 if v is None else v, n, out=np.zeros_like(batch.mean), where=n > 0)
            for v, n in zip((cotangent.minimum, cotangent.maximum), ties, strict=True)
        ]
        cpu.add_at_extremes(data, 1, batch.minimum, batch.maximum, *at, out=dx.numpy())
    return dx if dx.dtype == x.dtype else dx.to(x.dtype)


def _ties(data: Any, batch: Moments) -> Any:
    """How many elements share the minimum, and the maximum, of each channel."""
    return cpu.count_extremes(data, 1, batch.minimum, batch.maximum) if data.size else np.zeros((2, data.shape[1]))


def _synchronize(rule: Rule, x: Tensor) -> None:
    """From the moments of this rank to those of all."""
    rule.moments = distributed.merge(rule.moments, x, rule.group, extremes=rule.estimator.uses_extremes)
    if rule.prior_of is not None:
        rule.prior = rule.prior_of(rule.moments.samples)


def _plain_gradient(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, g: Tensor) -> list[Tensor | None]:
    """The gradients as a graph of plain operations, which can be differentiated again."""
    inputs = (x, weight, bias)
    y = plain(x, weight, bias, replace(ctx.rule, prior_of=None))
    wanted = [v for v, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _array(x: Tensor) -> Any:
    """The tensor's memory as a NumPy array; half precision, which NumPy and Numba lack, widened."""
    x = x.detach()
    return (x.float() if x.dtype in HALF else x).numpy()


def _vector(v: Tensor | None) -> Any:
    """A vector for NumPy, of length 0 if there is none."""
    return _NOTHING if v is None else _array(v)


def _tensors(prior: Prior, like: Tensor) -> Prior:
    """A prior of NumPy vectors as one of tensors."""

    def convert(v: Any) -> Any:
        if v is None:
            return None
        if isinstance(v, tuple):
            return type(v)(*map(convert, v))
        return torch.as_tensor(v).to(like)

    return Prior(*map(convert, prior))
