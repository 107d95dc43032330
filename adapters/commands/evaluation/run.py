"""Measure what is asked for and not known yet, and write it down."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shrinkstats._files import whole
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.evaluation.cells import Cells
from shrinkstats.adapters.commands.evaluation.data import Condition, CorruptedImageNet
from shrinkstats.adapters.commands.evaluation.picture import draw
from shrinkstats.adapters.commands.evaluation.scores import cell, score
from shrinkstats.adapters.commands.evaluation.subject import PORTION, Subject
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import ShiftReport, adapt, reset, shift_report
from shrinkstats.adapters.torch.conversion import convertible_layers
from shrinkstats.estimators import Estimator

RESULTS, PICTURE, CELLS = "results.json", "accuracy.png", "cells.jsonl"


def begin(output: Path, settings: dict[str, Any], *, force: bool) -> Cells:
    """The cells of a folder, which is made if there is none.

    Raises
    ------
    UsageError
        If the folder holds other results, and `force` is false.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output: {output} is not a folder")
    if (
        not force
        and not (output / CELLS).is_file()
        and (there := [n for n in (RESULTS, PICTURE) if (output / n).exists()])
    ):
        raise UsageError(f"{output / there[0]} exists; choose another --output, or --force to overwrite it")
    output.mkdir(parents=True, exist_ok=True)
    return Cells(output / CELLS, settings, force=force)


def measure(
    subject: Subject,
    cells: Cells,
    conditions: list[Condition],
    sizes: list[int],
    estimators: dict[str, Estimator | None],
    progress: Callable[[str, int], Callable[[], None]],
) -> None:
    """Fill in the cells that are missing.

    Parameters
    ----------
    subject : Subject
        A network and images.
    cells : Cells
        What is known; every cell is added as soon as it is measured.
    conditions, sizes, estimators
        What is asked for.
    progress : callable
        Takes what is done and how many steps it has; gives a function that is called after each step.

    Raises
    ------
    ValueError
        If the network has no batch norm layers to adapt, or images cannot be read.
    """
    if any(estimators.values()):
        convertible_layers(subject.network)  # says what stands in the way before anything is measured
    asked = {cell(c, n, name): c for c in conditions for name in estimators for n in sizes}
    missing = {key: condition for key, condition in asked.items() if key not in cells}
    asked_for = [estimators[key.estimator] for key in missing]
    if any(rule is not None and rule.uses_noise for rule in asked_for):
        subject.calibrate()
    step = progress("measuring", len(missing))
    shown = images = labels = None
    for key, condition in missing.items():
        if condition != shown:
            (images, labels), shown = subject.read(condition), condition
        cells.add(key, _ranks(subject, images, labels, key.batch or 1, estimators[key.estimator]))
        step()


def _ranks(subject: Subject, images: Any, labels: Any, size: int, estimator: Estimator | None) -> Any:
    if estimator is None:
        reset(subject.network)
    else:
        with warnings.catch_warnings():  # the table says so once
            warnings.filterwarnings("ignore", message="not calibrated")
            adapt(subject.network, estimator)
    pairs = zip(subject.portions(images), torch.from_numpy(labels).split(PORTION), strict=True)
    return ranks(subject.network, pairs, size)


def compare(subject: Subject, condition: Condition, batch: int) -> ShiftReport:
    """The statistics of shifted images in every layer, beside the training data's, in batches of a size.

    Raises
    ------
    ValueError
        If the network has no batch norm layers, or images cannot be read.
    """
    convertible_layers(subject.network)
    subject.calibrate()
    images, _ = subject.read(condition)
    return shift_report(subject.network, subject.portions(images, batch))


def write(
    subject: Subject, cells: Cells, conditions: list[Condition], sizes: list[int], estimators: list[str]
) -> dict[str, Any]:
    """Write results.json and the picture beside the cells.

    Returns
    -------
    dict
        What results.json holds.
    """
    results = {
        "settings": subject.settings,
        "calibrated": subject.calibrated,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("shrinkstats", "torch", "numpy")},
        },
        "estimators": estimators,
        "batches": sizes,
        **score(cells, conditions, sizes, estimators, mce=isinstance(subject.data, CorruptedImageNet)),
    }
    folder = cells.path.parent
    with whole(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with whole(folder / PICTURE) as temporary:
        draw(results, temporary)
    return results
