"""CIFAR-10-C and CIFAR-100-C as published: an array for each corruption, read through the page cache, not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import read_npy
from shrinkstats.adapters.datasets.cifar import Labelled


def read_cifar10c(folder: str | Path, name: str, severity: int) -> Labelled:
    """Images and labels of CIFAR-10-C at one severity of a corruption.

    Parameters
    ----------
    folder : path
        The folder ``CIFAR-10-C``, of ``labels.npy`` and a file such as ``fog.npy`` for each corruption.
    name : str
        The corruption: the file's name without its ending.
    severity : {1, 2, 3, 4, 5}
        Which fifth of the file.

    Returns
    -------
    images : uint8 array of shape (n, 3, 32, 32)
        A view of the file, which is read where images are used.
    labels : int64 array of shape (n,)
        The classes, 0 to 9.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is cut short, holds objects, or something other than five severities of images and their labels.
        The message names the file.
    """
    return _read(Path(folder), name, severity, classes=10)


def read_cifar100c(folder: str | Path, name: str, severity: int) -> Labelled:
    """Images and labels of CIFAR-100-C at one severity of a corruption.

    Parameters
    ----------
    folder : path
        The folder ``CIFAR-100-C``, of ``labels.npy`` and a file such as ``fog.npy`` for each corruption.
    name : str
        The corruption: the file's name without its ending.
    severity : {1, 2, 3, 4, 5}
        Which fifth of the file.

    Returns
    -------
    images : uint8 array of shape (n, 3, 32, 32)
        A view of the file, which is read where images are used.
    labels : int64 array of shape (n,)
        The fine labels, 0 to 99.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is cut short, holds objects, or something other than five severities of images and their labels.
        The message names the file.
    """
    return _read(Path(folder), name, severity, classes=100)


def _read(folder: Path, name: str, severity: int, classes: int) -> Labelled:
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    images_path, labels_path = folder / f"{name}.npy", folder / "labels.npy"
    if not images_path.is_file():
        found = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
        raise FileNotFoundError(f"{images_path} is missing; there is {', '.join(found) or 'no such file'}")
    if not labels_path.is_file():
        raise FileNotFoundError(f"{labels_path} is missing")
    images = read_npy(images_path)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images) or len(images) % 5:
        found_images = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{images_path}: expected uint8 of shape (5 n, 32, 32, 3), found {found_images}")
    size = len(images) // 5
    part = slice((severity - 1) * size, severity * size)
    labels = _labels(labels_path, len(images), classes)
    return images[part].transpose(0, 3, 1, 2), labels[part]


def _labels(path: Path, count: int, classes: int) -> NDArray[np.int64]:
    labels = read_npy(path)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{path}: expected {count} whole numbers, one for each image, found {found}")
    labels = labels.astype(np.int64)
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{path}: labels must lie between 0 and {classes - 1}, found {labels.min()} to {labels.max()}")
    if (labels.reshape(5, -1) != labels[: count // 5]).any():
        raise ValueError(f"{path}: labels differ between severities, which show the same images; they are out of order")
    # Labels of CIFAR-10 are valid ones of CIFAR-100: in a set as large as a published one every class occurs.
    if count >= 50_000 and len(np.unique(labels)) < classes:
        raise ValueError(f"{path}: expected {classes} classes, found {len(np.unique(labels))}")
    return labels
