"""`shrinkstats shift`: how far images are, layer by layer, from those a network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkstats.adapters.commands import options
from shrinkstats.adapters.commands.errors import UsageError, installed
from shrinkstats.adapters.commands.output import PICTURES, check_output, write_whole
from shrinkstats.adapters.commands.screen import grid, screen

if TYPE_CHECKING:
    from shrinkstats.adapters.torch import ShiftReport


def shift(
    checkpoint: options.Checkpoint,
    data: options.Data,
    model: options.Model,
    condition: Annotated[
        str | None,
        typer.Option(
            "--shift",
            help="A corruption and severity (fog:3), mixed, mixed:3 or none. Left out: none.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that would share statistics.")] = 64,
    images: Annotated[int, typer.Option(min=1, help="Images to look at.")] = 1024,
    seed: options.Seed = 0,
    mean: options.Mean = options.MEAN,
    std: options.Std = options.STD,
    training_data: options.TrainingData = None,
    frost: options.Frost = None,
    output: Annotated[Path | None, typer.Option(help="Also write the rows to this .csv or .json file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them over depth to this .png, .svg or .pdf.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite these files.")] = False,
    all_rows: Annotated[bool, typer.Option("--all", help="Show every layer of a long table.")] = False,
) -> None:
    """Print how far images are, layer by layer, from those a network was trained on.

    For every batch norm layer the distance between the statistics of training and of these images (1 is one
    standard deviation), what chance would show, the weight that a Stein blend gives the batch, and the strength
    that this and Proposition 1 of Schneider, Rusak et al. (2020) amount to.

    Examples:

    - `shrinkstats shift resnet20.safetensors cifar-10-batches-py --model resnet20 --shift gaussian_noise:3`

    - `shrinkstats shift net.pt CIFAR-10-C --model vgg16 --shift fog:5 --output shift.csv --picture shift.png`
    """
    check_output(output, force, (".csv", ".json"))
    check_output(picture, force, PICTURES, "--picture")
    with installed("this", "torch,cli"):
        from shrinkstats.adapters.commands.evaluation import request, run
        from shrinkstats.adapters.commands.evaluation.subject import prepare
    subject = prepare(
        checkpoint, data, model=model, images=images, seed=seed, mean=mean, std=std, training=training_data,
        frost=frost,
    )  # fmt: skip
    wanted = request.conditions(condition or "none", subject.data)
    if len(wanted) > 1:
        raise UsageError(f"--shift: expected one shift at one severity, such as fog:3, got {condition!r}")
    report = run.compare(subject, wanted[0], min(batch, len(subject.places)))
    text = report.to_csv if output is not None and output.suffix.lower() == ".csv" else report.to_json
    write_whole((output, text), (picture, report.plot))
    _show(report, str(wanted[0]), all_rows)


def _show(report: ShiftReport, name: str, all_rows: bool) -> None:
    console = screen()
    noise = "calibrated noise" if report.calibrated else "noise as each batch shows it, for want of training images"
    console.print(f"{name}: {report.images} images in batches of {report.rows[0]['n']}; {noise}")
    columns = {
        key: [f"{row[key]:.3g}" for row in report.rows]
        for key in report.rows[0]
        if key not in ("layer", "depth", "channels", "n")
    }
    if hidden := grid(console, "layer", [row["layer"] for row in report.rows], columns, all_rows):
        console.print(f"{len(hidden)} of {len(report.rows)} layers are not shown: --all shows them.")
    console.print(f"Mean distance {report.distance:.3g}; 1 is one standard deviation of the training data.")
