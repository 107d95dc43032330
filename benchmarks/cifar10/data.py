"""CIFAR-10 for training: images in memory, batches cropped and mirrored at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from shrinkstats.adapters.datasets import read_cifar10

BORDER = 4  # pixels that a crop may leave out


@dataclass(frozen=True)
class Data:
    """Images of shape (n, 3, 32, 32) with their labels, on one device. Bytes to train on, else numbers from 0 to 1."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @classmethod
    def load(cls, folder: Path, *, train: int, validation: int, test: int, device: torch.device) -> Data:
        """The first images to train on, the last of the training set for validation; the first of the test set."""
        images, labels = (torch.from_numpy(part).to(device) for part in read_cifar10(folder, "train"))
        shown, answers = (torch.from_numpy(part[:test]).to(device) for part in read_cifar10(folder, "test"))
        if train + validation > len(images):
            raise SystemExit(f"there are {len(images)} images, not {train} to train on and {validation} for validation")
        held = images[len(images) - validation :].float() / 255, labels[len(images) - validation :]
        return cls(images[:train], labels[:train], *held, shown.float() / 255, answers)


@dataclass(frozen=True)
class Shuffled:
    """The batches of an epoch, made one by one; the seed says which epoch of which training."""

    images: Tensor
    labels: Tensor
    seed: int
    size: int = 128

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.images), generator=generator)[: len(self) * self.size]
        for chosen in order.to(self.images.device).split(self.size):
            yield augment(self.images[chosen].float() / 255, generator), self.labels[chosen]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of the images with a border of zeros, half of them mirrored."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, [BORDER] * 4)
    top, left = torch.randint(2 * BORDER + 1, (2, n), generator=generator)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    rows = top[:, None] + torch.arange(height)
    which = (part.to(images.device) for part in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]))
    first, second, third = which
    return padded[first, :, second, third].permute(0, 3, 1, 2)
