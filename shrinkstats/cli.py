"""The command ``shrinkstats``: shrunken statistics of a file, and the demo."""

# No `from __future__ import annotations` here: the commands are declared inside a function, and typer reads their
# annotations as objects.

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

import shrinkstats
from shrinkstats._files import UsageError, read, whole
from shrinkstats.moments import check_axes

if TYPE_CHECKING:
    import typer

FORMATS = (".csv", ".json", ".npz")
ENDS = 10  # rows shown at either end of a long table


def main() -> None:
    """Run the command line."""
    try:
        app = application()
    except ModuleNotFoundError as error:
        sys.exit(f'The command line needs {error.name}: pip install "shrinkstats[cli]"')
    app()


def application() -> "typer.Typer":
    """The commands and their options."""
    import rich  # noqa: F401 - asked for here, so that main() can say what is missing
    import typer

    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"shrinkstats {shrinkstats.__version__}")
            raise typer.Exit()

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """Means and variances by shrinkage, and batch normalization that uses them.

        Examples:

        - `shrinkstats estimate measurements.csv`

        - `shrinkstats estimate images.npy --axis 1 --output channels.json`

        - `shrinkstats demo`
        """

    @app.command()
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
        target: Annotated[
            str, typer.Option(help="What the means shrink to: a number, or 'mean', the grand mean.")
        ] = "0",
        output: Annotated[
            Path | None, typer.Option(help="Also write the numbers to this .csv, .json or .npz file.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
        all_rows: Annotated[bool, typer.Option("--all", help="Show every channel of a long table.")] = False,
    ) -> None:
        """Print the sample and the shrunken mean and variance of every channel of FILE.

        Means are shrunk by James and Stein's rule, with the noise that the samples' own means show; variances by
        DasGupta's, towards their geometric mean.

        Examples:

        - `shrinkstats estimate measurements.csv --target mean`

        - `shrinkstats estimate images.npy --axis -1` (images by rows, columns, channels)

        - `shrinkstats estimate activations.npz --key layer1 --output layer1.csv`
        """
        with _one_line_errors():
            if output is not None:
                _check_output(output, force)
            goal = _target(target)
            x, names = read(file, key)
            table = _estimate(file, x, names, axis, sample_axis, goal)
            _show(table, all_rows)
            if output is not None:
                with whole(output) as temporary:
                    _write(table, temporary)
                typer.echo(f"Written to {output}", err=True)

    @app.command()
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
        with _one_line_errors():
            try:
                from shrinkstats.adapters.demo import EPOCHS, run
            except ModuleNotFoundError as error:
                raise UsageError(f'the demo needs {error.name}: pip install "shrinkstats[demo]"') from error
            run(output, seed=seed, epochs=epochs or EPOCHS, quiet=quiet)

    return app


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors a user can act on, without a traceback: status 2 for the request, 1 for the data."""
    import typer

    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError) as error:
        typer.echo(f"Error: {_printable(str(error)) or type(error).__name__}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error


def _printable(text: str) -> str:
    """Text of a file without what would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


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


def _axes(x: np.ndarray[Any, Any], axis: int, sample_axis: str | None) -> tuple[int, int | None]:
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
        raise UsageError(f"{error} (options --axis and --sample-axis)") from error


def _check_output(output: Path, force: bool) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"--output must end in {', '.join(FORMATS)}, got {output}")
    if not output.parent.is_dir():
        raise UsageError(f"--output: there is no folder {output.parent}")
    if output.is_dir() or (output.exists() and not force):
        raise UsageError(f"{output} exists{'' if output.is_dir() else '; --force overwrites it'}")


@dataclass(frozen=True)
class _Table:
    """One row a channel, and what all of them share."""

    file: Path
    names: list[str]
    columns: dict[str, np.ndarray[Any, Any]]
    factor: float
    target: float | str
    count: int
    samples: int


def _estimate(
    file: Path,
    x: np.ndarray[Any, Any],
    header: list[str] | None,
    axis: int,
    sample_axis: str | None,
    target: float | str,
) -> _Table:
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
    labels = header if header is not None and channel_axis == 1 else [""] * channels  # a header names columns
    return _Table(
        file=file,
        names=[_printable(label).strip() or str(i) for i, label in enumerate(labels)],
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
    )


def _show(table: _Table, all_rows: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)  # whoever reads the pipe has no screen to fit
    grid = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    grid.add_column("channel", overflow="ellipsis", no_wrap=True)
    for name in table.columns:
        grid.add_column(name.replace("_", " "), justify="right")
    total = len(table.names)
    hidden = range(ENDS, total - ENDS) if not all_rows and total > 2 * ENDS + 4 else range(0)
    for i, name in enumerate(table.names):
        if i not in hidden:
            grid.add_row(Text(name), *(f"{column[i]:.6g}" for column in table.columns.values()))
        elif i == hidden.start:
            grid.add_row(*["..."] * (1 + len(table.columns)))

    def say(line: str) -> None:
        console.print(line, markup=False)

    target = "their grand mean" if table.target == "mean" else f"{table.target:g}"
    say(f"{_printable(str(table.file))}: channels {total}, observations of each {table.count}, samples {table.samples}")
    console.print(grid)
    if hidden:
        say(f"{len(hidden)} of {total} channels are not shown: --all shows them.")
    say(f"Means: shrunk towards {target}, factor {table.factor:.6g} (1 keeps the sample means, 0 gives the target).")
    say("Variances: DasGupta's rule, which pools them through their geometric mean.")
    for note in _notes(table):
        say(f"Note: {note}")


def _notes(table: _Table) -> Iterator[str]:
    """What makes a number missing, or the same as before."""
    bad = np.flatnonzero(~np.isfinite(table.columns["sample_mean"]) | ~np.isfinite(table.columns["sample_variance"]))
    channels = len(table.names)
    if len(bad):
        named = ", ".join(table.names[i] for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
        yield (
            f"{len(bad)} of {channels} channels hold NaN or infinity ({named}). Shrinkage pools the channels, so "
            "their missing values reach every shrunken one: fill them or leave these channels out."
        )
    elif table.count == 1:
        yield "one observation a channel shows no noise, so there is nothing to shrink the means by."
    elif table.factor == 1:
        least = 4 if table.target == "mean" else 3
        yield (
            f"the means stay as they are: shrinkage needs at least {least} channels."
            if channels < least
            else "the means stay as they are: a few channels carry most of the noise, or there is none."
        )


def _write(table: _Table, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays: dict[str, Any] = {"channel": np.array(table.names), "factor": table.factor, **table.columns}
        with path.open("wb") as binary:
            np.savez(binary, **arrays)
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["channel", *table.columns, "factor"])
            rows = zip(table.names, *(column.tolist() for column in table.columns.values()), strict=True)
            writer.writerows([*row, table.factor] for row in rows)
    else:
        columns = {name: [_or_none(v) for v in column.tolist()] for name, column in table.columns.items()}
        shared = {"count": table.count, "samples": table.samples, "target": table.target}
        content = {**shared, "factor": _or_none(table.factor), "channel": table.names, **columns}
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


if __name__ == "__main__":
    main()
