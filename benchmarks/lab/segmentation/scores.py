"""Counts of true and predicted classes, a value that adds up over batches, and the scores that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ClassScore(NamedTuple):
    """How well one class was found: shares from 0 to 1, and how many of the pixels are of it. NaN: it did not occur."""

    iou: float
    precision: float
    sensitivity: float
    f1: float
    pixels: int


@dataclass(frozen=True)
class SegmentationScores:
    """Scores without void pixels; means are over the classes that occur, each with the same weight.

    Attributes
    ----------
    miou : float
        Mean intersection over union (the Jaccard index).
    pixel_accuracy : float
        Share of pixels whose class is right.
    precision, sensitivity, f1 : float
        Means of the classes' (macro averages).
    classes : tuple of ClassScore
        One for each class, those that do not occur included.
    """

    miou: float
    pixel_accuracy: float
    precision: float
    sensitivity: float
    f1: float
    classes: tuple[ClassScore, ...]

    def table(self, names: Sequence[str]) -> str:
        """The scores of every class that occurs, and their means, as a table in Markdown.

        Parameters
        ----------
        names : sequence of str
            Of all classes.

        Returns
        -------
        str
            Lines, in percent.
        """
        if len(names) != len(self.classes):
            raise ValueError(f"expected {len(self.classes)} names of classes, got {len(names)}")
        rows = [(name, *score) for name, score in zip(names, self.classes, strict=True) if score.pixels]
        total = sum(score.pixels for score in self.classes)
        rows.append(("mean", self.miou, self.precision, self.sensitivity, self.f1, total))
        lines = ["| class | IoU | precision | sensitivity | F1 | pixels |", "|---|--:|--:|--:|--:|--:|"]
        lines += [f"| {name} | {' | '.join(f'{100 * v:.1f}' for v in values)} | {n} |" for name, *values, n in rows]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each true class was predicted as each class; counts of several batches add up.

    Attributes
    ----------
    counts : int64 array of shape (classes, classes)
        Pixels by true class (rows) and predicted class (columns).
    void : int
        Pixels without a true class, which no score but the published one counts.

    Examples
    --------
    >>> from benchmarks.lab.segmentation import Confusion
    >>> first = Confusion.of([[0, 0], [1, 255]], [[0, 1], [1, 1]], classes=2)
    >>> second = Confusion.of([[1, 1]], [[1, 1]], classes=2)
    >>> scores = (first + second).scores()
    >>> scores.miou, scores.pixel_accuracy
    (0.625, 0.8)
    """

    counts: NDArray[np.int64]
    void: int = 0

    @classmethod
    def empty(cls, classes: int) -> Confusion:
        """No pixels of any class: what sums begin with."""
        return cls(np.zeros((classes, classes), np.int64))

    @classmethod
    def of(cls, truth: ArrayLike, prediction: ArrayLike, *, classes: int, void: int = 255) -> Confusion:
        """The counts of some pixels.

        Parameters
        ----------
        truth : array_like of whole numbers
            The class of every pixel, or void.
        prediction : array_like of whole numbers, of the same shape
            The class that was predicted for each.
        classes : int
            How many there are.
        void : int
            The label of pixels that do not count.

        Returns
        -------
        Confusion
            To be added to others.

        Raises
        ------
        TypeError
            If there are numbers other than whole ones.
        ValueError
            If shapes differ, or there are labels other than those of classes.
        """
        true, found = np.asarray(truth), np.asarray(prediction)
        if true.shape != found.shape:
            raise ValueError(f"truth has shape {true.shape}, the prediction {found.shape}; expected the same")
        if true.dtype.kind not in "iu" or found.dtype.kind not in "iu":
            raise TypeError(f"expected whole numbers of classes, got {true.dtype} and {found.dtype}; take the argmax")
        known = true != void
        true, found = true[known], found[known]
        for name, labels in (("truth", true), ("prediction", found)):
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(f"{name} has labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
        pairs = true.astype(np.int64) * classes + found.astype(np.int64)
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return cls(counts.astype(np.int64), int(known.size - np.count_nonzero(known)))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts, self.void + other.void)

    def scores(self) -> SegmentationScores:
        """The scores of all pixels that have a class.

        Returns
        -------
        SegmentationScores
            With C the counts, t = diag C, r = row sums, p = column sums: IoU t/(r + p - t), sensitivity t/r, precision
            t/p (0 where the class occurs and was never predicted), F1 2t/(r + p), accuracy sum t/sum r. A class
            occurs if r > 0. (Cityscapes' own evaluation also counts classes with r = 0 < p, as IoU 0; on its
            validation set every class occurs.)

        Raises
        ------
        ValueError
            If no pixel has a class.

        References
        ----------
        Everingham et al. (2015), "The Pascal visual object classes challenge: a retrospective"; Cordts et al. (2016).
        """
        right, true, found = np.diag(self.counts), self.counts.sum(1), self.counts.sum(0)
        occurs = true > 0
        if not occurs.any():
            raise ValueError(f"no pixel has a class; {self.void} are void")

        def share(part: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.where(occurs, part / np.maximum(of, 1), np.nan)

        columns = {
            "iou": share(right, true + found - right),
            "precision": share(right, found),
            "sensitivity": share(right, true),
            "f1": share(2 * right, true + found),
        }
        mean = {name: float(column[occurs].mean()) for name, column in columns.items()}
        rows = zip(*(column.tolist() for column in columns.values()), true.tolist(), strict=True)
        return SegmentationScores(
            miou=mean.pop("iou"),
            pixel_accuracy=float(right.sum() / true.sum()),
            **mean,
            classes=tuple(ClassScore(*row) for row in rows),
        )
