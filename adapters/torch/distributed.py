"""Moments of all ranks together: one all-reduce forward, one backward.

Every rank fills its own row of a table of zeros; adding up the tables of all ranks completes it everywhere. Merging
the rows in their order then gives every rank the same bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from shrinkstats.adapters.torch.addresses import array, tensor
from shrinkstats.values import Moments

HEADER = 3  # of a row: samples, observations in each, whether the input needs a gradient


@torch.compiler.disable
def merge(batch: Moments, x: Tensor, group: Any, *, extremes: bool) -> Moments:
    """The moments of all ranks, from those of this rank's x; differentiable if they are tensors.

    Raises
    ------
    ValueError
        If this process is not in the group, the ranks differ in what they want differentiated, or all of them
        together have fewer than 2 values per channel.
    """
    rank, ranks, channels = dist.get_rank(group), dist.get_world_size(group), x.size(1)
    if rank < 0:
        raise ValueError("this process is not in the layer's process_group; pass the group of the ranks that train it")
    on_host = isinstance(batch.mean, np.ndarray)
    vectors = [batch.mean, batch.m2, batch.sample_m2, *([batch.minimum, batch.maximum] if extremes else [])]
    place = {"dtype": torch.float64 if x.device.type in ("cpu", "cuda") else torch.float32, "device": x.device}
    table = torch.zeros(ranks, HEADER + len(vectors) * channels, **place)
    size = batch.count // max(batch.samples, 1)
    table[rank, :HEADER] = torch.tensor([batch.samples, size, x.requires_grad], **place)
    if batch.count:
        table[rank, HEADER:] = torch.cat([torch.as_tensor(v, **place) for v in vectors])
    elif not on_host:
        table[rank, HEADER:] = x.sum()  # zero, and a graph: backward has to come by
    table = _AllReduce.apply(table, group)
    header = [[int(value) for value in row] for row in table[:, :HEADER].tolist()]
    _check(header)
    rows = array(table) if on_host else table
    return sum(
        _unpack(samples, size, row[HEADER:], channels) for (samples, size, _), row in zip(header, rows, strict=True)
    )


def around_the_mean(batch: Moments) -> tuple[Moments, Any]:
    """The same with the samples' deviations taken from `mean`, and the drift: minus half of what they change with it.

    The mean of samples of one size is `mean`, where a sum of squared deviations is flat: no drift.
    """
    offset = batch.sample_mean - batch.mean
    drift = batch.sample_weight * offset
    around = {"sample_mean": batch.mean, "sample_m2": batch.sample_m2 + drift * offset, "equal_samples": True}
    return replace(batch, **around), drift


def add(vectors: list[Any], group: Any) -> list[Any]:
    """Vectors of channels, each added up over the ranks."""
    table = tensor(np.stack(vectors))
    dist.all_reduce(table, group=group)
    return list(array(table))


class _AllReduce(torch.autograd.Function):
    """A sum over ranks. Every rank has a loss of its own, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.apply(g, ctx.group), None


def _check(header: list[list[int]]) -> None:
    """All ranks come to the same verdict, so that none waits for another that gave up."""
    differentiated = [rank for rank, (_, _, needed) in enumerate(header) if needed]
    if len(differentiated) not in (0, len(header)):
        raise ValueError(
            f"the input needs a gradient on ranks {differentiated} of {len(header)} only, which would wait in backward "
            "for the others; run the layer alike on all ranks (mind torch.no_grad and requires_grad)"
        )
    count = sum(samples * size for samples, size, _ in header)
    if count < 2:
        raise ValueError(f"expected more than 1 value per channel when training, got {count} on all ranks together")


def _unpack(samples: int, size: int, row: Any, channels: int) -> Moments:
    mean, m2, sample_m2, *ends = (row[i : i + channels] for i in range(0, len(row), channels))
    low, high = ends or [mean * math.nan] * 2
    if not samples:
        return Moments.empty(channels)
    return Moments.of_equal_samples(
        count=samples * size, samples=samples, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=sample_m2
    )
