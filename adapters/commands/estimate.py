"""`shrinkstats estimate`: the sample and the shrunken mean and variance of every channel of a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import shrinkstats
from shrinkstats._arrays import as_real, namespace
from shrinkstats.adapters.commands.arrays import read
from shrinkstats.adapters.commands.csv_tables import Table
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.options import AllRows
from shrinkstats.adapters.commands.output import check_output, or_none, write_json, write_whole
from shrinkstats.adapters.commands.screen import grid, printable, screen
from shrinkstats.moments import check_axes

FORMATS = (".csv", ".json", ".npz")


def estimate(
    file: Annotated[Path, typer.Argument(help=".npy, .npz, or .csv (rows are observations, columns channels).")],
    key: Annotated[str | None, typer.Option(help="Which array of a .npz file.")] = None,
    axis: Annotated[int, typer.Option(help="The axis of the channels.")] = 1,
    sample_axis: Annotated[
        str | None,
        typer.Option(
            help="Slices along this axis are independent samples; 'none': every element is. "
            "Left out: the first axis that is not the channels'.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="What the means shrink to: a number, or 'mean', the grand mean.")] = "0",
    output: Annotated[
        Path | None, typer.Option(help="Also write the numbers to this .csv, .json or .npz file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    all_rows: AllRows = False,
) -> None:
    """Print the sample and the shrunken mean and variance of every channel of FILE.

    Means are shrunk by James and Stein's rule, with the noise that the samples' own means show; variances by
    DasGupta's, towards their geometric mean.

    In a .csv, a first row of words names the columns. First columns name the rows if they hold words, have no
    title, or hold whole numbers under the title id, index or row. Notes say what was taken for names, and what was
    taken for numbers but may be names. An empty cell is a missing value.

    Examples:

    - `shrinkstats estimate measurements.csv --target mean`

    - `shrinkstats estimate images.npy --axis -1` (images by rows, columns, channels)

    - `shrinkstats estimate activations.npz --key layer1 --output layer1.csv`
    """
    check_output(output, force, FORMATS)
    goal = _target(target)
    found = _estimates(file, read(file, key), axis, sample_axis, goal)
    write_whole((output, partial(_write, found)))
    _show(found, all_rows)


@dataclass(frozen=True)
class _Estimates:
    """One row a channel, and what all of them share."""

    file: Path
    names: list[str]
    columns: dict[str, NDArray[Any]]
    factor: float
    target: float | str
    count: int
    samples: int
    notes: list[str]  # on what the file was taken to say


def _target(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError as error:
        if text == "mean":
            return text
        raise UsageError(f"--target must be a number or 'mean', got {text!r}") from error
    if not np.isfinite(value):
        raise UsageError(f"--target must be finite, got {text}")
    return value


def _axes(x: NDArray[Any], axis: int, sample_axis: str | None) -> tuple[int, int | None]:
    along: int | None = None
    if sample_axis is None and x.ndim > 1:
        along = 1 if axis in (0, -x.ndim) else 0
    elif sample_axis is not None and sample_axis.lower() != "none":
        try:
            along = int(sample_axis)
        except ValueError as error:
            raise UsageError(f"--sample-axis must be a whole number or 'none', got {sample_axis!r}") from error
    try:
        return check_axes(x, axis, along)
    except ValueError as error:
        said = str(error).replace("sample_axis=None", "--sample-axis none")
        said = said.replace("axis=0", "--axis 0").replace(", or pass x[:, None] if all are of one", "")
        raise UsageError(f"{said} (options --axis and --sample-axis)") from error


def _estimates(file: Path, content: Table, axis: int, sample_axis: str | None, target: float | str) -> _Estimates:
    x = content.values
    try:
        as_real("the array", np.empty_like(x, shape=0), namespace(x=x))
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from error
    channel_axis, samples_along = _axes(x, axis, sample_axis)
    try:
        with np.errstate(invalid="ignore"):  # infinity in the data; the notes say so
            moments = shrinkstats.moments(x, axis=channel_axis, sample_axis=samples_along)
            if not moments.count:
                raise ValueError(f"no observations in an array of shape {x.shape}")
            means = shrinkstats.james_stein(moments.mean, moments.noise, target=target)
            variances = shrinkstats.gamma_stein(moments.var(), n=moments.count)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    channels = moments.mean.shape[0]
    labels = (content.columns if channel_axis == 1 else content.rows) or [""] * channels
    return _Estimates(
        file=file,
        names=[printable(label).strip() or str(i) for i, label in enumerate(labels)],
        columns={
            "sample_mean": moments.mean,
            "shrunken_mean": means.estimate,
            "sample_variance": moments.var(),
            "shrunken_variance": variances,
        },
        factor=float(means.factor),
        target=target,
        count=moments.count,
        samples=moments.samples,
        notes=[printable(note) for note in content.notes],
    )


def _write(found: _Estimates, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays: dict[str, Any] = {"channel": np.array(found.names), "factor": found.factor, **found.columns}
        with path.open("wb") as binary:
            np.savez(binary, **arrays)
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["channel", *found.columns, "factor"])
            rows = zip(found.names, *(column.tolist() for column in found.columns.values()), strict=True)
            writer.writerows([*row, found.factor] for row in rows)
    else:
        columns = {name: [or_none(v) for v in column.tolist()] for name, column in found.columns.items()}
        shared = {"count": found.count, "samples": found.samples, "target": found.target}
        write_json({**shared, "factor": or_none(found.factor), "channel": found.names, **columns}, path)


def _show(found: _Estimates, all_rows: bool) -> None:
    console = screen()
    say = console.print
    total = len(found.names)
    target = "their grand mean" if found.target == "mean" else f"{found.target:g}"
    say(f"{printable(str(found.file))}: channels {total}, observations of each {found.count}, samples {found.samples}")
    if hidden := grid(console, "channel", found.names, found.columns, all_rows):
        say(f"{len(hidden)} of {total} channels are not shown: --all shows them.")
    say(f"Means: shrunk towards {target}, factor {found.factor:.6g} (1 keeps the sample means, 0 gives the target).")
    say("Variances: DasGupta's rule, which pools them through their geometric mean.")
    for note in _notes(found):
        say(f"Note: {note}")


def _notes(found: _Estimates) -> Iterator[str]:
    """What was left out, and what makes a number missing, or the same as before."""
    yield from found.notes
    mean, var = found.columns["sample_mean"], found.columns["sample_variance"]
    large = np.flatnonzero(np.isfinite(mean) & np.isinf(var))
    bad = np.flatnonzero(~np.isfinite(mean) | np.isnan(var))
    channels = len(found.names)

    def hold(which: NDArray[Any], what: str) -> str:
        named = ", ".join(found.names[i] for i in which[:5]) + (", ..." if len(which) > 5 else "")
        return f"{len(which)} of {channels} channels hold {what} ({named}). Shrinkage pools the channels"

    if len(bad):
        yield (
            f"{hold(bad, 'NaN or infinity')}, so their missing values reach every shrunken one: fill them or leave "
            "these channels out."
        )
    elif len(large):
        yield (
            f"{hold(large, 'numbers too large to be squared')}, so their infinite variances reach every shrunken one: "
            "divide the data by a constant or leave these channels out."
        )
    elif found.count == 1:
        yield "one observation a channel shows no noise, so there is nothing to shrink the means by."
    elif found.factor == 1:
        least = 4 if found.target == "mean" else 3
        yield (
            f"the means stay as they are: shrinkage needs at least {least} channels."
            if channels < least
            else "the means stay as they are: a few channels carry most of the noise, or there is none."
        )
