"""CIFAR-10 and CIFAR-100 in their official "python version": pickles, read without letting them run anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
CIFAR10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CIFAR100 = {"train": ["train"], "test": ["test"]}


class _ArraysOnly(pickle.Unpickler):
    """Plain containers and NumPy arrays; anything else in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module.replace("numpy.core", "numpy._core") if "core" in module else module, name)


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
    parts = [(_images(path, content), _labels(path, content, "labels", 10)) for path, content in contents]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


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
    images, labels = _images(path, content), _labels(path, content, "fine_labels", 100)
    coarse = _labels(path, content, "coarse_labels", 20)
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
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="bytes").load()
            if file.read(1):
                raise ValueError("something follows the images")
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a CIFAR file (cut short or altered?): {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of images and labels, found {type(content).__name__}")
    return content


def _images(path: Path, content: dict[bytes, Any]) -> NDArray[np.uint8]:
    data = content.get(b"data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: expected uint8 images of shape (n, 3072) under 'data', found {found}")
    return data.reshape(-1, 3, 32, 32)


def _labels(path: Path, content: dict[bytes, Any], key: str, classes: int) -> NDArray[np.int64]:
    labels, count = content.get(key.encode()), len(content[b"data"])
    if not isinstance(labels, list) or len(labels) != count or set(map(type, labels)) - {int}:
        keys = ", ".join(sorted(repr(k.decode(errors="replace")) if isinstance(k, bytes) else repr(k) for k in content))
        raise ValueError(f"{path}: expected a list of {count} whole numbers under {key!r}; the file holds {keys}")
    outside = [label for label in labels if not 0 <= label < classes]
    if outside:
        raise ValueError(f"{path}: {key} must lie between 0 and {classes - 1}, found {outside[0]}")
    return np.array(labels, dtype=np.int64)
