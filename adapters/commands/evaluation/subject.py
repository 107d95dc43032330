"""A network and the images it is to be shown."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import shrinkstats
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.evaluation import data as folders
from shrinkstats.adapters.commands.evaluation.checkpoint import load_network, outputs
from shrinkstats.adapters.datasets.cifar import Labelled
from shrinkstats.adapters.torch import calibrate
from shrinkstats.adapters.torch.conversion import shrinking_layers

Three = tuple[float, float, float]

CALIBRATION = 1280  # training images that the noise of batch statistics is measured on
PORTION = 128  # images that are prepared at once


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what.

    Attributes
    ----------
    network : torch.nn.Module
        In evaluation.
    data : Data
        Where images come from.
    places : int64 array
        Which of them, in the order they are shown.
    mean, std : three floats each
        Of the images the network was trained on, scaled to [0, 1].
    seed : int
        Of whatever is left to chance.
    training : Path or None
        A folder of training images, if there is one.
    settings : dict
        All that decides about numbers, for a record.
    """

    network: nn.Module = field(repr=False)
    data: folders.Data
    places: NDArray[np.int64] = field(repr=False)
    mean: Three
    std: Three
    seed: int
    training: Path | None
    settings: dict[str, Any]

    def read(self, condition: folders.Condition) -> Labelled:
        """Images and labels under a shift."""
        return folders.read(self.data, condition, self.places, self.seed)

    def portions(self, images: NDArray[np.uint8], size: int = PORTION) -> Iterator[Tensor]:
        """Images as the network takes them, `size` at a time."""
        mean, std = (torch.tensor(v, device="cpu").reshape(3, 1, 1) for v in (self.mean, self.std))
        for start in range(0, len(images), size):
            portion = torch.from_numpy(np.ascontiguousarray(images[start : start + size]))
            yield ((portion / 255 - mean) / std).to(memory_format=torch.channels_last)

    @property
    def calibrated(self) -> bool:
        """Whether the noise of batch statistics is known, or will be."""
        return self.training is not None or _calibrated(self.network)

    def calibrate(self) -> None:
        """Measure the noise of batch statistics on training images, if there are any."""
        if self.training is not None:
            images = folders.training_images(self.training, self.data.classes)
            chosen = np.random.default_rng(self.seed).permutation(len(images))[:CALIBRATION]
            calibrate(self.network, self.portions(images[chosen]), batches=CALIBRATION // PORTION)


def prepare(
    checkpoint: Path,
    folder: Path,
    *,
    model: str,
    images: int,
    seed: int,
    mean: Three,
    std: Three,
    training: Path | None = None,
    frost: Path | None = None,
) -> Subject:
    """Read a checkpoint, look into a data folder, and choose images.

    Parameters
    ----------
    checkpoint : Path
        Of a network: see :func:`shrinkstats.adapters.commands.evaluation.checkpoint.load_network`.
    folder : Path
        Of images: see :func:`shrinkstats.adapters.commands.evaluation.data.open_data`.
    model : str
        The network's name among :mod:`shrinkstats.adapters.models`.
    images : int
        How many to take of each shift; all, if there are fewer.
    seed : int
        Chooses the images and their corruptions.
    mean, std : three floats each
        Of the training images, scaled to [0, 1].
    training : Path, optional
        A folder with CIFAR's training images. Left out, `folder` is searched for them, unless the checkpoint holds
        what would be measured on them.
    frost : Path, optional
        A folder of pictures of frost, which that corruption takes.

    Raises
    ------
    UsageError
        If a request cannot be met.
    ValueError
        If a file is damaged, or does not hold what it should.
    """
    if not (all(map(math.isfinite, (*mean, *std))) and min(std) > 0):
        raise UsageError(f"--mean and --std must be finite, and --std above 0, got {mean} and {std}")
    network = load_network(checkpoint, model)
    data = folders.open_data(folder, outputs(network), seed=seed, frost=frost)
    count = len(data)
    if training is None and not _calibrated(network) and folders.holds_training_images(folder, data.classes):
        training = folder
    elif training is not None and not folders.holds_training_images(training, data.classes):
        raise UsageError(f"--training-data: no CIFAR training images of {data.classes} classes in {training}")
    settings = {
        "shrinkstats": shrinkstats.__version__,
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "model": model,
        "data": str(folder.resolve()),
        "kind": data.name,
        "images": min(images, count),
        "seed": seed,
        "mean": list(mean),
        "std": list(std),
        "training_data": str(training.resolve()) if training else None,
        "frost": str(frost.resolve()) if frost else None,
    }
    places = np.random.default_rng(seed).permutation(count)[:images]
    return Subject(network, data, places, mean, std, seed, training, settings)


def _calibrated(network: nn.Module) -> bool:
    return all(layer.noise_mean is not None for layer in shrinking_layers(network).values())
