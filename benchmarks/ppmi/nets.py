"""The 3D networks compared: the small one of arXiv 2507.08261, and those of MONAI, each with any normalization."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from shrinkstats.adapters.models import small_cnn3d
from shrinkstats.adapters.torch import adapt, convert
from shrinkstats.rules.registry import named

DENSENET = 29  # voxels: after two steps that round up, three that round down leave one


def monai(name: str, **options: Any) -> nn.Module:
    """A 3D network of MONAI."""
    try:
        from monai.networks import nets  # an optional extra
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name} is of MONAI, which is not installed: pip install shrinkstats[medical]") from error
    return getattr(nets, name)(spatial_dims=3, **options)


def densenet121(shape: tuple[int, ...]) -> nn.Module:
    """MONAI's DenseNet-121."""
    if min(shape) < DENSENET:
        raise SystemExit(f"densenet121 needs {DENSENET} voxels along every axis, got {shape}; choose another --shape")
    return monai("DenseNet121", in_channels=1, out_channels=1)


NETS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "small_cnn3d": lambda shape: small_cnn3d(input_size=shape),
    "resnet10": lambda shape: monai("resnet10", n_input_channels=1, num_classes=1),
    "resnet18": lambda shape: monai("resnet18", n_input_channels=1, num_classes=1),
    "densenet121": densenet121,
}


@dataclass(frozen=True)
class Run:
    """What is trained once and evaluated in each mode."""

    net: str
    norm: str
    train_batch: int
    seed: int

    def __str__(self) -> str:
        return f"{self.net}-{self.norm}-{self.train_batch}-{self.seed}"

    def build(self, shape: Sequence[int]) -> nn.Module:
        """The untrained network; under torchrun its layers take the statistics of all ranks."""
        torch.manual_seed(self.seed)
        net = NETS[self.net](tuple(shape))
        if dist.is_initialized():
            return convert(net, named(self.norm), process_group=dist.group.WORLD)
        return net if self.norm == "batch_norm" else convert(net, named(self.norm))

    def in_mode(self, net: nn.Module, mode: str) -> nn.Module:
        """A copy that evaluates so; it is attacked, so its weights need no gradients."""
        net = copy.deepcopy(net).eval().requires_grad_(False)
        return adapt(net, named(self.norm)) if mode == "batch" else net
