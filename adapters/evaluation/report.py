"""Progress with the time that is left, and the results as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

FEW = 10  # batches


@contextmanager
def progress() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Progress bars on standard error: a function that starts one for a stage and returns what moves it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    bars = Progress(*columns, console=Console(stderr=True))

    def stage(name: str, steps: int) -> Callable[[], None]:
        bars.start()
        task = bars.add_task(name, total=steps)
        return lambda: bars.advance(task)

    try:
        yield stage
    finally:
        if bars.tasks:  # an error before the first of them is printed alone
            bars.stop()


def show(results: dict[str, Any], console: Console) -> None:
    """Top-1 accuracy by shift, batch size and estimator."""
    settings = results["settings"]
    wide = console.width >= 28 + 20 * len(results["estimators"])
    intervals = "with 95% intervals over resampled batches" if wide else "with intervals in results.json"
    console.print(
        f"{settings['model']} on {settings['kind']}, {settings['images']} images of each shift: "
        f"top-1 accuracy in %, {intervals}"
    )
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    table.add_column("shift", no_wrap=True)
    table.add_column("batch", justify="right")
    for name in results["estimators"]:
        table.add_column(name, justify="right")
    found = {(row["shift"], row["batch"], row["estimator"]): row for row in results["shifts"]}
    for shift in dict.fromkeys(row["shift"] for row in results["shifts"]):
        for size in results["batches"]:
            rows = [found[shift, size, name] for name in results["estimators"]]
            last = size == results["batches"][-1]
            table.add_row(_named(rows[0]), str(size), *(_percent(row, wide) for row in rows), end_section=last)
    console.print(table)
    for row in results.get("mce", []):
        console.print(f"mCE, {row['estimator']}, batch {row['batch']}: {100 * row['mce']:.1f}%")
    for note in _notes(results):
        console.print(f"Note: {note}")


def _named(row: dict[str, Any]) -> str:
    severities = row["severities"]
    return row["shift"] if severities in ([0], [1, 2, 3, 4, 5]) else f"{row['shift']}:{','.join(map(str, severities))}"


def _percent(row: dict[str, Any], wide: bool) -> str:
    if row["top1_interval"] is None or not wide:
        return f"{100 * row['top1']:.1f}"
    low, high = row["top1_interval"]
    return f"{100 * row['top1']:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _notes(results: dict[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    if not results["calibrated"] and "stein" in results["estimators"]:
        yield "not calibrated, for want of training images (--training-data): stein is poor for small batches."
    made = settings["kind"] in ("CIFAR-10", "CIFAR-100") and {"mean", "mixed"} & {r["shift"] for r in results["shifts"]}
    if made and settings["frost"] is None:
        yield "'all' and 'mixed' are without frost, which is made from pictures of it (--frost)."
    if few := [size for size in results["batches"] if settings["images"] // size < FEW]:
        yield f"intervals from fewer than {FEW} batches (of {', '.join(map(str, few))} images) are too narrow."
    if odd := [size for size in results["batches"] if settings["images"] % size]:
        images = settings["images"]
        yield f"{images} images do not divide into batches of {', '.join(map(str, odd))}: the rest is left out."
