"""`shrinkstats demo`: a small network trained on real digits, and four ways to normalize them once they shift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TimeElapsedColumn
from rich.table import Table

from shrinkstats.adapters.commands.errors import installed
from shrinkstats.adapters.commands.screen import progress


def demo(
    output: Annotated[Path, typer.Option(help="Folder for results.json and the picture.")] = Path("demo-results"),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the files and print nothing.")] = False,
) -> None:
    """Train a small network on real digits, shift its inputs, and compare four ways to normalize.

    1,797 handwritten digits that ship with scikit-learn; about a minute on two cores, without a network
    connection. Prints the accuracy by shift and batch size, and writes results.json and accuracy.png.

    Examples:

    - `shrinkstats demo`

    - `shrinkstats demo --seed 1 --output second-run`
    """
    with installed("the demo", "demo"):
        from shrinkstats.adapters.commands.digits import EPOCHS, PICTURE, RESULTS, SHUFFLES, run

    with progress("{task.description:10}", TimeElapsedColumn(), quiet=quiet) as stages:
        results = run(output, stages, seed=seed, epochs=epochs or EPOCHS, shuffles=SHUFFLES)
    if not quiet:
        _show(results)
        print(f"\nThe numbers: {output / RESULTS}\nThe picture: {output / PICTURE}")


def _show(results: dict[str, Any]) -> None:
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
