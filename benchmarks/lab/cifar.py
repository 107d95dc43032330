"""What the studies on CIFAR-10 share: CIFAR-10's test images and a trained, calibrated network."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.lab import command
from shrinkstats.adapters import models
from shrinkstats.adapters.datasets import read_cifar10
from shrinkstats.adapters.torch import calibrate

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as the ResNet-20 expects
SETTINGS = ("images", "seed", "mean", "std", "bfloat16")


class Cifar(NamedTuple):
    """A network, images with their labels, and what turns images into the network's input."""

    net: nn.Module
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    prepare: Callable[[NDArray[np.uint8]], Tensor]


def normalizer(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Callable[[np.ndarray], Tensor]:
    """What makes of images of bytes what the networks take."""
    center, scale = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))

    def prepare(images: np.ndarray) -> Tensor:
        return ((torch.from_numpy(images) / 255 - center) / scale).to(memory_format=torch.channels_last)

    return prepare


def options(description: str | None, *, images: int) -> argparse.ArgumentParser:
    """A parser with the options that say what to load; `images` is how many, if not told."""
    parser = command.options(description)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar-10-batches-py")
    parser.add_argument("--weights", type=Path, required=True, help="of the network (safetensors)")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN, help="of the network's input")
    parser.add_argument("--std", type=float, nargs=3, default=STD, help="of the network's input")
    parser.add_argument("--bfloat16", action="store_true", help="convolutions in bfloat16 (autocast)")
    return parser


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What to record of the options."""
    return {name: getattr(args, name) for name in SETTINGS}


def load(args: argparse.Namespace, model: str = "resnet20") -> Cifar:
    """Images drawn at random, and the network, calibrated on ten batches of 128 training images."""
    train, _ = read_cifar10(args.data, "train")
    test, labels = read_cifar10(args.data, "test")
    rng = np.random.default_rng(args.seed)
    order = rng.permutation(len(test))[: args.images]
    prepare = normalizer(args.mean, args.std)
    net = getattr(models, model)()
    net.load_state_dict(load_file(args.weights))
    net.eval().to(memory_format=torch.channels_last)
    calibrate(net, prepare(train[rng.permutation(len(train))[:1280]]).split(128))
    return Cifar(net, test[order], labels[order], prepare)
