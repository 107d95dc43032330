"""Which test images a network gets right, by statistics, shift and batch size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shrinkstats.adapters.commands.digits.data import SHIFTS, Split
from shrinkstats.adapters.torch import adapt, reset
from shrinkstats.estimators import BatchStatistics, Estimator, PriorBlend, SteinBlend

RULES: dict[str, Estimator | None] = {
    "trained statistics": None,
    "batch statistics": BatchStatistics(),
    "PriorBlend(16)": PriorBlend(16),
    "SteinBlend": SteinBlend(),
}
BATCH_SIZES = (1, 4, 16, 64)


def sizes_of(shuffle: int) -> tuple[int, ...]:
    """Batch sizes to evaluate: single images are the same however they are dealt, and the slowest."""
    return BATCH_SIZES if shuffle == 0 else BATCH_SIZES[1:]


def passes(shuffles: int) -> int:
    """How often `evaluate` goes over the test images."""
    dealt = sum(len(sizes_of(shuffle)) for shuffle in range(shuffles))
    return len(SHIFTS) * (1 + dealt * sum(rule is not None for rule in RULES.values()))


@torch.no_grad()
def evaluate(network: nn.Module, data: Split, *, seed: int, shuffles: int, after_pass: Callable[[], None]) -> Tensor:
    """How often each image was right, from 0 to 1: a tensor of shape (rules, shifts, batch sizes, images).

    Every rule sees the same images in the same batches, which mix the digits at random.
    """
    hits = torch.zeros(len(RULES), len(SHIFTS), len(BATCH_SIZES), len(data.images), dtype=torch.float64)
    rounds = [sum(size in sizes_of(shuffle) for shuffle in range(shuffles)) for size in BATCH_SIZES]
    generator = torch.Generator().manual_seed(seed)
    shifted = [shift(data.images, generator) for shift in SHIFTS.values()]
    orders = [torch.randperm(len(data.images), generator=generator) for _ in range(shuffles)]
    for r, rule in enumerate(RULES.values()):
        reset(network) if rule is None else adapt(network, rule)
        for s, images in enumerate(shifted):
            if rule is None:  # trained statistics do not see the batch
                hits[r, s] = (network(images).argmax(1) == data.labels).double()
                after_pass()
                continue
            for shuffle, order in enumerate(orders):
                for size in sizes_of(shuffle):
                    guesses = torch.cat([network(batch).argmax(1) for batch in images[order].split(size)])
                    i = BATCH_SIZES.index(size)
                    hits[r, s, i, order] += (guesses == data.labels[order]) / rounds[i]
                    after_pass()
    reset(network)
    return hits
