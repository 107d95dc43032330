"""The networks compared under attack: an architecture, a normalization, and the statistics it evaluates with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.lab.cifar import MEAN, STD
from benchmarks.lab.norms import WITHOUT_RULE
from benchmarks.lab.runner import rule_name
from shrinkstats.adapters import models
from shrinkstats.adapters.attacks import Standardized
from shrinkstats.adapters.torch import AdaptiveBatchNormNetwork, adapt, calibrate, convert
from shrinkstats.estimators import BatchStatistics
from shrinkstats.rules.registry import RULES, named

NORMS = (*RULES, *WITHOUT_RULE)
MODES = ("running", "batch")


def norm(name: str) -> str:
    """A normalization by name, as a command line gives it; module:Rule is one of the user's own."""
    return name if name in WITHOUT_RULE else rule_name(name)


@dataclass(frozen=True)
class Subject:
    """What is trained once and evaluated in each mode."""

    net: str
    norm: str
    seed: int
    training: str = "natural"

    def __str__(self) -> str:
        return f"{self.net}-{self.norm}-{self.training}-{self.seed}"

    @property
    def modes(self) -> tuple[str, ...]:
        """Whose statistics evaluation takes: the running ones, or the batch's. Without any there is one mode.

        What the papers call a norm without tracking is the mode "batch": tracking changes nothing in training.
        """
        return MODES[:1] if self.norm in ("group_norm", "none") else MODES

    def build(self) -> nn.Module:
        """The untrained network, of images from 0 to 1."""
        torch.manual_seed(self.seed)
        if self.norm == "none":
            net = getattr(models, f"fixup_{self.net}")()
        elif self.norm == "abnn":
            net = AdaptiveBatchNormNetwork(*(getattr(models, self.net)() for _ in range(2)))
        elif self.norm == "group_norm":
            net = getattr(models, self.net)(norm_layer=models.group_norm)
        else:
            net = getattr(models, self.net)()
            if self.norm != "batch_norm":
                convert(net, named(self.norm))
        return Standardized(net, MEAN, STD).to(memory_format=torch.channels_last)

    def prepare(self, net: nn.Module, folder: Path) -> bool:
        """Give ABNN its substitute, the network with batch norm; False if that is not trained yet."""
        if self.norm != "abnn":
            return True
        path = folder / f"{replace(self, norm='batch_norm', training='natural')}.safetensors"
        if path.exists():
            state = {name.removeprefix("net."): value for name, value in load_file(path).items()}
            net.net.substitute.load_state_dict(state)
        return path.exists()

    def in_mode(self, net: nn.Module, mode: str) -> nn.Module:
        """A copy that evaluates so; it is attacked, so its weights need no gradients."""
        net = copy.deepcopy(net).eval().requires_grad_(False)
        if mode == "batch" and self.norm == "abnn":  # the substitute's statistics are the batch's in either mode
            adapt(net.net.target, BatchStatistics())
        elif mode == "batch":
            with warnings.catch_warnings():  # during training a Stein blend is not calibrated yet
                warnings.filterwarnings("ignore", message="not calibrated")
                adapt(net, named(self.norm))
        return net

    def calibrate(self, net: nn.Module, images: Iterable[Tensor]) -> None:
        """Measure the noise that a rule looks at, as the Stein blend does."""
        if self.norm not in WITHOUT_RULE and named(self.norm).uses_noise:
            calibrate(net, images)


def subjects(
    nets: Iterable[str], norms: Iterable[str], trainings: Iterable[str], seeds: Iterable[int]
) -> list[Subject]:
    """All there are, seed by seed; every other seed backwards, so that two shares have equally much to do.

    ABNN comes last: it needs a trained network with batch norm.
    """
    found = []
    for seed in seeds:
        round = [Subject(net, norm, seed, training) for training in trainings for net in nets for norm in norms]
        found += [
            s for s in (round[::-1] if seed % 2 else round) if s.norm != "none" or hasattr(models, f"fixup_{s.net}")
        ]
    return sorted(found, key=lambda subject: subject.norm == "abnn")
