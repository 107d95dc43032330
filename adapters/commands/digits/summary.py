"""Accuracies with their standard errors, and which line wins."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

MEAN = "mean"  # of all shifts


def summary(hits: Tensor, rules: list[str], shifts: list[str], sizes: list[int]) -> dict[str, Any]:
    """What `evaluate` found, per shift and over all of them, in percent.

    Standard errors are over the test images: an image's hits in several shuffles count as one observation.
    """
    panels = {shift: hits[:, i] for i, shift in enumerate(shifts)} | {MEAN: hits.mean(1)}
    return {
        "rules": rules,
        "batch_sizes": sizes,
        "test_accuracy": _percent(hits[rules.index("trained statistics"), shifts.index("none"), -1])[0],
        "panels": {
            name: {
                rule: dict(zip(("accuracy", "standard_error"), zip(*map(_percent, panel[r]), strict=True), strict=True))
                for r, rule in enumerate(rules)
            }
            for name, panel in panels.items()
        },
        "overall": _ranking(hits.mean((1, 2)), rules),
    }


def _percent(hits: Tensor) -> tuple[float, float]:
    """Mean over the images and its standard error."""
    return 100 * hits.mean().item(), 100 * hits.std().item() / math.sqrt(len(hits))


def _ranking(hits: Tensor, rules: list[str]) -> dict[str, Any]:
    """Accuracy over all shifts and batch sizes, and the winner's lead, compared image by image."""
    order = hits.mean(1).argsort(descending=True).tolist()
    first, second = order[:2]
    lead, error = _percent(hits[first] - hits[second])
    if lead > 2 * error:
        verdict = f"{rules[first]} is best overall, {lead:.1f} ± {error:.1f} points ahead of {rules[second]}"
    else:
        verdict = f"No clear winner: {rules[first]} and {rules[second]} are {lead:.1f} ± {error:.1f} points apart"
    accuracy = {rules[i]: _percent(hits[i])[0] for i in order}
    return {"accuracy": accuracy, "lead": lead, "lead_standard_error": error, "verdict": verdict}
