"""Batch normalization with any estimator as one autograd function around the four passes.

Forward: `moments`, the estimator on vectors of channels, `affine`. Backward: `reduce_grad`, the estimator's
vector-Jacobian product on the vectors, `combine`. Only the input is saved, and vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from shrinkstats.adapters.torch import distributed, memory, openmp
from shrinkstats.adapters.torch.addresses import DTYPES, ORDINARY, address, array, dense, readable, tensor
from shrinkstats.estimators import Estimator
from shrinkstats.kernels import DISABLED, cpu, generic, team, vectors
from shrinkstats.moments import moments
from shrinkstats.rules.base import said
from shrinkstats.values import Cotangent, Moments, Prior, Statistics

_NOTHING, _NONE = np.empty(0), np.empty((0, 0), np.uint8)


@dataclass
class Rule:
    """What a layer normalizes with, and what came out of it."""

    estimator: Estimator
    prior: Prior | None
    eps: float
    group: Any = None  # of ranks whose batches are one
    prior_of: Callable[[Moments], Prior | None] | None = None  # what finds it, once there are moments
    any_order: bool = False  # of memory for the output, not only those of PyTorch
    moments: Moments | None = field(default=None, repr=False)
    statistics: Statistics | None = field(default=None, repr=False)


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """``weight (x - center) / scale + bias`` over axis 1, by the rule, which also gets the statistics."""
    if fits(x, rule.group) and readable(weight) and readable(bias):
        return _FusedNormalize.apply(x, weight, bias, rule)
    if x.device.type == "cuda" and computed_now(x):
        from shrinkstats.adapters.torch import cuda

        if cuda.fits(x, rule):
            return cuda.normalize(x, weight, bias, rule)
    return plain(x, weight, bias, rule)


def fits(x: Tensor, group: Any = None) -> bool:
    """Whether the passes compiled for the CPU read x.

    Ranks of a group answer alike, also those that have nothing: both ways wait for each other, but not across.
    """
    return readable(x) and (x.numel() > 0 or group is not None) and not DISABLED and computed_now(x)


def computed_now(x: Tensor) -> bool:
    """Whether x is an ordinary tensor of numbers, neither traced nor transformed."""
    return ordinary(x) and torch._C._len_torch_dispatch_stack() == 0  # no mode that records operations


def ordinary(x: Tensor) -> bool:
    """Whether x stands for nothing but its numbers, whoever may be watching."""
    return (
        type(x) in ORDINARY
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # gradients of several outputs at once
        and not torch.jit.is_tracing()
        and forward_ad._current_level < 0
    )


def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
    """The same in PyTorch's own operations: for compilers, transforms, other devices and higher derivatives."""
    rule.moments = moments(x)
    if rule.group is not None:
        _synchronize(rule, x)
    find_prior(rule)
    prior = None if rule.prior is None else _tensors(rule.prior, rule.moments.mean)
    rule.statistics = rule.estimator.statistics(rule.moments, prior)
    center, spread = rule.statistics
    scale = rule.estimator.scale(spread, rule.eps)
    slope = 1 / scale
    if weight is not None:
        slope = slope * weight
    pivot = center.detach().to(torch.promote_types(x.dtype, torch.float32)).to(center.dtype)
    pivot = pivot.where(~scale.isinf(), 0)  # times 0, a difference beyond the range is NaN
    shift = (pivot - center) * slope
    if bias is not None:
        shift = shift + bias
    return generic.affine(x, 1, pivot, slope, shift)


class _FusedNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: Rule) -> Tensor:
        data = dense(x)
        with np.errstate(all="ignore"):  # NaN and infinity pass through, as everywhere in PyTorch
            rule.moments, means = _moments(data, rule.estimator.uses_extremes)
            ctx.drift = None
            if rule.group is not None:
                _synchronize(rule, x)
                rule.moments, ctx.drift = distributed.around_the_mean(rule.moments)
            find_prior(rule)
            statistics = _statistics(rule)
            scale = rule.estimator.scale(statistics.var, rule.eps)
        y = memory.empty_like(x, data.dtype, any_order=rule.any_order)
        slope = _affine(data, statistics.mean, scale, _vector(weight), _vector(bias), y)
        rule.statistics = statistics
        ctx.save_for_backward(x, weight, bias)
        ctx.rule, ctx.means, ctx.scale, ctx.slope = rule, means, scale, slope
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or not ordinary(g):  # someone wants to differentiate the gradient, or several
            return (*plain_gradient(ctx, x, weight, bias, g), None)
        rule, batch, statistics = ctx.rule, ctx.rule.moments, ctx.rule.statistics
        data, gradient = dense(x), dense(g)
        sums = _reduce(gradient, data, batch.mean)
        with np.errstate(all="ignore"):
            d_center, d_scale, d_weight, d_bias = vectors.scale_gradients(
                *sums, batch.mean, statistics.mean, ctx.scale, ctx.slope, _vector(weight)
            )
            dx, ties = None, None
            if ctx.needs_input_grad[0]:
                if rule.group is not None:
                    ties = _ties(array(data), batch) if rule.estimator.uses_extremes else ()
                    d_center, d_scale, *ties = distributed.add([d_center, d_scale, *ties], rule.group)
                d_spread = d_scale * rule.estimator.scale_gradient(statistics.var, ctx.scale)
                cotangent = _pullback(rule, Statistics(d_center, d_spread))
                if ctx.drift is not None and cotangent.sample_m2 is not None:
                    lean = -2 * ctx.drift * cotangent.sample_m2
                    cotangent = cotangent._replace(mean=lean if cotangent.mean is None else cotangent.mean + lean)
                dx = _input_gradient(gradient, data, x, ctx.slope, cotangent, batch, ctx.means, ties)
        return (
            dx,
            _gradient(d_weight, weight, ctx.needs_input_grad[1]),
            _gradient(d_bias, bias, ctx.needs_input_grad[2]),
            None,
        )


def _moments(x: Tensor, extremes: bool) -> tuple[Moments, Any]:
    """Moments of a batch, without the extremes where nobody looks at them, and the means of its samples."""
    samples, channels = x.shape[:2]
    count = x.numel() // max(channels, 1)
    if not count:
        return Moments.empty(channels), np.empty((0, channels))
    alone = count == samples  # nothing within a sample: one group holds all of them
    job = team.plan("moments", DTYPES[x.dtype], x.shape, (x.stride(),), None if alone else 0)
    groups = np.empty((5 if extremes else 3, job.samples, channels))
    openmp.run(job, job.table(address(x), 0, 0, _NONE, groups, int(extremes)), x.nbytes)
    means, _, squares = groups[:3]
    size = count // samples
    mean, m2, sample_m2 = cpu.merge(means, squares, count // len(means))
    if x.dtype == torch.float64 and not np.isfinite(m2).all():
        mean, m2, _, _, sample_m2 = cpu.moments(array(x), 1, 0)  # sums may have left the range
    low, high = (groups[3].min(axis=0), groups[4].max(axis=0)) if extremes else [np.full(channels, np.nan)] * 2
    sample_m2 = m2 if alone else float(size) * size * sample_m2
    batch = Moments.of_equal_samples(
        count=count, samples=samples, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=sample_m2
    )
    return batch, means


def _affine(x: Tensor, center: Any, scale: Any, weight: Any, bias: Any, out: Tensor) -> Any:
    """Write ``weight (x - center) / scale + bias`` to `out`; the slope is returned."""
    job = _plan("affine", x, out) if x.numel() else None
    lines = np.empty((3, job.copies * job.channels if job else x.size(1)), DTYPES[x.dtype])
    slope = vectors.affine_lines(center, scale, weight, bias, lines)
    if job:
        openmp.run(job, job.table(address(x), address(out), 0, lines, _NOTHING), x.nbytes)
    return slope


def _reduce(g: Tensor, x: Tensor, mean: Any) -> tuple[Any, Any]:
    """The sums of g and of ``g (x - pivot)`` of every group, and the pivot."""
    if not x.numel():
        return np.zeros((2, 1, x.size(1))), mean
    job = _plan("reduce_grad", g, x)
    lines = np.empty((1, job.copies * job.channels), DTYPES[x.dtype])
    vectors.pivot_lines(mean, lines)
    sums = np.empty((2, job.samples, job.channels))
    openmp.run(job, job.table(address(g), address(x), 0, lines, sums), x.nbytes)
    return sums, lines[0]


def _plan(name: str, *arrays: Tensor, sample_axis: int | None = None) -> team.Pass:
    first = arrays[0]
    return team.plan(name, DTYPES[first.dtype], first.shape, tuple(a.stride() for a in arrays), sample_axis)


def _statistics(rule: Rule) -> Statistics:
    """The estimator on the batch's moments, compiled if it can be."""
    compiled = said(rule.estimator, "compiled")
    return rule.estimator.statistics(rule.moments, rule.prior) if compiled is None else compiled(rule.moments)


def _pullback(rule: Rule, g: Statistics) -> Cotangent:
    """The estimator's vector-Jacobian product: its own, or by autograd on the vectors."""
    own = rule.estimator.pullback(rule.moments, rule.prior, g)
    if own is not None:
        return own
    batch = rule.moments
    leaves = {name: tensor(getattr(batch, name)).requires_grad_() for name in Cotangent._fields}
    mean = leaves["mean"]
    with torch.enable_grad():
        vectors = replace(batch, **leaves, sample_mean=mean)
        statistics = rule.estimator.statistics(vectors, None if rule.prior is None else _tensors(rule.prior, mean))
    wanted = [(s, torch.as_tensor(v, device=s.device)) for s, v in zip(statistics, g, strict=True) if s.requires_grad]
    if not wanted:
        return Cotangent()
    outputs, gradients = zip(*wanted, strict=True)
    found = torch.autograd.grad(outputs, list(leaves.values()), gradients, allow_unused=True)
    return Cotangent(*(None if v is None else array(v) for v in found))


def _input_gradient(
    g: Tensor, x: Tensor, like: Tensor, slope: Any, cotangent: Cotangent, batch: Moments, means: Any, ties: Any
) -> Tensor:
    """The gradient of the input: ``slope g``, and what flows through the moments of the batch."""
    if not x.numel():
        return torch.zeros_like(like)
    size = x.numel() // (x.size(0) * x.size(1))
    each = size > 1 and cotangent.sample_m2 is not None
    dx = memory.empty_like(like, x.dtype)
    job = _plan("combine", g, x, dx, sample_axis=0 if each else None)
    lines = np.empty((3, job.copies * job.channels), DTYPES[x.dtype])
    d = np.empty((x.size(0) if each else 1, job.channels), lines.dtype)
    vectors.combine_lines(
        *(_NOTHING if v is None else v for v in (cotangent.mean, cotangent.m2, cotangent.sample_m2)),
        means, batch.mean, float(batch.count), size, slope, lines, d,
    )  # fmt: skip
    table = job.table(address(g), address(x), address(dx), lines, d, job.channels if each else 0)
    openmp.run(job, table, x.nbytes)
    if cotangent.minimum is not None or cotangent.maximum is not None:
        data = array(x)
        ties = _ties(data, batch) if ties is None else ties
        at = [
            np.divide(0.0 if v is None else v, n, out=np.zeros_like(batch.mean), where=n > 0)
            for v, n in zip((cotangent.minimum, cotangent.maximum), ties, strict=True)
        ]
        cpu.add_at_extremes(data, 1, batch.minimum, batch.maximum, *at, out=array(dx))
    return dx if dx.dtype == like.dtype else dx.to(like.dtype)


def _ties(data: Any, batch: Moments) -> Any:
    """How many elements share the minimum, and the maximum, of each channel."""
    return cpu.count_extremes(data, 1, batch.minimum, batch.maximum) if data.size else np.zeros((2, data.shape[1]))


def _synchronize(rule: Rule, x: Tensor) -> None:
    """Put the moments of all ranks in the place of those of this one."""
    rule.moments = distributed.merge(rule.moments, x, rule.group, extremes=rule.estimator.uses_extremes)


def find_prior(rule: Rule) -> None:
    """The prior for a batch whose moments are known: it depends on the samples of all ranks."""
    if rule.prior_of is not None:
        rule.prior = rule.prior_of(rule.moments)
        rule.prior_of = None  # it holds the input, which autograd alone shall keep, or give to hooks to keep


def plain_gradient(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, g: Tensor) -> list[Tensor | None]:
    """The gradients by plain operations, which can be differentiated again, and take any kind of tensor."""
    batched = torch._C._functorch.is_legacy_batchedtensor(g) or torch._C._functorch.is_batchedtensor(g)
    if batched and ctx.rule.group is not None:
        raise RuntimeError(
            "ranks cannot share several gradients at once (is_grads_batched, vectorize, vmap): take one after the "
            "other, or set the layer's process_group to None before the forward pass"
        )
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [v if v is None else v.view_as(v) for v in (x, weight, bias)]  # one may come from another
        y = plain(*inputs, replace(ctx.rule, prior_of=None))
    wanted = [v for v, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, g, create_graph=again))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _gradient(v: Any, like: Tensor | None, needed: bool) -> Tensor | None:
    """A gradient of the type of its parameter."""
    if not needed:
        return None
    v = tensor(v)
    return v if v.dtype == like.dtype else v.to(like.dtype)


def _vector(v: Tensor | None) -> Any:
    """A vector for NumPy, of length 0 if there is none."""
    return _NOTHING if v is None else array(v if v.is_contiguous() else v.contiguous())


def arrays(prior: Prior) -> Prior:
    """A prior of tensors as one of NumPy vectors."""

    def convert(v: Any) -> Any:
        if isinstance(v, tuple):
            return type(v)(*map(convert, v))
        return array(v) if isinstance(v, Tensor) else v

    return Prior(*map(convert, prior))


def _tensors(prior: Prior, like: Tensor) -> Prior:
    """A prior of NumPy vectors as one of tensors."""

    def convert(v: Any) -> Any:
        if v is None:
            return None
        if isinstance(v, tuple):
            return type(v)(*map(convert, v))
        return torch.as_tensor(v, dtype=like.dtype, device=like.device)

    return Prior(*map(convert, prior))
