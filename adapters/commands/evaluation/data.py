"""Data folders that are told apart by what they hold, and the shifted images that can be had from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.datasets import (
    ImageNetC,
    MixedSet,
    read_cifar10,
    read_cifar10c,
    read_cifar100,
    read_cifar100c,
)
from shrinkstats.adapters.datasets.cifar import Labelled
from shrinkstats.adapters.robustness import CORRUPTIONS, HOLDOUT, corrupt

CLEAN, MIXED = "none", "mixed"
SEVERITIES = (1, 2, 3, 4, 5)


class Condition(NamedTuple):
    """A corruption and its severity; 0 for clean images, and for a mixed set of all severities."""

    shift: str
    severity: int

    def __str__(self) -> str:
        return f"{self.shift} {self.severity}" if self.severity else self.shift


class Archive(NamedTuple):
    """How one of the CIFAR sets is told, and read."""

    name: str
    folder: str
    test: str
    train: str
    read: Any
    read_corrupted: Any


ARCHIVES = {
    10: Archive("CIFAR-10", "cifar-10-batches-py", "test_batch", "data_batch_1", read_cifar10, read_cifar10c),
    100: Archive("CIFAR-100", "cifar-100-python", "test", "train", read_cifar100, read_cifar100c),
}


@dataclass(frozen=True)
class Clean:
    """The test images of CIFAR, from which corrupted ones are made."""

    name: str
    classes: int
    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    seed: int
    frost: Sequence[NDArray[np.uint8]] | None = field(repr=False)

    @property
    def shifts(self) -> tuple[str, ...]:
        """What may be asked for by name."""
        return (CLEAN, *self.corruptions, *HOLDOUT)

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Those of the benchmark; frost if there are pictures of it."""
        return tuple(name for name in CORRUPTIONS if name != "frost" or self.frost)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, condition: Condition, places: NDArray[np.int64]) -> Labelled:
        """Images and labels; an image is corrupted alike, whichever others are read with it."""
        images, (shift, severity) = self.images[places], condition
        if shift != CLEAN:
            images = corrupt(images, shift, severity, seed=self.seed, ids=places.tolist(), frost=self.frost)
        return images, self.labels[places]


@dataclass(frozen=True)
class CorruptedCifar:
    """The published arrays of CIFAR-10-C or CIFAR-100-C."""

    name: str
    classes: int
    folder: Path
    shifts: tuple[str, ...]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Those of the benchmark."""
        return tuple(name for name in CORRUPTIONS if name in self.shifts)

    def __len__(self) -> int:
        return len(self._set(Condition(self.shifts[0], 1))[1])

    def read(self, condition: Condition, places: NDArray[np.int64]) -> Labelled:
        """Images and labels."""
        images, labels = self._set(condition)
        return images[places], labels[places]

    def _set(self, condition: Condition) -> Labelled:
        return ARCHIVES[self.classes].read_corrupted(self.folder, *condition)


@dataclass(frozen=True)
class CorruptedImageNet:
    """The published folders of ImageNet-C."""

    folder: Path
    shifts: tuple[str, ...]
    name: str = "ImageNet-C"
    classes: int = 1000

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Those of the benchmark."""
        return tuple(name for name in CORRUPTIONS if name in self.shifts)

    def __len__(self) -> int:
        shift = self.shifts[0]
        severity = next(k for k in SEVERITIES if (self.folder / shift / str(k)).is_dir())
        return len(ImageNetC(self.folder, [shift], [severity]))

    def read(self, condition: Condition, places: NDArray[np.int64]) -> Labelled:
        """Images and labels."""
        found = ImageNetC(self.folder, [condition.shift], [condition.severity])
        images, labels = zip(*(found[place] for place in places), strict=True)
        return np.stack(images), np.array(labels)


Data = Clean | CorruptedCifar | CorruptedImageNet


def open_data(folder: Path, classes: int, *, seed: int = 0, frost: Path | None = None) -> Data:
    """What a folder holds, for a network with this many outputs.

    Parameters
    ----------
    folder : Path
        CIFAR-10 or CIFAR-100 ("python version"), CIFAR-10-C, CIFAR-100-C or ImageNet-C, as published.
    classes : int
        Outputs of the network.
    seed : int
        Of the corruptions that are made here.
    frost : Path, optional
        A folder of pictures of frost.

    Raises
    ------
    UsageError
        If the folder is not there, or holds none of these, or other classes.
    ValueError
        If files are damaged. The message names the file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if present := [number for number, archive in ARCHIVES.items() if _is(folder, archive)]:
        number = classes if classes in present else present[0]
        _check_classes(folder, ARCHIVES[number].name, number, classes)
        images, labels = ARCHIVES[number].read(folder, "test")
        return Clean(ARCHIVES[number].name, number, images, labels, seed, _pictures(frost))
    if frost is not None:
        raise UsageError(f"--frost is for corruptions made from clean images; {folder} holds no CIFAR test images")
    if (folder / "labels.npy").is_file():
        names = tuple(sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels"))
        if not names:
            raise UsageError(f"{folder}: labels.npy is there, but no corruption such as fog.npy")
        if classes not in ARCHIVES:
            raise UsageError(f"{folder} has images of 10 or 100 classes, the checkpoint has {classes} outputs")
        return CorruptedCifar(f"{ARCHIVES[classes].name}-C", classes, folder, names)
    if names := tuple(
        sorted({path.parent.name for k in SEVERITIES for path in folder.glob(f"*/{k}") if path.is_dir()})
    ):
        _check_classes(folder, "ImageNet-C", 1000, classes)
        return CorruptedImageNet(folder, names)
    found = sorted(path.name for path in folder.iterdir())
    raise UsageError(
        f"{folder}: not CIFAR (cifar-10-batches-py, cifar-100-python), CIFAR-C (labels.npy, fog.npy, ...) or "
        f"ImageNet-C (fog/3/...); it holds {', '.join(found[:4]) + (', ...' if len(found) > 4 else '') or 'nothing'}"
    )


def holds_training_images(folder: Path, classes: int) -> bool:
    """Whether a folder is the CIFAR set of this many classes, its training images among it."""
    archive = ARCHIVES.get(classes)
    return archive is not None and (_root(folder, archive) / archive.train).is_file()


def training_images(folder: Path, classes: int) -> NDArray[np.uint8]:
    """The clean images a network was trained on, from a folder that holds them.

    Raises
    ------
    ValueError
        If files are damaged. The message names the file.
    """
    return ARCHIVES[classes].read(folder, "train")[0]


def read(data: Data, condition: Condition, places: NDArray[np.int64], seed: int) -> Labelled:
    """Images and labels of a condition.

    A mixed set is dealt: every image comes once, its corruption and severity by chance.
    """
    if condition.shift != MIXED:
        return data.read(condition, places)
    severities = [condition.severity] if condition.severity else SEVERITIES
    kinds = [Condition(name, severity) for name in data.corruptions for severity in severities]
    dealt = np.array_split(np.random.default_rng(seed).permutation(places), len(kinds))
    sets = {str(kind): data.read(kind, part) for kind, part in zip(kinds, dealt, strict=True) if len(part)}
    mixed = MixedSet(sets, seed=seed)[:]
    return mixed.images, mixed.labels


def _root(folder: Path, archive: Archive) -> Path:
    inner = folder / archive.folder
    return inner if inner.is_dir() else folder


def _is(folder: Path, archive: Archive) -> bool:
    """Whether it is such data, or by the name of the folder means to be: the reader then says which file is missing."""
    root = _root(folder, archive)
    return root.name == archive.folder or (root / archive.test).is_file()


def _check_classes(folder: Path, name: str, expected: int, classes: int) -> None:
    if classes != expected:
        raise UsageError(f"{folder} holds {name}, of {expected} classes; the checkpoint has {classes} outputs")


def _pictures(folder: Path | None) -> list[NDArray[np.uint8]] | None:
    if folder is None:
        return None
    from PIL import Image

    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise UsageError(f"--frost: no .png or .jpg in {folder}")
    pictures = []
    for path in paths:
        try:
            with Image.open(path, formats=["PNG", "JPEG"]) as image:
                pictures.append(np.asarray(image.convert("RGB")))
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return pictures
