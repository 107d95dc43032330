"""CIFAR-10 in its official "python version": pickles, read without letting them run anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


class _ArraysOnly(pickle.Unpickler):
    """Plain containers and NumPy arrays; anything else in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module.replace("numpy.core", "numpy._core") if "core" in module else module, name)


def read_cifar10(folder: str | Path, split: str = "test") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
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
    labels : int64 array of shape (n,)

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is cut short, asks for code to be run, or holds something other than CIFAR-10 images. The
        message names the file.
    """
    if split not in FILES:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    root = Path(folder)
    root = root / "cifar-10-batches-py" if (root / "cifar-10-batches-py").is_dir() else root
    parts = [_read(root / name) for name in FILES[split]]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the files of the CIFAR-10 python version")
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="bytes").load()
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a CIFAR-10 file (cut short or altered?): {error}") from error
    data = content.get(b"data") if isinstance(content, dict) else None
    labels = content.get(b"labels") if isinstance(content, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: expected uint8 images of shape (n, 3072) under 'data', found {found}")
    if not isinstance(labels, list) or len(labels) != len(data) or set(map(type, labels)) - {int}:
        raise ValueError(f"{path}: expected a list of {len(data)} whole numbers under 'labels'")
    array = np.array(labels, dtype=np.int64)
    if len(array) and not 0 <= array.min() <= array.max() <= 9:
        raise ValueError(f"{path}: labels must lie between 0 and 9, found {array.min()} to {array.max()}")
    return data.reshape(-1, 3, 32, 32), array
