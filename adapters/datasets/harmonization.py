"""Differences between scanners taken out of volumes, by what is known of the training volumes alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

NAMELESS = ("", "none", "nan", "<na>", "nat")  # what a table without an entry gives


def harmonize(images: NDArray[np.float32], scanners: ArrayLike, train: ArrayLike) -> NDArray[np.float32]:
    """Volumes as one scanner would have made them: ComBat of voxels, fitted to the training volumes.

    Parameters
    ----------
    images : float32 array of shape (n, 1, x, y, z)
        The volumes; 0 is background.
    scanners : array_like of shape (n,)
        What each was made on: a scanner, a site, a manufacturer.
    train : array_like of int
        Indices of the training volumes. The others are changed by the shifts and scales found there, and no label is
        used, so that nothing about a test leaks into training.

    Returns
    -------
    float32 array of shape (n, 1, x, y, z)
        New volumes, or copies where all are of one scanner. Voxels that are background in half of the training volumes
        or more, or do not vary there, and the background of every volume stay as they are.

    Raises
    ------
    ValueError
        If a scanner has made fewer than two of the training volumes, so that nothing is known of its variance; if a
        volume holds NaN or infinity, or has no scanner; if no voxel is left to change.
    TypeError
        If the volumes are not floating-point numbers, or `train` does not hold indices.
    ModuleNotFoundError
        If combatlearn is not installed: ``pip install shrinkstats[harmonization]``.

    Notes
    -----
    Where the groups are not spread evenly over the scanners, part of the difference between groups goes with that of
    the scanners. Memory: some 8 arrays in double precision of all volumes' foreground.

    References
    ----------
    Johnson, Li & Rabinovic (2007), "Adjusting batch effects in microarray expression data using empirical Bayes
    methods"; Fortin et al. (2018), "Harmonization of cortical thickness measurements across scanners and sites".
    """
    try:
        import pandas as pd
        from combatlearn import ComBat  # an optional extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"harmonization needs {error.name}, which is not installed: pip install shrinkstats[harmonization]"
        ) from error
    made_on, known = _checked(images, scanners, train)
    if len(np.unique(made_on)) < 2:  # there is nothing to become alike
        return images.copy()
    flat = images.reshape(len(images), -1)
    used = ((flat[known] != 0).mean(0) > 0.5) & (np.ptp(flat[known], axis=0) > 0)
    if not used.any():
        raise ValueError("no voxel varies and is foreground in more than half of the training volumes")
    values = pd.DataFrame(flat[:, used].astype(np.float64))
    model = ComBat(batch=pd.Series(made_on)).fit(values.iloc[known])
    changed = flat.copy()
    changed[:, used] = np.where(flat[:, used] == 0, 0, model.transform(values).to_numpy())
    return changed.reshape(images.shape)


def _checked(
    images: NDArray[np.float32], scanners: ArrayLike, train: ArrayLike
) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """The name of each volume's scanner, and the training volumes, each once."""
    if not (isinstance(images, np.ndarray) and images.dtype.kind == "f"):  # whole numbers would cut off what changes
        found = f"dtype {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"images must be an array of floating-point numbers, got {found}; convert with astype")
    given = np.asarray(scanners)
    if given.shape != (len(images),):
        raise ValueError(f"expected a scanner for each of {len(images)} volumes, got shape {given.shape}")
    nameless = [i for i, name in enumerate(given.tolist()) if str(name).strip().lower() in NAMELESS]
    if nameless:
        raise ValueError(f"volumes without a scanner: {_some(nameless)}; leave them out")
    made_on, known = given.astype(str), np.unique(np.asarray(train, dtype=None if np.size(train) else np.intp))
    if known.dtype.kind not in "iu":
        raise TypeError(f"train must hold indices of volumes, got dtype {known.dtype}")
    if outside := [i for i in known.tolist() if not 0 <= i < len(images)]:
        raise ValueError(f"train must hold indices from 0 to {len(images) - 1}, got {_some(outside)}")
    few = [name for name in np.unique(made_on) if np.count_nonzero(made_on[known] == name) < 2]
    if few:
        names = ", ".join(few[:5])
        raise ValueError(f"fewer than two training volumes are of {names}; leave these scanners out or join them")
    if bad := [i for i, volume in enumerate(images) if not np.isfinite(volume).all()]:
        raise ValueError(f"volumes with NaN or infinity: {_some(bad)}; leave them out or fill these voxels")
    return made_on, known


def _some(numbers: list[int]) -> str:
    return ", ".join([*map(str, numbers[:5]), *["..."] * (len(numbers) > 5)])
