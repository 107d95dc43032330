"""Batch normalization of tensors on a GPU: the kernels of :mod:`shrinkstats.kernels.cuda`, where CuPy is installed.

It is what :mod:`~shrinkstats.adapters.torch.fused` is on the CPU. CuPy compiles and launches; memory and streams are
PyTorch's. Nothing waits for the device, so that CUDA graphs can record it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from shrinkstats.adapters.torch import fused
from shrinkstats.adapters.torch.addresses import FULL, address, plain
from shrinkstats.kernels.cuda import THREADS, Grid, Library, Passes, grid_of, kernel
from shrinkstats.rules.base import said
from shrinkstats.values import Moments, Statistics

NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}


def fits(x: Tensor, rule: fused.Rule) -> bool:
    """Whether the kernels do it: without extremes, and without other ranks (whose moments autograd merges)."""
    ordinary = rule.group is None and not rule.estimator.uses_extremes
    return ordinary and x.dtype in NAMES and x.numel() > 0 and torch.version.hip is None and _has_cupy()


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: fused.Rule) -> Tensor:
    """``weight (x - center) / scale + bias`` over axis 1, by the rule, which also gets the statistics."""
    return _Normalize.apply(x, weight, bias, rule)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, rule: fused.Rule) -> Tensor:
        data = _compact(x)
        samples, channels = data.shape[:2]
        count = data.numel() // channels
        size = count // samples
        with _stream(x.device):
            passes = _passes(data)
            found, deviations = passes.moments(_grid(data, size > 1), address(data), float(size) * size)
            mean, m2, low, high, sample_m2 = found
            sample_m2 = sample_m2 if size > 1 else m2
            rule.moments = Moments.of_equal_samples(
                count=count, samples=samples, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=sample_m2
            )
            fused.find_prior(rule)
            vectors = (_stein if said(rule.estimator, "rules") else _vectors)(rule, found, weight, bias, data)
            rule.statistics = Statistics(vectors[0], vectors[1])
            y = torch.empty_like(data)
            passes.affine(_grid(data, False), address(data), address(y), address(vectors[3]))
        ctx.save_for_backward(x, weight, bias)
        ctx.rule, ctx.found, ctx.deviations, ctx.vectors = rule, found, deviations, vectors
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or not fused.ordinary(g):
            return (*fused.plain_gradient(ctx, x, weight, bias, g), None)
        data = _compact(x)
        g = _as_it_lies(g, data)
        with _stream(x.device):
            passes, addresses = _passes(data), (address(g), address(data))
            sums = passes.reduce_grad(_grid(data, False), *addresses, address(ctx.vectors[6]))
            backward = _stein_backward if said(ctx.rule.estimator, "rules") else _backward
            lines, d_weight, d_bias = backward(ctx.rule, sums, ctx.found, ctx.vectors)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = torch.empty_like(data)
                each = data.numel() > data.size(0) * data.size(1)
                deviations = address(ctx.deviations) if each else 0
                passes.combine(_grid(data, each), *addresses, address(dx), address(lines), deviations)
        d_weight = d_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None
        d_bias = d_bias.to(bias.dtype) if ctx.needs_input_grad[2] else None
        return dx, d_weight, d_bias, None


def _stein(rule: fused.Rule, found: Tensor, weight: Tensor | None, bias: Tensor | None, x: Tensor) -> Tensor:
    """Vectors of channels, of one launch: see `_vectors`."""
    vectors = torch.empty((7, found.size(1)), dtype=found.dtype, device=found.device)
    parameters = [None if v is None else _readable(v) for v in (weight, bias)]
    told = [n for v in parameters for n in ((0, 0) if v is None else (address(v), v.element_size()))]
    batch = rule.moments
    arguments = (address(found), found.size(1), float(batch.count), *_noise(batch), *rule.estimator.rules)
    _launch("stein", (*arguments, float(rule.eps), *told, int(x.dtype != torch.float64), address(vectors)))
    return vectors


def _stein_backward(rule: fused.Rule, sums: Tensor, found: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lines of `combine`, and the gradients of weight and bias."""
    room = torch.empty((9, found.size(1)), dtype=found.dtype, device=found.device)
    batch, (lines, gradients) = rule.moments, (room[:5], room[5:])
    addresses = (address(sums), address(found), address(vectors))
    size = float(batch.count // batch.samples)
    arguments = (*addresses, found.size(1), float(batch.count), size, *_noise(batch), *rule.estimator.rules)
    _launch("stein_backward", (*arguments, address(lines), address(gradients)))
    return lines, gradients[0], gradients[1]


def _noise(batch: Moments) -> tuple[int, float]:
    """The row of moments that the noise of the means comes from, and the factor on it."""
    if batch.samples < 2:
        return 1, 1 / max(batch.count - 1, 1) / batch.count
    return 1 if batch.count == batch.samples else 4, batch.noise_scale


def _vectors(rule: fused.Rule, found: Tensor, weight: Tensor | None, bias: Tensor | None, x: Tensor) -> Tensor:
    """The vectors of any rule: center, spread, scale; the lines of the affine pass; the mean, rounded as data are."""
    prior = None if rule.prior is None else fused._tensors(rule.prior, found)
    center, spread = rule.estimator.statistics(rule.moments, prior)
    scale = rule.estimator.scale(spread, rule.eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    pivot, mean = (v.to(wide).to(found.dtype) for v in (center, found[0]))
    slope = 1 / scale if weight is None else weight / scale
    shift = (pivot - center) * slope
    return torch.stack((center, spread, scale, pivot, slope, shift if bias is None else shift + bias, mean))


def _backward(rule: fused.Rule, sums: Tensor, found: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_stein_backward` for any rule, whose vectors autograd differentiates."""
    (total, product), (center, _, scale, _, slope, _, pivot), batch = sums[:, 0], vectors, rule.moments
    slant = (product - (batch.mean - pivot) * total + (batch.mean - center) * total) / scale
    leaves = [found[i].clone().requires_grad_() for i in (0, 1, 4)]
    prior = None if rule.prior is None else fused._tensors(rule.prior, found)
    with torch.enable_grad():
        mean, m2, sample_m2 = leaves
        sample_m2 = m2 if batch.count == batch.samples else sample_m2
        statistics = rule.estimator.statistics(
            replace(batch, mean=mean, m2=m2, sample_mean=mean, sample_m2=sample_m2), prior
        )
        outputs = (statistics.mean, rule.estimator.scale(statistics.var, rule.eps))
        outputs = [v + 0 * mean for v in outputs]  # a rule may look at none of the moments
    found_by = torch.autograd.grad(outputs, leaves, (-slope * total, -slope * slant), materialize_grads=True)
    g_mean, g_m2, g_sample_m2 = found_by
    b, size = 2 * g_m2, batch.count // batch.samples
    lines = torch.stack((pivot, slope, b, g_mean / batch.count - b * (batch.mean - pivot), 2 * size * g_sample_m2))
    return lines, slant, total


def _passes(x: Tensor) -> Passes:
    def empty(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=x.device)

    return Passes(NAMES[x.dtype], x.device.index or 0, Library(empty, address))


def _grid(x: Tensor, samples: bool) -> Grid:
    return grid_of(tuple(x.shape), x.stride(), 1, 0 if samples else None)


def _compact(x: Tensor) -> Tensor:
    """x, copied if it has gaps or if its samples are not outermost in memory."""
    x = plain(x)
    return x if _grid(x, True) is not None else x.contiguous()


def _as_it_lies(g: Tensor, x: Tensor) -> Tensor:
    """g, in memory as x is."""
    g = plain(g)
    return g if g.stride() == x.stride() else torch.empty_like(x).copy_(g)


def _readable(v: Tensor) -> Tensor:
    """A parameter of a type that the kernels on vectors read."""
    v = plain(v).contiguous()
    return v if v.dtype in FULL else v.float()


def _launch(name: str, arguments: tuple[float, ...]) -> None:
    kernel("stein.cu", name)((1,), (THREADS,), arguments)


def _stream(device: torch.device) -> AbstractContextManager[Any]:
    """PyTorch's device and stream as CuPy's."""
    import cupy

    both = ExitStack()
    both.enter_context(cupy.cuda.Device(device.index or 0))
    both.enter_context(cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream))
    return both


@cache
def _has_cupy() -> bool:
    try:
        import cupy  # noqa: F401
    except ImportError:
        return False
    return True
