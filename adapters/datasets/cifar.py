"""CIFAR-10 and CIFAR-100 in their official "python version": pickles, read without letting them run anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.datasets import pickled

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

CIFAR10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CIFAR100 = {"train": ["train"], "test": ["test"]}


def read_cifar10(folder: str | Path, split: str = "test") -> Labelled:
    """Images and labels of CIFAR-10 from the files of its "python version".

    Parameters
    ----------
    folder : path
        The folder ``cifar-10-batches-py``, or the one that holds it.
    split : {"train", "test"}
        Which images.

    Returns
    -------
    images : uint8 array of shape (n, 3, 32, 32)
        In the order of the files.
    labels : int64 array of shape (n,)
        The classes, 0 to 9.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is cut short, asks for code to be run, or holds something other than CIFAR-10 images. The
        message names the file.
    """
    contents = _contents(folder, "cifar-10-batches-py", CIFAR10, split)
    images = [_images(path, content) for path, content in contents]
    labels = [_labels(path, content, "labels", 10, len(x)) for (path, content), x in zip(contents, images, strict=True)]
    return np.concatenate(images), np.concatenate(labels)


def read_cifar100(folder: str | Path, split: str = "test") -> Labelled:
    """Images and labels of CIFAR-100 from the files of its "python version".

    Parameters
    ----------
    folder : path
        The folder ``cifar-100-python``, or the one that holds it.
    split : {"train", "test"}
        Which images.

    Returns
    -------
    images : uint8 array of shape (n, 3, 32, 32)
        In the order of the files.
    labels : int64 array of shape (n,)
        The fine labels, 0 to 99.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is cut short, asks for code to be run, holds something other than CIFAR-100 images, or has fine and
        coarse labels that do not belong together. The message names the file.
    """
    [(path, content)] = _contents(folder, "cifar-100-python", CIFAR100, split)
    images = _images(path, content)
    labels = _labels(path, content, "fine_labels", 100, len(images))
    coarse = _labels(path, content, "coarse_labels", 20, len(images))
    # Each of the 100 classes lies in one of the 20: labels out of order are noticed by that.
    if len(np.unique(100 * coarse + labels)) > len(np.unique(labels)):
        raise ValueError(f"{path}: images of one fine label have several coarse labels; labels are out of order")
    return images, labels


def _contents(
    folder: str | Path, name: str, files: dict[str, list[str]], split: str
) -> list[tuple[Path, dict[bytes, Any]]]:
    if split not in files:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    root = Path(folder)
    root = root / name if (root / name).is_dir() else root
    return [(root / file, _unpickle(root / file)) for file in files[split]]


def _unpickle(path: Path) -> dict[bytes, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the files of the CIFAR python version")
    data = path.read_bytes()
    try:
        content = pickled.read(data)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a CIFAR file (cut short or altered?): {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of images and labels, found {type(content).__name__}")
    return content


def _images(path: Path, content: dict[bytes, Any]) -> NDArray[np.uint8]:
    data, expected = content.get(b"data"), f"{path}: expected uint8 images of shape (n, 3072) under 'data', found"
    if not isinstance(data, pickled.Recorded):
        raise ValueError(f"{expected} {type(data).__name__}")
    try:
        images = pickled.array(data)
    except ValueError as error:
        raise ValueError(f"{expected} {error}") from error
    if images.ndim != 2 or images.shape[1] != 3072:
        raise ValueError(f"{expected} shape {images.shape}")
    return images.reshape(-1, 3, 32, 32)


def _labels(path: Path, content: dict[bytes, Any], key: str, classes: int, count: int) -> NDArray[np.int64]:
    labels = content.get(key.encode())
    if not isinstance(labels, list) or len(labels) != count or set(map(type, labels)) - {int}:
        keys = ", ".join(sorted(repr(k.decode(errors="replace")) if isinstance(k, bytes) else repr(k) for k in content))
        raise ValueError(f"{path}: expected a list of {count} whole numbers under {key!r}; the file holds {keys}")
    outside = [label for label in labels if not 0 <= label < classes]
    if outside:
        raise ValueError(f"{path}: {key} must lie between 0 and {classes - 1}, found {outside[0]}")
    return np.array(labels, dtype=np.int64)
