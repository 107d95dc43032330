"""Batches that a backward pass computes again, and what they were normalized by when they came.

Activation checkpoints and second derivatives compute a batch again when running statistics, or a stream, have moved on.
So a layer keeps its last few batches, as short vectors, and what was known then beside each.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from shrinkstats.adapters.torch.addresses import tensor
from shrinkstats.values import Moments

RECALLED = 16  # batches whose backward pass may ask again


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


class Seen(deque[tuple[Batch, Any]]):
    """The last batches of a layer, and what was known then."""

    def __init__(self, entries: Any = (), maxlen: int | None = RECALLED) -> None:
        super().__init__(entries, maxlen)

    def __reduce__(self) -> Any:
        return Seen, ()  # a copied or pickled layer has no graph behind it

    def recall(self, batch: Batch) -> Any:
        """What was known when a batch came that a backward pass computes again; None of a new batch.

        Raises
        ------
        RuntimeError
            If it may be one that is not kept any more.
        """
        if torch._C._current_graph_task_id() == -1:
            return None
        for earlier, known in reversed(self):
            if _same(earlier, batch):
                return known
        if len(self) == RECALLED and torch.isfinite(torch.stack(batch[2:])).all():
            raise RuntimeError(
                "a backward pass computes a batch that a layer does not know: one that came more than "
                f"{RECALLED} batches ago (of a checkpoint, or for second derivatives), and running statistics or the "
                "stream have moved on: call backward sooner; or a new one: compute it outside of backward passes"
            )
        return None


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


def _same(a: Batch, b: Batch) -> bool:
    """Whether two batches have the same moments, to the rounding of single precision."""
    if a.weight != b.weight or a.mean.shape != b.mean.shape or a.mean.device != b.mean.device:
        return False
    near = (a.mean - b.mean).abs() <= 1e-5 * (a.mean.abs() + a.var.sqrt())
    return bool(near.all()) and torch.allclose(a.var, b.var, rtol=1e-4, atol=0)
