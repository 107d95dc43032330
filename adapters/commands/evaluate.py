"""`shrinkstats evaluate`: how accurate a network is on shifted images, by where its statistics come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TextColumn, TimeRemainingColumn

from shrinkstats.adapters.commands import options
from shrinkstats.adapters.commands.errors import INTERRUPTED, installed
from shrinkstats.adapters.commands.screen import plain_table, progress, screen

FEW = 10  # batches


def evaluate(
    checkpoint: options.Checkpoint,
    data: options.Data,
    model: options.Model,
    shifts: Annotated[
        str | None,
        typer.Option(
            help="none, a corruption (fog), one at a severity (fog:3), all, all:3, mixed, mixed:3; several with "
            "commas. Left out: none, if there are clean images, and all.",
            show_default=False,
        ),
    ] = None,
    batches: Annotated[str, typer.Option(help="Images that share statistics; 'full' is all.")] = "1,8,64",
    estimators: Annotated[
        str, typer.Option(help="Where statistics come from: trained, batch, prior:N, stein; or module:Rule.")
    ] = "trained,batch,prior:16,stein",
    images: Annotated[int, typer.Option(min=1, help="Images of each shift.")] = 1024,
    seed: options.Seed = 0,
    mean: options.Mean = options.MEAN,
    std: options.Std = options.STD,
    training_data: options.TrainingData = None,
    frost: options.Frost = None,
    output: Annotated[Path, typer.Option(help="Folder of cells.jsonl, results.json, accuracy.png.")] = Path(
        "evaluation"
    ),
    force: Annotated[bool, typer.Option("--force", help="Discard another run's results there.")] = False,
) -> None:
    """Print how accurate a network is on shifted images, by batch size and by where its statistics come from.

    Every number is written to cells.jsonl as soon as it is known. A run that was stopped goes on when it is started
    again, and one that is done can be asked for more shifts, batch sizes and estimators. Corruptions are made from
    CIFAR's test images, or read from the published sets.

    Exit status: 0, 1 for a damaged file, 2 for a request that makes no sense, 130 after Ctrl-C.

    Examples:

    - `shrinkstats evaluate resnet20.safetensors cifar-10-batches-py --model resnet20`

    - `shrinkstats evaluate net.pt CIFAR-10-C --model vgg16 --training-data cifar-10-batches-py --batches 1,4,16`

    - `shrinkstats evaluate net.pt . --model resnet18 --shifts none,fog:3,mixed:3 --estimators trained,stein`
    """
    with installed("this", "torch,cli"):
        from shrinkstats.adapters.commands.evaluation import request, run
        from shrinkstats.adapters.commands.evaluation.subject import prepare
    rules = request.estimators(estimators)
    subject = prepare(
        checkpoint, data, model=model, images=images, seed=seed, mean=mean, std=std, training=training_data,
        frost=frost,
    )  # fmt: skip
    usual = "none,all" if "none" in subject.data.shifts else "all"
    conditions = request.conditions(shifts or usual, subject.data)
    sizes = request.sizes(batches, len(subject.places))
    cells = run.begin(output, subject.settings, force=force)
    try:
        with progress(
            "{task.description}", TimeRemainingColumn(), TextColumn("left"), console=Console(stderr=True)
        ) as stages:
            run.measure(subject, cells, conditions, sizes, rules, stages)
    except KeyboardInterrupt as stopped:
        typer.echo(f"Stopped; {len(cells)} numbers are kept in {cells.path}. Ask again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from stopped
    results = run.write(subject, cells, conditions, sizes, list(rules))
    typer.echo(f"Written to {output}", err=True)
    show(results, screen())


def show(results: dict[str, Any], console: Console) -> None:
    """Top-1 accuracy by shift, batch size and estimator."""
    settings = results["settings"]
    wide = console.width >= 28 + 20 * len(results["estimators"])
    intervals = "with 95% intervals over resampled batches" if wide else "with intervals in results.json"
    console.print(
        f"{settings['model']} on {settings['kind']}, {settings['images']} images of each shift: "
        f"top-1 accuracy in %, {intervals}"
    )
    table = plain_table(console)
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
