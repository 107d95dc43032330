"""Scores as the code of the Stein paper computes them, for comparison with its numbers alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .scores import Confusion


class PublishedScores(NamedTuple):
    """What the published code calls by these names; see :func:`scores_counting_void` for what they are."""

    jaccard: float
    accuracy: float
    precision: float
    sensitivity: float
    f1: float


def scores_counting_void(batches: Iterable[Confusion]) -> PublishedScores:
    """Scores in the way of the code published with arXiv 2507.08261, void pixels counted where it counts them.

    Parameters
    ----------
    batches : iterable of Confusion
        The counts of every batch on its own, in all classes of the network: a mean over batches depends on them.

    Returns
    -------
    PublishedScores
        The names are the published ones, which do not say what is meant.

        - `jaccard` ("js"): no mean over classes. Of each batch, the right pixels c over 2 N - c, N all pixels, void
          among them (the micro average, to which void is a class that no network predicts); then the mean of batches.
        - `accuracy`: c / N, averaged likewise; computed there, not reported.
        - `precision`, `sensitivity`: means over all classes, void left out, those that do not occur as 0. The two have
          changed places: the code takes sums over true classes for those over predicted ones, so that its precision
          is the sensitivity, and the reverse.
        - `f1`: the harmonic mean of these two means, not the mean of the classes' F1.

    Raises
    ------
    ValueError
        If there is no batch, or one without pixels.

    Examples
    --------
    >>> from benchmarks.lab.segmentation import Confusion, scores_counting_void
    >>> batch = Confusion.of([[0, 0], [1, 255]], [[0, 0], [1, 1]], classes=2)
    >>> batch.scores().miou, scores_counting_void([batch]).jaccard
    (1.0, 0.6)
    """
    several = list(batches)
    if not several:
        raise ValueError("expected one batch at least")
    right = np.array([np.trace(batch.counts) for batch in several], dtype=float)
    pixels = np.array([batch.counts.sum() + batch.void for batch in several], dtype=float)
    if not pixels.all():
        raise ValueError("a batch has no pixels")
    counts = sum((batch.counts for batch in several[1:]), several[0].counts)
    tiny = 1e-6  # theirs, in every denominator
    precision = float(np.mean(np.diag(counts) / (counts.sum(1) + tiny)))
    sensitivity = float(np.mean(np.diag(counts) / (counts.sum(0) + tiny)))
    return PublishedScores(
        jaccard=float(np.mean(right / (2 * pixels - right))),
        accuracy=float(np.mean(right / pixels)),
        precision=precision,
        sensitivity=sensitivity,
        f1=2 * precision * sensitivity / (precision + sensitivity + tiny),
    )
