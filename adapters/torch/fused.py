"""Batch normalization with any estimator as one autograd function around the four passes.

Forward: `moments`, the estimator on vectors of channels, `affine`. Backward: `reduce_grad`, the estimator's
vector-Jacobian product on the vectors, `combine`. Only the input is saved, and vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shrinkstats.estimators import Cotangent, Estimator
from shrinkstats.kernels import cpu, generic
from shrinkstats.moments import Moments, Statistics, moments
from shrinkstats.prior import Prior

HALF = (torch.float16, torch.bfloat16)


@dataclass
class Rule:
    """What a layer normalizes with, and what came out of it."""

    estimator: Estimator
    prior: Prior | None
    eps: float
    moments: Moments | None = field(default=None, repr=False)
    statistics: Statistics | None = field(default=None, repr=False)


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """``weight (x - center) / scale + bias`` over axis 1, by the rule, which also gets the statistics."""
    return _FusedNormalize.apply(x, weight, bias, rule) if fits(x) else plain(x, weight, bias, rule)


def fits(x: Tensor) -> bool:
    """Whether the compiled passes read x: on the CPU, computed now, and not traced or transformed."""
    return (
        x.device.type == "cpu"
        and x.layout == torch.strided
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.jit.is_tracing()
    )


def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """The same in PyTorch's own operations: for compilers, transforms, other devices and higher derivatives."""
    rule.moments = moments(x)
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


class _FusedNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
        data = _array(x)
        with np.errstate(all="ignore"):  # NaN and infinity pass through, as everywhere in PyTorch
            batch, groups = _moments(data, rule.estimator.uses_extremes)
            statistics = rule.estimator.statistics(batch, rule.prior)
            scale = rule.estimator.scale(statistics.var, rule.eps)
            slope = 1 / scale if weight is None else _vector(weight) / scale
            pivot = statistics.mean.astype(data.dtype)
            shift = (pivot - statistics.mean) * slope
            if bias is not None:
                shift = shift + _vector(bias)
        y = torch.empty_like(x, dtype=torch.float32 if x.dtype in HALF else x.dtype)
        cpu.affine(data, 1, pivot, slope, shift, out=y.numpy())
        rule.moments, rule.statistics = batch, statistics
        ctx.save_for_backward(x, weight, bias)
        ctx.rule, ctx.means, ctx.scale, ctx.slope = rule, groups.mean, scale, slope
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants to differentiate the gradient
            return (*_plain_gradient(ctx, x, weight, bias, g), None)
        rule, batch, statistics = ctx.rule, ctx.rule.moments, ctx.rule.statistics
        data, gradient = _array(x), _array(g)
        total, product = cpu.reduce_grad(gradient, data, 1, batch.mean)
        with np.errstate(all="ignore"):
            centered = product + (batch.mean - statistics.mean) * total  # sum of g (x - center)
            dx = None
            if ctx.needs_input_grad[0]:
                d_scale = -ctx.slope / ctx.scale * centered
                d_spread = d_scale * rule.estimator.scale_gradient(statistics.var, ctx.scale)
                cotangent = _pullback(rule, Statistics(-ctx.slope * total, d_spread))
                dx = _input_gradient(gradient, data, x, ctx.slope, cotangent, batch, ctx.means)
            d_weight = torch.from_numpy(centered / ctx.scale).to(weight.dtype) if ctx.needs_input_grad[1] else None
        d_bias = torch.from_numpy(total).to(bias.dtype) if ctx.needs_input_grad[2] else None
        return dx, d_weight, d_bias, None


def _moments(data: Any, extremes: bool) -> tuple[Moments, cpu.GroupMoments]:
    """Moments of a batch, without the extremes where nobody looks at them, and those of its samples."""
    samples, channels = data.shape[:2]
    count = data.size // channels
    alone = count == samples  # nothing within a sample: one group holds all of them
    groups = cpu.group_moments(data, 1, None if alone else 0, extremes=extremes)
    mean, m2, sample_m2 = cpu.merge_groups(groups, count // samples)
    nobody = np.full(channels, np.nan)
    low, high = (groups.low.min(axis=0), groups.high.max(axis=0)) if extremes else (nobody, nobody)
    size = float(count // samples)
    sample_m2 = m2 if alone else size * size * sample_m2
    return Moments(count, samples, mean, m2, low, high, samples * size * size, mean, sample_m2), groups


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
    g: Any, data: Any, x: Tensor, slope: Any, cotangent: Cotangent, batch: Moments, means: Any
) -> Tensor:
    """The gradient of the input: ``slope g``, and what flows through the moments of the batch."""
    zero = np.zeros_like(batch.mean)
    b = zero if cotangent.m2 is None else 2 * cotangent.m2
    d = zero if cotangent.mean is None else cotangent.mean / batch.count
    if cotangent.sample_m2 is not None:
        size = batch.count // batch.samples
        if size == 1:
            b = b + 2 * cotangent.sample_m2
        else:
            d = d + 2 * size * cotangent.sample_m2 * (means - batch.mean)
    dx = torch.empty_like(x, dtype=torch.float32 if x.dtype in HALF else x.dtype)
    cpu.combine(g, data, 1, batch.mean, slope, b, d, out=dx.numpy())
    if cotangent.minimum is not None or cotangent.maximum is not None:
        ties = cpu.count_extremes(data, 1, batch.minimum, batch.maximum)
        at = [
            np.divide(zero if v is None else v, n, out=np.zeros_like(zero), where=n > 0)
            for v, n in zip((cotangent.minimum, cotangent.maximum), ties, strict=True)
        ]
        cpu.add_at_extremes(data, 1, batch.minimum, batch.maximum, *at, out=dx.numpy())
    return dx.to(x.dtype)


def _plain_gradient(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, g: Tensor) -> list[Tensor | None]:
    """The gradients as a graph of plain operations, which can be differentiated again."""
    inputs = (x, weight, bias)
    y = plain(x, weight, bias, Rule(ctx.rule.estimator, ctx.rule.prior, ctx.rule.eps))
    wanted = [v for v, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _array(x: Tensor) -> Any:
    """The tensor's memory as a NumPy array; half precision, which NumPy and Numba lack, widened."""
    x = x.detach()
    return (x.float() if x.dtype in HALF else x).numpy()


def _vector(v: Tensor) -> Any:
    return v.detach().double().numpy()


def _tensors(prior: Prior, like: Tensor) -> Prior:
    """A prior of NumPy vectors as one of tensors."""

    def convert(v: Any) -> Any:
        if v is None:
            return None
        if isinstance(v, tuple):
            return type(v)(*map(convert, v))
        return torch.as_tensor(v).to(like)

    return Prior(*map(convert, prior))
