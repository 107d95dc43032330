"""Street scenes with a class for every pixel, in the layout of Cityscapes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.datasets.augmentation import Augmentation, resized

SIGNATURE = b"\x89PNG\r\n\x1a\n"
VOID = 255  # the train id of pixels that do not count


class Category(NamedTuple):
    """One of the classes that count: its name, its labelId, and the colour it is drawn in."""

    name: str
    label_id: int
    colour: tuple[int, int, int]


# By train id. Cordts et al. (2016), cityscapesscripts/helpers/labels.py.
CATEGORIES = (
    Category("road", 7, (128, 64, 128)),
    Category("sidewalk", 8, (244, 35, 232)),
    Category("building", 11, (70, 70, 70)),
    Category("wall", 12, (102, 102, 156)),
    Category("fence", 13, (190, 153, 153)),
    Category("pole", 17, (153, 153, 153)),
    Category("traffic light", 19, (250, 170, 30)),
    Category("traffic sign", 20, (220, 220, 0)),
    Category("vegetation", 21, (107, 142, 35)),
    Category("terrain", 22, (152, 251, 152)),
    Category("sky", 23, (70, 130, 180)),
    Category("person", 24, (220, 20, 60)),
    Category("rider", 25, (255, 0, 0)),
    Category("car", 26, (0, 0, 142)),
    Category("truck", 27, (0, 0, 70)),
    Category("bus", 28, (0, 60, 100)),
    Category("train", 31, (0, 80, 100)),
    Category("motorcycle", 32, (0, 0, 230)),
    Category("bicycle", 33, (119, 11, 32)),
)
LABEL_IDS = 34  # 0 to 33; the files have no others
TRAIN_IDS = np.full(256, VOID, np.uint8)
TRAIN_IDS[[category.label_id for category in CATEGORIES]] = np.arange(len(CATEGORIES))

SHOWN = 5  # of many files that will not do, so many are named


class Frame(NamedTuple):
    """The files of one street scene."""

    image: Path
    annotation: Path


class Cityscapes:
    """Street scenes of Cityscapes, or of another set in its layout.

    An instance has a length and gives (image, labels) for an index or one after another, as data loaders ask for it:
    uint8 arrays of shape (3, height, width), red first, and int64 arrays of shape (height, width) of the 19 train ids,
    with 255 for void pixels.

    Parameters
    ----------
    folder : path
        The folder of ``leftImg8bit`` and ``gtFine``.
    split : str
        A folder in them: "train", "val" or "test".
    size : (int, int), optional
        Height and width that scenes are resized to, such as (256, 512); without it they keep theirs.
    augmentation : Augmentation, optional
        A random scale, crop and mirroring of the scenes after that.
    seed : int
        Of the augmentation: what an index gives depends on the seed, the epoch (see :meth:`at`) and the index.

    Attributes
    ----------
    frames : tuple of Frame
        The files, in the order of cities and frames.
    categories : tuple of Category
        Name, labelId and colour of the 19 classes, by train id.

    Raises
    ------
    FileNotFoundError
        If a folder or an annotation is missing. All files are looked at when an instance is made.
    ValueError
        If a file cannot be read, an annotation is of another size than its image or has unknown ids, or scenes would
        be of several sizes. The message names the file.

    References
    ----------
    Cordts et al. (2016), "The Cityscapes dataset for semantic urban scene understanding".
    """

    categories = CATEGORIES

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be a height and a width, got {size}")
        self._size, self._augmentation, self._seed, self._epoch = size, augmentation, seed, 0
        self.frames = _frames(Path(folder), split)
        _check_sizes(self.frames, alike=size is None and augmentation is None)

    def at(self, epoch: int) -> Cityscapes:
        """The same scenes with the augmentation of another epoch."""
        other = copy(self)
        other._epoch = epoch
        return other

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        frame = self.frames[index]
        image, labels = _pixels(frame.image), train_ids(frame.annotation)
        if image.shape[:2] != labels.shape:
            raise ValueError(_unequal(frame, image.shape[:2], labels.shape))
        if self._size is not None:
            image, labels = resized(image, labels, self._size)
        if self._augmentation is not None:
            rng = np.random.default_rng((self._seed, self._epoch, index % len(self)))
            image, labels = self._augmentation(image, labels, rng)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), labels.astype(np.int64)

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        return (self[index] for index in range(len(self)))


def train_ids(path: Path) -> NDArray[np.uint8]:
    """The train ids in a file of labelIds: 0 to 18, and 255 for void.

    Parameters
    ----------
    path : path
        A PNG file such as ``..._gtFine_labelIds.png``.

    Returns
    -------
    uint8 array of shape (height, width)
        A train id for every pixel.

    Raises
    ------
    ValueError
        If the file cannot be read or has ids that are none.
    """
    _check_sums(path)
    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"{path}: expected one id of 8 bits a pixel, found a picture of mode {image.mode}")
        with _damage(path):
            ids = np.asarray(image)
    unknown = np.unique(ids[ids >= LABEL_IDS])
    if len(unknown):
        found = ", ".join(map(str, unknown[:SHOWN]))
        raise ValueError(f"{path}: expected labelIds from 0 to {LABEL_IDS - 1}, found {found}")
    return TRAIN_IDS[ids]


def _frames(folder: Path, split: str) -> tuple[Frame, ...]:
    images, annotations = folder / "leftImg8bit" / split, folder / "gtFine" / split
    for path in (images, annotations):
        if not path.is_dir():
            found = ", ".join(sorted(near.name for near in path.parent.glob("*"))) or "nothing"
            raise FileNotFoundError(f"the folder {path} is missing; {path.parent} has {found}")
    frames = []
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        name = image.name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png"
        frames.append(Frame(image, annotations / image.parent.name / name))
    if not frames:
        raise ValueError(f"no images in {images}; expected city/*_leftImg8bit.png")
    missing = [str(frame.annotation) for frame in frames if not frame.annotation.is_file()]
    if missing:
        raise FileNotFoundError(_several("annotations are missing", missing))
    return tuple(frames)


def _check_sizes(frames: tuple[Frame, ...], *, alike: bool) -> None:
    """Read all headers, so that hours of training do not end at a file that could have been found before."""
    sizes = []
    for frame in frames:
        with _opened(frame.image) as image, _opened(frame.annotation) as annotation:
            sizes.append((image.height, image.width))
            if image.size != annotation.size:
                raise ValueError(_unequal(frame, sizes[-1], (annotation.height, annotation.width)))
    others = [str(frame.image) for frame, size in zip(frames, sizes, strict=True) if size != sizes[0]]
    if others and alike:
        raise ValueError(
            f"{_several(f'images are not of the size {sizes[0]} of {frames[0].image}', others)}; "
            "give a size, or an augmentation with a crop, that makes them alike"
        )


def _unequal(frame: Frame, image: tuple[int, ...], annotation: tuple[int, ...]) -> str:
    return f"{frame.annotation} has {annotation[0]}x{annotation[1]} pixels, its image has {image[0]}x{image[1]}"


def _several(what: str, paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{len(paths)} {what}: {', '.join(paths[:SHOWN])}{more}"


def _pixels(path: Path) -> NDArray[np.uint8]:
    _check_sums(path)
    with _opened(path) as image, _damage(path):
        return np.asarray(image.convert("RGB"))


def _check_sums(path: Path) -> None:
    """Compare every chunk of a PNG file with its checksum: Pillow passes over those of the pixels."""
    with _damage(path):
        content = memoryview(path.read_bytes())
        kind, start = b"", len(SIGNATURE)
        if content[:start] != SIGNATURE:
            raise ValueError("it does not begin as a PNG file does")
        while kind != b"IEND":
            length = int.from_bytes(content[start : start + 4], "big")
            chunk, start = content[start + 4 : start + 8 + length], start + 12 + length
            kind = bytes(chunk[:4])
            if start > len(content) or zlib.crc32(chunk) != int.from_bytes(content[start - 4 : start], "big"):
                raise ValueError(f"the checksum of chunk {kind!r} does not fit, or its end is missing")


def _opened(path: Path) -> Any:
    """A PNG file with its header read."""
    from PIL import Image  # names and colours may be had without it

    with _damage(path):
        return Image.open(path, formats=["PNG"])


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever a parser raises on a malformed file, as one ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a PNG image (cut short or damaged?): {error}") from error
