"""Accuracies with their intervals from the ranks that were measured: by condition, by shift, and their mean."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from shrinkstats.adapters.commands.evaluation.cells import LAST, Cell, Cells
from shrinkstats.adapters.commands.evaluation.data import CLEAN, MIXED, Condition
from shrinkstats.adapters.commands.evaluation.request import TRAINED
from shrinkstats.adapters.robustness import ALEXNET, mean_corruption_error
from shrinkstats.adapters.robustness.protocols import Score, evaluate

MEAN = "mean"  # over every corruption and severity, without clean and mixed images
RESAMPLES = 400  # enough for an interval in tenths of its width

Row = dict[str, Any]


def score(
    cells: Cells, conditions: list[Condition], sizes: list[int], estimators: list[str], *, mce: bool = False
) -> Row:
    """Everything that results.json says about accuracy.

    Parameters
    ----------
    cells : Cells
        What was measured; it holds all of the following.
    conditions : list of Condition
        What was asked for.
    sizes : list of int
        Batch sizes.
    estimators : list of str
        Names.
    mce : bool
        Whether the images are ImageNet's, so that errors may be compared with AlexNet's.

    Returns
    -------
    dict
        `conditions` and `shifts`: rows of shift, severity or severities, estimator, batch, images, top1, top5 and
        their 95% intervals (null where there is a single batch); a shift is the mean over its severities. The last
        shifts are the mean of all corruptions, if there are several conditions of them. `mce`: by estimator and
        batch size, if asked for and every corruption and severity is there.
    """
    shifts: dict[str, list[Condition]] = {}
    for condition in conditions:
        shifts.setdefault(condition.shift, []).append(condition)
    corrupted = [c for c in conditions if c.shift not in (CLEAN, MIXED)]
    if len(corrupted) > 1:
        shifts[MEAN] = corrupted
    columns = [(name, size) for name in estimators for size in sizes]
    by_condition: list[Row] = []
    by_shift: list[Row] = []
    errors: dict[tuple[str, int], dict[tuple[str, int], float]] = {}
    for name, size in columns:
        for shift, several in shifts.items():
            found = _replay(cells, several, size, name)
            common = {"estimator": name, "batch": size}
            if shift != MEAN:
                by_condition += [
                    {**c._asdict(), **common, **_row(s)} for c, s in zip(several, found[: len(several)], strict=True)
                ]
            severities = sorted({c.severity for c in several})
            by_shift.append({"shift": shift, "severities": severities, **common, **_row(found[-1])})
    for row in by_condition if mce else []:
        errors.setdefault((row["estimator"], row["batch"]), {})[row["shift"], row["severity"]] = 1 - row["top1"]
    wanted = {name: [(name, k) for k in (1, 2, 3, 4, 5)] for name in ALEXNET}
    relative = [
        {
            "estimator": name,
            "batch": size,
            "mce": mean_corruption_error({n: [found[key] for key in keys] for n, keys in wanted.items()}),
        }
        for (name, size), found in errors.items()
        if all(key in found for keys in wanted.values() for key in keys)
    ]
    return {"conditions": by_condition, "shifts": by_shift, **({"mce": relative} if relative else {})}


def cell(condition: Condition, size: int, estimator: str) -> Cell:
    """Where a number is kept: trained statistics do not see the batch."""
    return Cell(*condition, 0 if estimator == TRAINED else size, estimator)


def _replay(cells: Cells, conditions: list[Condition], size: int, estimator: str) -> list[Score]:
    """The scores of kept ranks: those of a network whose logits give these ranks."""
    shifts = {}
    for condition in conditions:
        labels = torch.from_numpy(cells.ranks(cell(condition, size, estimator)))
        logits = -torch.arange(LAST + 1.0, device="cpu").expand(len(labels), -1)  # class r has rank r
        shifts[str(condition)] = [(logits, labels)]
    return evaluate(nn.Identity(), shifts, 1 if estimator == TRAINED else size, resamples=RESAMPLES)


def _row(found: Score) -> Row:
    names = ("images", "top1", "top1_interval", "top5", "top5_interval")
    row = {name: value for name, value in asdict(found).items() if name in names}
    for name in ("top1_interval", "top5_interval"):
        row[name] = None if any(map(math.isnan, row[name])) else list(row[name])
    return row
