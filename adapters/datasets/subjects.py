"""Parts of a data set that share no subject: images of one person are alike, and must not be met again in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


def split_subjects(
    subjects: ArrayLike, labels: ArrayLike, fractions: Sequence[float] = (0.7, 0.15, 0.15), *, seed: int = 0
) -> tuple[Indices, ...]:
    """Deal subjects into parts at random, every class in the same proportions.

    Parameters
    ----------
    subjects : array_like of shape (n,)
        Whose image each is.
    labels : array_like of shape (n,)
        The classes; all images of a subject have the same.
    fractions : sequence of float
        How much of the subjects each part gets; they sum to 1. By default to train, to validate, to test.
    seed : int
        Of the draw, which does not depend on the order of the images.

    Returns
    -------
    tuple of int64 arrays
        For each part the indices of its images, ascending. In every class, each part has the number of subjects that
        its fraction asks for, rounded, and one at least.

    Raises
    ------
    ValueError
        If there is one class only, a class has fewer subjects than there are parts, a subject has images of several
        classes, or fractions are no fractions.

    Examples
    --------
    >>> from shrinkstats.adapters.datasets import split_subjects
    >>> train, test = split_subjects(["a", "a", "b", "c", "d"], [1, 1, 1, 0, 0], [0.5, 0.5])
    >>> len(train) + len(test)
    5
    """
    share = np.array(fractions, dtype=float)
    if share.ndim != 1 or not len(share) or not (share > 0).all() or abs(share.sum() - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and sum to 1, got {list(fractions)}")
    parts: list[list[Any]] = [[] for _ in share]
    for members in _by_class(subjects, labels, len(share), seed):
        for part, chosen in zip(parts, np.split(members, np.cumsum(_counts(len(members), share))[:-1]), strict=True):
            part.extend(chosen)
    return tuple(_images(subjects, part) for part in parts)


def cross_validation(
    subjects: ArrayLike, labels: ArrayLike, folds: int = 5, *, seed: int = 0
) -> list[tuple[Indices, Indices]]:
    """Folds for cross-validation: every subject is in the test part of one of them.

    Parameters
    ----------
    subjects : array_like of shape (n,)
        Whose image each is.
    labels : array_like of shape (n,)
        The classes; all images of a subject have the same.
    folds : int
        How many, 2 at least.
    seed : int
        Of the draw, which does not depend on the order of the images.

    Returns
    -------
    list of (train, test)
        Ascending indices of images. Numbers of subjects in the test parts differ by one at most, in every class and
        altogether.

    Raises
    ------
    ValueError
        If there is one class only, a class has fewer subjects than there are folds, a subject has images of several
        classes, or there are fewer than two folds.

    Examples
    --------
    >>> from shrinkstats.adapters.datasets import cross_validation
    >>> [len(test) for _, test in cross_validation(["a", "a", "b", "c", "d"], [1, 1, 1, 0, 0], 2)]
    [3, 2]
    """
    if folds < 2:
        raise ValueError(f"folds must be 2 at least, got {folds}")
    # One class after the other, dealt like cards: the next class begins where the last one ended.
    dealt = np.concatenate(_by_class(subjects, labels, folds, seed))
    tests = [_images(subjects, dealt[fold::folds]) for fold in range(folds)]
    every = np.arange(len(np.asarray(subjects)))
    return [(np.setdiff1d(every, test), test) for test in tests]


def _by_class(subjects: ArrayLike, labels: ArrayLike, least: int, seed: int) -> list[NDArray[Any]]:
    """The subjects of every class in random order."""
    whose, classes = np.asarray(subjects), np.asarray(labels)
    if whose.ndim != 1 or whose.shape != classes.shape:
        raise ValueError(f"expected a subject and a label for every image, got shapes {whose.shape}, {classes.shape}")
    names, first, number = np.unique(whose, return_index=True, return_inverse=True)
    strays = names[np.unique(number[classes != classes[first][number]])]
    if len(strays):
        raise ValueError(f"subject {strays[0]} has images of several classes; {len(strays)} such subjects")
    kinds = np.unique(classes)
    if len(kinds) < 2:
        raise ValueError(f"expected two classes at least, found {kinds.tolist()}")
    rng = np.random.default_rng(seed)
    members = [rng.permutation(names[classes[first] == kind]) for kind in kinds]
    for kind, several in zip(kinds, members, strict=True):
        if len(several) < least:
            raise ValueError(f"class {kind} has {len(several)} subjects, too few for {least} parts")
    return members


def _counts(total: int, share: NDArray[np.float64]) -> Indices:
    """Whole numbers close to total * share, none of them 0."""
    counts = np.maximum(np.floor(total * share + 1e-9).astype(np.int64), 1)
    while counts.sum() < total:
        counts[np.argmax(total * share - counts)] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > 1, total * share - counts, np.inf))] -= 1
    return counts


def _images(subjects: ArrayLike, chosen: Any) -> Indices:
    return np.flatnonzero(np.isin(np.asarray(subjects), chosen))
