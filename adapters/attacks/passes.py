"""What an attack or a training step costs: passes through a network, counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Passes:
    """How often whole batches went through.

    Attributes
    ----------
    forward, backward : int
        Passes in either direction, over all counted networks.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def count_passes(*nets: nn.Module) -> Iterator[Passes]:
    """Count the passes through networks that return a tensor.

    Parameters
    ----------
    *nets : torch.nn.Module
        The networks; their counts are added up.

    Yields
    ------
    Passes
        Counts that grow.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import PGD, classification, count_passes
    >>> net = torch.nn.Linear(4, 3)
    >>> with count_passes(net) as passes:
    ...     _ = PGD(steps=7)(classification(net, torch.tensor([0])), torch.rand(1, 4))
    >>> passes
    Passes(forward=7, backward=7)
    """
    passes = Passes()

    def backward(gradient: Tensor) -> None:
        passes.backward += 1

    def forward(net: nn.Module, inputs: Any, output: Tensor) -> None:
        passes.forward += 1
        if output.requires_grad:
            output.register_hook(backward)

    hooks = [net.register_forward_hook(forward) for net in nets]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
