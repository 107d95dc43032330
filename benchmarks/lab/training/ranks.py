"""The processes that train one network together; alone, without torch.distributed, there is one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def together() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized()


def number() -> int:
    """How many there are."""
    return dist.get_world_size() if together() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if together() else 0


def wrapped(net: nn.Module, device: torch.device) -> nn.Module:
    """The network as it is called in training: gradients are averaged over the ranks."""
    if not together():
        return net
    return nn.parallel.DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)


def shard(batch: Tensor) -> Tensor:
    """The part of a batch that is this rank's.

    Raises
    ------
    ValueError
        If there are fewer samples than ranks.
    """
    if len(batch) < number():
        raise ValueError(f"a batch of {len(batch)} samples cannot be shared by {number()} ranks; make batches larger")
    return batch.tensor_split(number())[rank()]


def same_buffers(net: nn.Module) -> None:
    """Give every rank the buffers of rank 0 (running statistics differ with the parts the ranks saw last)."""
    if together():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    box = [value]
    if together():
        dist.broadcast_object_list(box, 0)
    return box[0]


def total(value: Tensor) -> Tensor:
    """The sum over the ranks."""
    if together():
        dist.all_reduce(value)
    return value
