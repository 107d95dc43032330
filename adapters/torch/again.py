"""Batches that a backward pass computes again, and what they were normalized by when they came.

Activation checkpoints compute a batch again when running statistics, or a stream, have moved on. So of calls that may
be made again a layer keeps the last few: short vectors, and what was known then beside each.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.utils import checkpoint as checkpoints
from torch.utils._python_dispatch import _disable_current_modes

from shrinkstats.adapters.torch.addresses import tensor
from shrinkstats.adapters.torch.memory import has_pytorch_order
from shrinkstats.values import Moments

# What all calls in a checkpoint that is not reentrant share, and what shows it: PyTorch before 2.8 does not.
FRAME = getattr(checkpoints, "_CheckpointFrame", ())
HOOKS = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
RECALLED = 16  # calls whose backward pass may ask again
PROBES = 64  # elements of a batch that are compared, besides its moments: a flipped or permuted one has the same


class Batch(NamedTuple):
    """What is compared of two batches, and what a stream remembers of one: moments of weighted images."""

    weight: float  # the sum of the images' weights
    squares: float  # the sum of their squared weights
    mean: Tensor
    var: Tensor
    between: Tensor  # variance of the images' means


def batches(moments: Moments) -> list[Batch]:
    """One batch, or those of a stack in their order."""
    vectors = (moments.mean, moments.var(), moments.sample_m2 * (moments.samples / moments.count**2))
    tensors = (v.detach() if isinstance(v, Tensor) else tensor(v) for v in vectors)
    mean, var, between = (v.reshape(-1, v.shape[-1]) for v in tensors)
    n = float(moments.samples)
    return [Batch(n, n, *parts) for parts in zip(mean, var, between, strict=True)]


class Call:
    """One call of a layer, as far as another can be told to be the same one made again.

    Attributes
    ----------
    kept : bool
        Whether it may be made again, so that a layer has to keep what it knew.
    known : list or None
        What was known of each of its batches, once that was found.
    """

    def __init__(self, x: Tensor) -> None:
        self.known: list[Any] | None = None
        self.used: set[int] = set()  # backward passes that made it again
        self.shape = x.shape
        hooks = None if HOOKS is None else HOOKS(True)
        frame, recomputed = _checkpoint(hooks)
        self.task = torch._C._current_graph_task_id()
        self.again = recomputed or self.task != -1
        # Checkpoints have hooks, or want no gradients at first; of other calls the graph keeps what backward asks for.
        self.kept = self.again or (
            not torch.is_inference_mode_enabled()
            and (not torch.is_grad_enabled() or hooks is not None or HOOKS is None)
        )
        self._frame = None if frame is None else weakref.ref(frame)
        self._probe = _some_of(x) if self.kept else None

    @property
    def frame(self) -> Any:
        """The checkpoint it is in; None if that is gone, or cannot be seen."""
        return None if self._frame is None else self._frame()

    def like(self, other: Call) -> bool:
        """Whether the batches are the same, to the rounding of single precision."""
        if self.shape != other.shape or self._probe is None or other._probe is None:
            return False
        a, b = self._probe, other._probe
        return a.device == b.device and _near(a, b, 1e-4 * (a.abs() + a.abs().mean()))


class Seen(deque[tuple[Call, list[Batch], list[Any]]]):
    """The last calls of a layer that may be made again, each with its batches, and what was known of them then."""

    def __init__(self, entries: Any = (), maxlen: int | None = RECALLED) -> None:
        super().__init__(entries, maxlen)

    def __reduce__(self) -> Any:
        return Seen, ()  # a copied or pickled layer has no graph behind it

    def recall(self, call: Call, stack: list[Batch]) -> list[Any] | None:
        """What was known of each batch when a call was made that a backward pass makes again; None of a new call.

        Raises
        ------
        RuntimeError
            If it may be one that is not kept any more, or one of several that cannot be told apart.
        """
        if not call.again:
            return None
        with unrecorded():
            found = [(e, known) for e, batches, known in tuple(self) if call.like(e) and _all_same(batches, stack)]
            if found:
                earlier, known = _made_again(found, call)
                earlier.used.add(call.task)
                return known
        if len(self) == RECALLED:
            raise RuntimeError(
                f"a backward pass computes a batch that a layer does not know: one that came more than {RECALLED} "
                "checkpointed batches ago, and running statistics or the stream have moved on: call backward sooner; "
                "or a new one: compute it outside of backward passes"
            )
        return None


def _made_again(found: list[tuple[Call, list[Any]]], call: Call) -> tuple[Call, list[Any]]:
    """Find out which of the calls with the same batch, in their order, is made again."""
    frame = call.frame
    here = [entry for entry in found if frame is not None and entry[0].frame is frame]
    if here:  # a checkpoint makes its calls in their order
        return next((entry for entry in here if call.task not in entry[0].used), here[-1])
    waiting = [entry for entry in found if not entry[0].used] or found
    if not all(_equal(known, waiting[-1][1]) for _, known in waiting):
        raise RuntimeError(
            "a backward pass computes a batch again that a layer saw several times, when its running statistics, or "
            "the stream, were not the same, and nothing says which time is meant: use "
            "checkpoint(..., use_reentrant=False), where that can be seen, or backward before the batch comes again"
        )
    return waiting[-1]


def _equal(a: Any, b: Any) -> bool:
    """Whether two lists of priors, or memories, are the same numbers."""
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and _near(a, b, torch.zeros_like(a))
    return a is b or bool(np.array_equal(a, b, equal_nan=True))


def unrecorded() -> Any:
    """A context in which no mode sees operations: bookkeeping is no part of what a checkpoint makes again."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()


def of_numbers(x: Tensor) -> bool:
    """Whether x is numbers and does not stand for some, and nobody records or transforms what is done with it."""
    modes = torch._C._TorchDispatchModeKey
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or any(torch._C._get_dispatch_mode(key) is not None for key in (modes.FAKE, modes.PROXY, modes.FUNCTIONAL))
        or isinstance(x, FakeTensor)
        or x.is_meta
    )


def _checkpoint(hooks: Any) -> tuple[Any, bool]:
    """The checkpoint that these hooks for saved tensors are of, if of one, and whether it makes its calls again."""
    pack: Any = None if hooks is None else hooks[0]
    while hasattr(pack, "__wrapped__"):
        pack = pack.__wrapped__
    names = getattr(getattr(pack, "__code__", None), "co_freevars", ())
    inside = dict(zip(names, getattr(pack, "__closure__", None) or (), strict=False))
    for name, again in (("frame", False), ("target_frame_ref", True)):
        if name in inside:
            frame = inside[name].cell_contents
            frame = frame() if again and callable(frame) else frame
            if isinstance(frame, FRAME):
                return frame, again
    return None, False


def _some_of(x: Tensor) -> Tensor:
    """Elements from all over a batch, in single precision or better, the same of the same batch."""
    with unrecorded(), torch.no_grad():
        x = x.detach()
        if not x.is_contiguous() and has_pytorch_order(x):  # a flat view, in the order of memory
            x = x.movedim(1, -1)
        at = _places(x.numel(), x.device)
        found = x.view(-1)[at] if x.is_contiguous() else x[torch.unravel_index(at, x.shape)]
        return found.to(torch.promote_types(x.dtype, torch.float32))


@lru_cache(maxsize=256)
def _places(size: int, device: torch.device) -> Tensor:
    """Where to look in so many elements: in steps that are no multiple of any axis' own."""
    return (torch.arange(min(PROBES, size), device=device) * 0x9E3779B1) % max(size, 1)


def _all_same(some: list[Batch], others: list[Batch]) -> bool:
    """Whether batches have the same moments, to the rounding of single precision."""
    return len(some) == len(others) and all(map(_same, some, others))


def _same(a: Batch, b: Batch) -> bool:
    if a.weight != b.weight or a.mean.shape != b.mean.shape or a.mean.device != b.mean.device:
        return False
    return _near(a.mean, b.mean, 1e-5 * (a.mean.abs() + a.var.sqrt())) and _near(a.var, b.var, 1e-4 * a.var)


def _near(a: Tensor, b: Tensor, rounding: Tensor) -> bool:
    """Whether all numbers are near each other, or both infinite, or both missing."""
    return bool((((a - b).abs() <= rounding) | (a == b) | (a.isnan() & b.isnan())).all())
