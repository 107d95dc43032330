"""ImageNet-C as published: folders of JPEG files, corruption/severity/class/file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.robustness.corruptions import CORRUPTIONS

ENDINGS = (".jpeg", ".jpg")


class Sample(NamedTuple):
    """Where an image is, and what it shows."""

    path: Path
    label: int


class ImageNetC:
    """The images of some corruptions and severities of ImageNet-C, read one by one.

    An instance has a length and gives (image, label) for an index or one after another, as data loaders ask for it:
    images are uint8 arrays of shape (3, height, width).

    Parameters
    ----------
    folder : path
        The folder that holds a folder for each corruption, such as ``fog/3/n01440764/ILSVRC2012_val_00000293.JPEG``.
    corruptions : sequence of str
        Which corruptions.
    severities : sequence of int
        Which severities, of 1 to 5.
    classes : sequence of str, optional
        The classes (WordNet identifiers) in the order of the network's outputs; folders may lack some of them. Without
        it, the 1,000 classes in the order of their names, none of which may be missing.
    seed : int, optional
        Shuffles all images into one another: the mixed set of Schneider et al. (2020). Without it they come corruption
        by corruption, severity by severity, class by class.

    Raises
    ------
    FileNotFoundError
        If the folder of a corruption and severity is missing.
    ValueError
        If folders of classes are not those expected, there are no images, or an image cannot be read. The message
        names the folder or file.
    """

    def __init__(
        self,
        folder: str | Path,
        corruptions: Sequence[str] = CORRUPTIONS,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        *,
        classes: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        sets = [Path(folder) / name / str(severity) for name in corruptions for severity in severities]
        if not sets:
            raise ValueError("expected at least one corruption and one severity")
        for path in sets:
            if not path.is_dir():
                raise FileNotFoundError(f"the folder {path} is missing; expected corruption/severity/class/*.JPEG")
        self.classes = _classes(sets[0]) if classes is None else tuple(classes)
        if classes is None and len(self.classes) != 1000:
            raise ValueError(
                f"{sets[0]}: expected 1000 folders of classes, found {len(self.classes)}; "
                "for a part pass classes=[...], all in the order of the network's outputs"
            )
        label = {name: number for number, name in enumerate(self.classes)}
        # Four million files when complete: names, which corruptions share, are kept once, and paths put together late.
        self._folders: list[Sample] = []
        self._files: list[str] = []
        folders: list[int] = []
        for path in sets:
            present = _classes(path)
            wrong = set(present) ^ set(label) if classes is None else set(present) - set(label)
            if wrong:
                raise ValueError(f"{path}: folders of classes differ from the classes expected, as in {min(wrong)}")
            for name in present:
                files = [file for file in sorted(os.listdir(path / name)) if file.lower().endswith(ENDINGS)]
                folders += [len(self._folders)] * len(files)
                self._files += map(sys.intern, files)
                self._folders.append(Sample(path / name, label[name]))
        if not folders:
            raise ValueError(f"no images in {sets[0]} and the other folders; expected corruption/severity/class/*.JPEG")
        self._folder = np.array(folders)
        self._order = np.arange(len(folders)) if seed is None else np.random.default_rng(seed).permutation(len(folders))

    def sample(self, index: int) -> Sample:
        """The path and the label of an image, without reading it."""
        place = self._order[index]
        folder, label = self._folders[self._folder[place]]
        return Sample(folder / self._files[place], label)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        path, label = self.sample(index)
        return _load(path), label

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        return (self[index] for index in range(len(self)))


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))


def _load(path: Path) -> NDArray[np.uint8]:
    from PIL import Image  # a set may be listed without it

    try:
        with Image.open(path, formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a JPEG image: {error}") from error
