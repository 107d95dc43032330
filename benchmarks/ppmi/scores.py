"""Scores of two classes with intervals, of several folds together, and what the size of the scans alone would score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.ppmi.data import fold
from shrinkstats.adapters.datasets import Volumes
from shrinkstats.adapters.datasets.nifti import read_extent

Row = dict[str, Any]
RESAMPLES = 2000


def scores(
    logits: NDArray[np.float64], labels: NDArray[np.int64], subjects: NDArray[np.str_], folds: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Accuracy, balanced accuracy, AUC, sensitivity, specificity: each with the ends of its 95% interval.

    Intervals come from drawing subjects with replacement within every fold and class (the percentile bootstrap), so
    several volumes of a subject count as one observation; training is not repeated. The AUC is the mean over folds:
    logits of different networks are not compared.
    """
    rng, weights = np.random.default_rng(0), np.ones((RESAMPLES + 1, len(labels)))
    for group in {*zip(folds.tolist(), labels.tolist(), strict=True)}:
        members = np.flatnonzero((folds == group[0]) & (labels == group[1]))
        names, whose = np.unique(subjects[members], return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        weights[1:, members] = drawn[:, whose]

    positive, right = labels == 1, (logits > 0) == (labels == 1)

    def share(among: NDArray[np.bool_]) -> NDArray[np.float64]:
        return weights[:, among] @ right[among] / weights[:, among].sum(1)

    def area(fold: int) -> NDArray[np.float64]:
        high, low = ((folds == fold) & (positive == one) for one in (True, False))
        above = np.sign(logits[high][:, None] - logits[low]) / 2 + 0.5
        pairs = weights[:, high].sum(1) * weights[:, low].sum(1)
        return (weights[:, high] @ above * weights[:, low]).sum(1) / pairs

    sensitivity, specificity = share(positive), share(~positive)
    found = {
        "accuracy": share(np.ones(len(labels), bool)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "auc": np.mean([area(fold) for fold in np.unique(folds)], axis=0),
        "sensitivity": sensitivity,
        "specificity": specificity,
    }
    return {name: [float(v[0]), *np.quantile(v[1:], (0.025, 0.975)).tolist()] for name, v in found.items()}


def summary(volumes: Volumes, rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The scores in every condition, told apart by `names`: all seeds together, and the balanced accuracy of each."""
    by_condition: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        by_condition.setdefault(tuple(row[name] for name in names), {})[row["seed"]] = row["logits"]
    return [
        {**dict(zip(names, condition, strict=True)), **_of_seeds(volumes, tested)}
        for condition, tested in sorted(by_condition.items())
    ]


def extents_alone(volumes: Volumes, seeds: Sequence[int], grid: ArrayLike = np.inf) -> Row:
    """The scores of a logistic regression on the millimetres that each scan covers along right, front, up.

    If they are good, the groups differ in how they were scanned, and a network may have learned no more than that: on a
    `grid` (of so many millimetres along each axis) that some scans do not fill, it sees where they end.
    """
    extents = np.array([np.multiply(*read_extent(scan.path)) for scan in volumes.scans])
    extents = np.minimum(extents, grid)
    tested = {}
    for seed in seeds:
        rest, test = fold(volumes, seed)
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(extents[rest], volumes.labels[rest])
        tested[seed] = model.decision_function(extents[test]).tolist()
    return _of_seeds(volumes, tested)


def _of_seeds(volumes: Volumes, tested: dict[int, list[float]]) -> Row:
    """The scores of what several seeds were tested on, from the logits by seed."""
    each = {seed: _pooled(volumes, {seed: logits})["balanced_accuracy"][0] for seed, logits in tested.items()}
    return {**_pooled(volumes, tested), "balanced_accuracy_by_seed": each}


def _pooled(volumes: Volumes, tested: dict[int, list[float]]) -> Row:
    where = {seed: fold(volumes, seed)[1] for seed in tested}
    index = np.concatenate(list(where.values()))
    folds = np.repeat(list(where), [len(test) for test in where.values()])
    logits = np.concatenate(list(tested.values()))
    return {"volumes": len(index), **scores(logits, volumes.labels[index], volumes.subjects[index], folds)}
