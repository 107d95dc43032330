"""The passes over PyTorch's tensors on the CPU: those of `cpu`, over the same memory, and their gradients.

What is no ordinary tensor of numbers (compiled, traced, transformed, recorded, a subclass) is for `generic`, and so are
second derivatives.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad

from shrinkstats.kernels import DISABLED, cpu, generic, threads
from shrinkstats.moments import moments as moments_of
from shrinkstats.values import Cotangent, Moments

WHOLE = (
    *(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
HALF = (torch.float16, torch.bfloat16)
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def fits(x: Tensor) -> bool:
    """Whether x is an ordinary tensor of numbers in the memory of the host, and nobody is watching what is computed."""
    return (
        type(x) in (Tensor, nn.Parameter)  # subclasses see every operation
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.dtype in (*DTYPES, *HALF, *WHOLE)
        and not x.is_nested
        and x.numel() > 0
        and not DISABLED
        and not torch._C._are_functorch_transforms_active()
        and not x._is_zerotensor()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # gradients of several outputs at once
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # no mode that records operations
        and forward_ad._current_level < 0
    )


def view(x: Tensor) -> NDArray[Any]:
    """The tensor's memory as an array; not by its method `numpy`, after which PyTorch would not resize the storage."""
    x = x.detach().resolve_neg()
    return np.from_dlpack(x.float() if x.dtype == torch.bfloat16 else x)


def _writable(y: Tensor) -> NDArray[Any]:
    """The same of a new tensor without gaps, to write to: what `view` gives is read-only in some releases of NumPy."""
    memory = (ctypes.c_char * y.nbytes).from_address(y.data_ptr())
    strides = [stride * y.itemsize for stride in y.stride()]
    return np.ndarray(tuple(y.shape), DTYPES[y.dtype], memory, strides=strides)


def moments(x: Tensor, axis: int, sample_axis: int | None) -> Moments:
    """Moments with vectors that are tensors, through which gradients flow."""
    if torch.is_grad_enabled() and x.requires_grad:
        *vectors, counts = _Moments.apply(x, axis, sample_axis)
    else:
        vectors, counts = _moments(x, axis, sample_axis)
    mean, m2, low, high, sample_m2 = vectors
    count, samples = counts
    sample_m2 = m2 if sample_m2 is None else sample_m2
    return Moments.of_equal_samples(
        count=count, samples=samples, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=sample_m2
    )


def affine(x: Tensor, axis: int, pivot: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a (x - pivot) + b`` per channel, of x's dtype; the pivot is a constant."""
    wide = x.float() if x.dtype in HALF else x
    wanted = torch.is_grad_enabled() and any(v.requires_grad for v in (wide, a, b))
    y = _Affine.apply(wide, pivot, a, b, axis) if wanted else _affine(wide, axis, pivot, a, b)
    return y if y.dtype == x.dtype else y.to(x.dtype)


class _Moments(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, sample_axis: int | None) -> tuple[Any, ...]:
        vectors, counts = _moments(x, axis, sample_axis)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *(v for v in vectors if v is not None))
        ctx.axes = axis, sample_axis
        return (*vectors, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        g = Cotangent(*gradients[:5])
        given = [v for v in g if v is not None]
        if not given:
            return None, None, None
        x, mean, _, low, high, *_ = ctx.saved_tensors
        if not torch.is_grad_enabled() and all(map(fits, (x, *given))):
            return _moments_gradient(g, x, *ctx.axes, *map(view, (mean, low, high))), None, None
        with torch.enable_grad():
            found = generic.moments(x, *ctx.axes)
            size = x.numel() // x.shape[ctx.axes[0]] // (1 if ctx.axes[1] is None else x.shape[ctx.axes[1]])
            vectors = (*found[:4], found[4] * (float(size) * size))
        return _plain_gradients(zip(vectors, g, strict=True), [x])[0], None, None


class _Affine(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, pivot: Tensor, a: Tensor, b: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x, pivot, a, b)
        ctx.axis = axis
        return _affine(x, axis, pivot, a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        x, pivot, a, b = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        if torch.is_grad_enabled() or not (fits(x) and fits(g)):
            with torch.enable_grad():
                x, a, b = (v.view_as(v) for v in (x, a, b))  # a and b come from x, which is not what is asked here
                y = generic.affine(x, ctx.axis, pivot, a, b)
            wanted = [v for v, is_needed in zip((x, a, b), needed, strict=True) if is_needed]
            found = iter(_plain_gradients([(y, g)], wanted))
            dx, da, db = (next(found) if is_needed else None for is_needed in needed)
            return dx, None, da, db, None
        dx, da, db = None, None, None
        if any(0 in (stride, n - 1) for n, stride in zip(g.shape, g.stride(), strict=True)):
            g = g.contiguous()  # of a sum: one number for all
        if needed[0]:
            zero = torch.zeros_like(a)
            dx = _affine(g, ctx.axis, zero, a, zero)
        if needed[1] or needed[2]:
            with threads.at_most(torch.get_num_threads()):
                total, product = cpu.reduce_grad(view(g), view(x), ctx.axis, view(pivot))
            da, db = (torch.tensor(v, dtype=a.dtype, device=a.device) for v in (product, total))
        return dx, None, da, db, None


def _moments(x: Tensor, axis: int, sample_axis: int | None) -> tuple[list[Tensor | None], tuple[int, int]]:
    """What NumPy's way gives; vectors that are one are given once."""
    with threads.at_most(torch.get_num_threads()):
        m = moments_of(view(x), axis=axis, sample_axis=sample_axis)
    vectors = [torch.tensor(v, device=x.device) for v in (m.mean, m.m2, m.minimum, m.maximum)]
    sample_m2 = None if m.sample_m2 is m.m2 else torch.tensor(m.sample_m2, device=x.device)
    return [*vectors, sample_m2], (m.count, m.samples)


def _affine(x: Tensor, axis: int, pivot: Tensor, a: Tensor, b: Tensor) -> Tensor:
    y = torch.empty_like(x)
    with threads.at_most(torch.get_num_threads()):
        cpu.affine(view(x), axis, view(pivot), view(a), view(b), _writable(y))
    return y


def _moments_gradient(
    g: Cotangent, x: Tensor, axis: int, sample_axis: int | None, mean: Any, low: Any, high: Any
) -> Tensor:
    """``d + b (x - mean)``, where d may differ between samples, and what goes to the extremes."""
    wide = x.detach().float() if x.dtype in HALF else x.detach()
    data, y = view(wide), torch.empty_like(wide)
    out, channels = _writable(y), mean.size
    samples = 1 if sample_axis is None else x.shape[sample_axis]
    size = data.size // channels // samples
    on_mean, on_m2, on_low, on_high, on_sample_m2 = (np.zeros(channels) if v is None else view(v) for v in g)
    if g.sample_m2 is not None and size == 1:
        on_m2 = on_m2 + on_sample_m2
    d, b = on_mean / (size * samples), 2 * on_m2
    with threads.at_most(torch.get_num_threads()), np.errstate(all="ignore"):
        if g.sample_m2 is not None and sample_axis is not None and size > 1 and samples > 1:
            means = cpu.group_moments(data, axis, sample_axis, extremes=False).mean
            d = d + 2 * size * on_sample_m2 * (means - mean)
            first = [np.moveaxis(v, sample_axis, 0) for v in (data, out)]
            at = axis + (axis < sample_axis)
            cpu.combine(first[0], first[0], at, mean, np.zeros(channels), b, d, first[1])
        elif g.m2 is None and g.sample_m2 is None:
            out[...] = d.reshape([-1 if i == axis else 1 for i in range(out.ndim)])
        else:
            pivot = mean.astype(data.dtype).astype(np.float64)
            cpu.affine(data, axis, pivot, b, d + b * (pivot - mean), out=out)
        if g.minimum is not None or g.maximum is not None:
            ties = cpu.count_extremes(data, axis, low, high)
            at_ends = [
                np.divide(v, n, out=np.zeros(channels), where=n > 0)
                for v, n in zip((on_low, on_high), ties, strict=True)
            ]
            cpu.add_at_extremes(data, axis, low, high, at_ends[0], at_ends[1], out)
    return y if y.dtype == x.dtype else y.to(x.dtype)


def _plain_gradients(outputs: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The gradients by autograd through plain operations, which may be differentiated again."""
    pairs = [(y, g) for y, g in outputs if g is not None and y.requires_grad]
    if not pairs:
        return [torch.zeros_like(v) for v in inputs]
    found, gradients = zip(*pairs, strict=True)
    again = torch.is_grad_enabled()
    return list(torch.autograd.grad(found, inputs, gradients, create_graph=again, materialize_grads=True))
