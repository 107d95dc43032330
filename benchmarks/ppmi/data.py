"""Brain volumes for training: folds, parts that share no subject, batches moved and mirrored at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shrinkstats.adapters.datasets import Volumes, cross_validation, harmonize, split_subjects

FOLDS = 5
SHIFT = 2  # voxels that a volume may move in training


class Part(NamedTuple):
    """Volumes of shape (n, 1, x, y, z) with intensities from 0 to 1, and their labels, on one device."""

    images: Tensor
    labels: Tensor


def parts(volumes: Volumes, seed: int, device: torch.device, scanner: str | None = None) -> tuple[Part, Part, Part]:
    """What to train on, validate with and test on, by the fold of the seed; no two of them share a subject.

    With the column of the table that names the scanner, their differences are taken out.
    """
    rest, test = fold(volumes, seed)
    inner = split_subjects(volumes.subjects[rest], volumes.labels[rest], (0.8, 0.2), seed=seed)
    train, validation = (rest[part] for part in inner)
    images = volumes.images if scanner is None else harmonize(volumes.images, _scanners(volumes, scanner), train)
    labels = torch.from_numpy(volumes.labels)
    shown = torch.from_numpy(images.clip(0, 1))
    part, other, held_out = (Part(shown[k].to(device), labels[k].to(device)) for k in (train, validation, test))
    return part, other, held_out


def _scanners(volumes: Volumes, column: str) -> list[str]:
    if column not in volumes.scans[0].columns:
        raise SystemExit(f"the table has no column {column}; it has {', '.join(volumes.scans[0].columns)}")
    return [scan.columns.get(column, "") for scan in volumes.scans]


def fold(volumes: Volumes, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the volumes that are not and that are in the fold of a seed."""
    return cross_validation(volumes.subjects, volumes.labels, FOLDS)[seed % FOLDS]


@dataclass(frozen=True)
class Shuffled:
    """The batches of an epoch, made one by one; the seed says which epoch of which training."""

    part: Part
    size: int
    seed: int

    def __len__(self) -> int:
        return len(self.part.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.part.images), generator=generator)[: len(self) * self.size]
        for chosen in order.split(self.size):
            yield augment(self.part.images[chosen], generator), self.part.labels[chosen]


def augment(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Volumes moved by some voxels along each axis, half of them mirrored from left to right."""
    padded = functional.pad(volumes, [SHIFT] * 6)
    starts = torch.randint(2 * SHIFT + 1, (len(volumes), 3), generator=generator).tolist()
    for axis, size in enumerate(volumes.shape[2:]):
        moved = zip(padded, starts, strict=True)
        padded = torch.stack([volume.narrow(1 + axis, start[axis], size) for volume, start in moved])
    mirrored = torch.rand(len(volumes), generator=generator) < 0.5
    return torch.where(mirrored.to(volumes.device)[:, None, None, None, None], padded.flip(2), padded)
