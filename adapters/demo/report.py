"""Accuracies with their standard errors, which line wins, and both as a table on the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

MEAN = "mean"  # of all shifts


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Progress bars: a function that starts one for a stage and returns what moves it on."""
    columns = TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=quiet) as bars:

        def stage(name: str, steps: int) -> Callable[[], None]:
            task = bars.add_task(name, total=steps)
            return lambda: bars.advance(task)

        yield stage


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


def show(results: dict[str, Any]) -> None:
    """The table, and the verdict."""
    settings = results["settings"]
    table = Table(
        title=f"Accuracy in % (± standard error) on {settings['test_images']} test images; * is the best of four",
        title_justify="left",
    )
    table.add_column("shift")
    table.add_column("statistics")
    for size in results["batch_sizes"]:
        table.add_column(f"batch {size}", justify="right")
    for panel, lines in results["panels"].items():
        best = [max(column) for column in zip(*(line["accuracy"] for line in lines.values()), strict=True)]
        for i, (rule, line) in enumerate(lines.items()):
            cells = [
                f"{accuracy:.1f} ± {error:.1f}{'*' if accuracy == top else ' '}"
                for accuracy, error, top in zip(line["accuracy"], line["standard_error"], best, strict=True)
            ]
            table.add_row("" if i else panel, rule, *cells, end_section=i == len(lines) - 1)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    console.print(table)
    training, evaluation = results["seconds"].values()
    console.print(f"Trained to {results['test_accuracy']:.1f}% in {training} s, evaluated in {evaluation} s.")
    console.print(f"{results['overall']['verdict']} (mean over shifts and batch sizes).", style="bold", soft_wrap=True)
