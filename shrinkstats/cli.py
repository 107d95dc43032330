"""The command ``shrinkstats``: shrunken statistics of a file, bounds on blends, dominance, and the demo."""

# No `from __future__ import annotations` here: the commands are declared inside a function, and typer reads their
# annotations as objects.

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

import shrinkstats
from shrinkstats._files import Table, UsageError, read, whole
from shrinkstats.moments import check_axes

if TYPE_CHECKING:
    import typer

    from shrinkstats._bounds import Bounds
    from shrinkstats.theory.report import DominanceReport

FORMATS = (".csv", ".json", ".npz")
PICTURES = (".png", ".svg", ".pdf")
INTERRUPTED = 130  # the exit status shells expect after Ctrl-C
ENDS = 10  # rows shown at either end of a long table


def main() -> None:
    """Run the command line."""
    try:
        app = application()
    except ModuleNotFoundError as error:
        sys.exit(f'The command line needs {error.name}: pip install "shrinkstats[cli]"')
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that a terminal has no letters for are no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
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

        - `shrinkstats bounds --source 0,1 --target 0.5,0.25 -n 8`

        - `shrinkstats dominance stein --dim 16 -n 8`

        - `shrinkstats evaluate resnet20.safetensors cifar-10-batches-py --model resnet20`

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

        In a .csv, a first row of words names the columns. First columns name the rows if they hold words, have no
        title, or hold whole numbers under the title id, index or row. Notes say what was taken for names, and what was
        taken for numbers but may be names. An empty cell is a missing value.

        Examples:

        - `shrinkstats estimate measurements.csv --target mean`

        - `shrinkstats estimate images.npy --axis -1` (images by rows, columns, channels)

        - `shrinkstats estimate activations.npz --key layer1 --output layer1.csv`
        """
        with _one_line_errors():
            if output is not None:
                _check_output(output, force)
            goal = _target(target)
            table = _estimate(file, read(file, key), axis, sample_axis, goal)
            _write_whole((output, partial(_write, table)))
            _show(table, all_rows)

    @app.command()
    def bounds(
        source: Annotated[str, typer.Option(help="Training statistics: MEAN,VARIANCE, or a file of them.")],
        target: Annotated[str, typer.Option(help="The true statistics of the data to adapt to, likewise.")],
        samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples in a batch.")],
        strength: Annotated[
            list[float] | None,
            typer.Option(
                help="N, how many samples the source counts for; repeat it for several. Left out: 0 to inf.",
                show_default=False,
            ),
        ] = None,
        alpha: Annotated[float, typer.Option(help="The upper bound is one at confidence 1 - alpha.")] = 0.05,
        normalized: Annotated[
            bool, typer.Option("--normalized", help="Distances in units of the source's variance.")
        ] = False,
        output: Annotated[Path | None, typer.Option(help="Also write the numbers to this .json file.")] = None,
        picture: Annotated[Path | None, typer.Option(help="Draw the bounds to this .png, .svg or .pdf.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Overwrite these files.")] = False,
        all_rows: Annotated[bool, typer.Option("--all", help="Show every channel of a long table.")] = False,
    ) -> None:
        """Print how far a blend of statistics is from the truth, by strength, and the best strength.

        Bounds on the expected squared W2 between the target and a blend of the source's statistics with those of a
        batch of the target: proposition 1 of Schneider, Rusak et al. (2020). A file is a .csv, .json or .npz as
        `shrinkstats estimate --output` writes it.

        Examples:

        - `shrinkstats bounds --source 0,1 --target 0.5,0.25 -n 8`

        - `shrinkstats bounds --source 0,1 --target -1,2 -n 32 --strength 8 --strength 16 --picture bounds.png`

        - `shrinkstats bounds --source train.json --target test.json -n 64 --normalized --output bounds.json`
        """
        from shrinkstats import _bounds

        with _one_line_errors():
            if output is not None:
                _check_output(output, force, (".json",))
            if picture is not None:
                _check_output(picture, force, PICTURES, "--picture")
            strengths = sorted(strength or _bounds.STRENGTHS)
            if not 0 < alpha < 1:
                raise UsageError(f"--alpha must be between 0 and 1, got {alpha:g}")
            if bad := [value for value in strengths if not value >= 0]:
                raise UsageError(f"--strength must be at least 0, got {bad[0]:g}")
            result = _bounds.bounds(source, target, n=samples, strengths=strengths, alpha=alpha, normalized=normalized)
            _write_whole((output, partial(_write_bounds, result)), (picture, partial(_bounds.draw, result)))
            _show_bounds(result, all_rows)

    @app.command()
    def dominance(
        estimator: Annotated[
            str,
            typer.Argument(
                help="stein, published, james-stein, james-stein-plain (no positive part), gamma-stein, sample-mean, "
                "sample-variance, ridge, lasso, prior-blend or stein-blend; a name of the studies, such as "
                "robust_norm; or module:Rule, one of your own."
            ),
        ],
        dim: Annotated[int, typer.Option(min=1, help="Channels.")],
        samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Observations of each channel.")],
        against: Annotated[
            str | None,
            typer.Option(help="The rival, likewise. Left out: the sample mean or variance.", show_default=False),
        ] = None,
        constant: Annotated[
            float | None,
            typer.Option(
                help="The constant of the estimator's formula: a factor on c - 2 (James-Stein), lambda (ridge, lasso), "
                "the samples a prior counts for, or kappa (stein-blend).",
                show_default=False,
            ),
        ] = None,
        against_constant: Annotated[
            float | None, typer.Option(help="The constant of the rival's formula.", show_default=False)
        ] = None,
        statistic: Annotated[str, typer.Option(help="What is estimated: mean or var.")] = "mean",
        radii: Annotated[
            str,
            typer.Option(
                help="Distances of the truth from the target, in standard errors: START:STOP:STEP, or 0,2,4. For "
                "variances: of the log variances from equal ones."
            ),
        ] = "0:10:1",
        noise: Annotated[
            str,
            typer.Option(
                help="Of the observations: gaussian, rademacher, uniform, truncated-gaussian, clipped-cauchy or sparse."
            ),
        ] = "gaussian",
        attack: Annotated[
            str | None, typer.Option(help="What is added to the sample: one of these models.", show_default=False)
        ] = None,
        strength: Annotated[
            float | None, typer.Option(help="Standard deviation of the attack.", show_default=False)
        ] = None,
        common: Annotated[
            bool, typer.Option("--common", help="One draw of the attack for a whole batch, not one a sample.")
        ] = False,
        worst_case: Annotated[
            float | None,
            typer.Option(help="Instead: an adversary who moves the means by this much at most.", show_default=False),
        ] = None,
        known_variance: Annotated[
            float | None,
            typer.Option(help="The variance the rules are told. Left out: they estimate it.", show_default=False),
        ] = None,
        loss: Annotated[
            str, typer.Option(help="squared, scale-invariant, entropy (variances), or a weight a channel: 1,1,4.")
        ] = "squared",
        confidence: Annotated[float, typer.Option(help="That all bounds hold together.")] = 0.99,
        seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
        budget: Annotated[int, typer.Option(help="Samples drawn at one point at most.")] = 2**20,
        workers: Annotated[
            int | None,
            typer.Option(min=1, help="Processes. Left out: threads of this one.", show_default=False),
        ] = None,
        resume: Annotated[
            Path | None,
            typer.Option(help="A .json file that keeps what was drawn; the same question goes on from it."),
        ] = None,
        output: Annotated[Path | None, typer.Option(help="Also write the report to this .json file.")] = None,
        picture: Annotated[Path | None, typer.Option(help="Draw the risks to this .png, .svg or .pdf.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Overwrite these two files.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print the verdict alone, in one word.")] = False,
    ) -> None:
        """Verify whether ESTIMATOR has a smaller risk than a rival, wherever the truth is.

        The verdict is *proved*, *dominates*, *dominated*, *crosses* or *undecided*. All but a proof speak of the radii
        looked at; what a verdict rests on and does not cover is printed below.

        Ctrl-C ends the run early: what was found by then is printed and written, and its bounds hold.

        Exit status: 0 whatever the verdict, 1 for a damaged file, 2 for a request that makes no sense, 130 after
        Ctrl-C.

        Examples:

        - `shrinkstats dominance stein --dim 16 -n 8`

        - `shrinkstats dominance stein --dim 16 -n 8 --attack rademacher --strength 0.5 --picture dominance.png`

        - `shrinkstats dominance james-stein-plain --constant 2.5 --dim 8 -n 4 --known-variance 1 --output report.json`

        - `shrinkstats dominance gamma-stein --statistic var --dim 8 -n 16 --loss entropy --resume run.json`
        """
        with _one_line_errors():
            from shrinkstats.theory import command

            for option, path, overwrite, formats in (
                ("--output", output, force, (".json",)),
                ("--picture", picture, force, PICTURES),
                ("--resume", resume, True, (".json",)),
            ):
                if path is not None:
                    _check_output(path, overwrite, formats, option)
            if picture is not None:
                command.check_picture()
            if statistic not in ("mean", "var"):
                raise UsageError(f"--statistic must be mean or var, got {statistic!r}")
            if against is None and against_constant is not None:
                raise UsageError("--against-constant needs --against, the rule it is of")
            rival = against or {"mean": "sample-mean", "var": "sample-variance"}[statistic]
            report = command.verify(
                command.rule("ESTIMATOR", estimator, constant, statistic),
                baseline=command.rule("--against", rival, against_constant, statistic),
                dim=dim,
                n=samples,
                statistic=statistic,
                radii=command.radii(radii),
                noise=command.noise(noise),
                attack=command.attack(attack, strength, common, worst_case),
                known_variance=known_variance,
                loss=command.loss(loss),
                confidence=confidence,
                seed=seed,
                budget=budget,
                workers=workers,
                resume=resume,
                progress=not quiet,
            )
            _write_whole((output, report.save), (picture if report.rows else None, report.plot))
            if quiet:
                typer.echo(report.verdict)
            else:
                _show_dominance(report)
            if report.interrupted:
                raise typer.Exit(INTERRUPTED)

    checkpoint_argument = typer.Argument(help="A state dict: .safetensors, or .pt or .pth of tensors alone.")
    data_argument = typer.Argument(help="A folder of CIFAR-10, CIFAR-100, CIFAR-10-C, CIFAR-100-C or ImageNet-C.")
    model_option = typer.Option(help="The network: resnet20, resnet18, vgg16, ...; a wrong name lists them.")
    mean_option = typer.Option(help="Of the training images' three channels, scaled to [0, 1].")
    std_option = typer.Option(help="Their standard deviation, likewise.")
    training_option = typer.Option(
        help="A folder of CIFAR's training images, on which the noise of batch statistics is measured. Left out: DATA, "
        "if it has them.",
        show_default=False,
    )
    frost_option = typer.Option(
        help="A folder of pictures of frost (.png, .jpg), which that corruption is made from.", show_default=False
    )

    @app.command()
    def evaluate(
        checkpoint: Annotated[Path, checkpoint_argument],
        data: Annotated[Path, data_argument],
        model: Annotated[str, model_option],
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
        seed: Annotated[int, typer.Option(min=0, help="Chooses the images; same seed, same numbers.")] = 0,
        mean: Annotated[tuple[float, float, float], mean_option] = (0.485, 0.456, 0.406),
        std: Annotated[tuple[float, float, float], std_option] = (0.229, 0.224, 0.225),
        training_data: Annotated[Path | None, training_option] = None,
        frost: Annotated[Path | None, frost_option] = None,
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
        with _one_line_errors():
            evaluation = _evaluation()
            rules = evaluation.request.estimators(estimators)
            subject = evaluation.prepare(
                checkpoint, data, model=model, images=images, seed=seed, mean=mean, std=std, training=training_data,
                frost=frost,
            )  # fmt: skip
            usual = "none,all" if "none" in subject.data.shifts else "all"
            conditions = evaluation.request.conditions(shifts or usual, subject.data)
            sizes = evaluation.request.sizes(batches, len(subject.places))
            cells = evaluation.begin(output, subject.settings, force=force)
            try:
                with evaluation.progress() as progress:
                    evaluation.measure(subject, cells, conditions, sizes, rules, progress)
            except KeyboardInterrupt as stopped:
                typer.echo(f"Stopped; {len(cells)} numbers are kept in {cells.path}. Ask again to go on.", err=True)
                raise typer.Exit(INTERRUPTED) from stopped
            results = evaluation.write(subject, cells, conditions, sizes, list(rules))
            typer.echo(f"Written to {output}", err=True)
            evaluation.show(results, _console())

    @app.command()
    def shift(
        checkpoint: Annotated[Path, checkpoint_argument],
        data: Annotated[Path, data_argument],
        model: Annotated[str, model_option],
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
        seed: Annotated[int, typer.Option(min=0, help="Chooses the images; same seed, same numbers.")] = 0,
        mean: Annotated[tuple[float, float, float], mean_option] = (0.485, 0.456, 0.406),
        std: Annotated[tuple[float, float, float], std_option] = (0.229, 0.224, 0.225),
        training_data: Annotated[Path | None, training_option] = None,
        frost: Annotated[Path | None, frost_option] = None,
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
        with _one_line_errors():
            if output is not None:
                _check_output(output, force, (".csv", ".json"))
            if picture is not None:
                _check_output(picture, force, PICTURES, "--picture")
            evaluation = _evaluation()
            subject = evaluation.prepare(
                checkpoint, data, model=model, images=images, seed=seed, mean=mean, std=std, training=training_data,
                frost=frost,
            )  # fmt: skip
            wanted = evaluation.request.conditions(condition or "none", subject.data)
            if len(wanted) > 1:
                raise UsageError(f"--shift: expected one shift at one severity, such as fog:3, got {condition!r}")
            report = evaluation.compare(subject, wanted[0], min(batch, len(subject.places)))
            text = report.to_csv if output is not None and output.suffix.lower() == ".csv" else report.to_json
            _write_whole((output, text), (picture, report.plot))
            _show_shift(report, str(wanted[0]), all_rows)

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
        said = str(error).replace("sample_axis=None", "--sample-axis none")
        said = said.replace("axis=0", "--axis 0").replace(", or pass x[:, None] if all are of one", "")
        raise UsageError(f"{said} (options --axis and --sample-axis)") from error


def _check_output(output: Path, force: bool, formats: tuple[str, ...] = FORMATS, option: str = "--output") -> None:
    if output.suffix.lower() not in formats:
        raise UsageError(f"{option} must end in {', '.join(formats)}, got {output}")
    if not output.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {output.parent}")
    if output.is_dir() or (output.exists() and not force):
        raise UsageError(f"{output} exists{'' if output.is_dir() else '; --force overwrites it'}")


def _write_whole(*files: tuple[Path | None, Callable[[Path], object]]) -> None:
    """Write what was asked for before anything is said of it: nobody may be there to read that."""
    import typer

    wanted = [(path, write) for path, write in files if path is not None]
    for path, write in wanted:
        with whole(path) as temporary:
            write(temporary)
    for path, _ in wanted:
        typer.echo(f"Written to {path}", err=True)


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
    notes: list[str]  # on what the file was taken to say


def _estimate(
    file: Path,
    content: Table,
    axis: int,
    sample_axis: str | None,
    target: float | str,
) -> _Table:
    x = content.values
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
        notes=[_printable(note) for note in content.notes],
    )


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    # Whoever reads a pipe has no screen to fit.
    return console if console.is_terminal else Console(highlight=False, markup=False, width=1000)


def _grid(
    console: Any,
    first: str,
    names: list[str],
    columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]],
    all_rows: bool,
) -> range:
    """Print a table of numbers and words, its middle left out if it is long; the rows left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    grid.add_column(first, overflow="ellipsis", no_wrap=True)
    for name in columns:
        grid.add_column(name.replace("_", " "), justify="right")
    total = len(names)
    hidden = range(ENDS, total - ENDS) if not all_rows and total > 2 * ENDS + 4 else range(0)
    for i, name in enumerate(names):
        if i not in hidden:
            grid.add_row(Text(name), *(_cell(column[i]) for column in columns.values()))
        elif i == hidden.start:
            grid.add_row(*["..."] * (1 + len(columns)))
    console.print(grid)
    return hidden


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _show(table: _Table, all_rows: bool) -> None:
    console = _console()
    say = console.print
    total = len(table.names)
    target = "their grand mean" if table.target == "mean" else f"{table.target:g}"
    say(f"{_printable(str(table.file))}: channels {total}, observations of each {table.count}, samples {table.samples}")
    hidden = _grid(console, "channel", table.names, table.columns, all_rows)
    if hidden:
        say(f"{len(hidden)} of {total} channels are not shown: --all shows them.")
    say(f"Means: shrunk towards {target}, factor {table.factor:.6g} (1 keeps the sample means, 0 gives the target).")
    say("Variances: DasGupta's rule, which pools them through their geometric mean.")
    for note in _notes(table):
        say(f"Note: {note}")


def _notes(table: _Table) -> Iterator[str]:
    """What was left out, and what makes a number missing, or the same as before."""
    yield from table.notes
    mean, var = table.columns["sample_mean"], table.columns["sample_variance"]
    large = np.flatnonzero(np.isfinite(mean) & np.isinf(var))
    bad = np.flatnonzero(~np.isfinite(mean) | np.isnan(var))
    channels = len(table.names)

    def hold(which: Any, what: str) -> str:
        named = ", ".join(table.names[i] for i in which[:5]) + (", ..." if len(which) > 5 else "")
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


def _show_bounds(result: "Bounds", all_rows: bool) -> None:
    console = _console()
    several = len(result.names) > 1
    unit = ", in units of the source's variance" if result.normalized else ""
    over = f"; means over {len(result.names)} channels" if several else ""
    console.print(f"Expected squared W2 between the target and a blend with {result.n} of its samples{unit}{over}")
    with np.errstate(divide="ignore"):
        weight = 1 / (1 + result.n / result.strength)  # N / (N + n), from N = 0 to infinity
    columns = {"source_weight": weight, "lower": result.lower.mean(axis=1), "upper": result.upper.mean(axis=1)}
    _grid(console, "strength", [f"{value:g}" for value in result.strength], columns, True)
    if several:
        console.print("The best strength of every channel, by its upper bound:")
        columns = {
            "best_strength": result.best["upper"],
            "lower": result.best_lower["upper"],
            "upper": result.best_upper["upper"],
        }
        if hidden := _grid(console, "channel", [_printable(name) for name in result.names], columns, all_rows):
            console.print(f"{len(hidden)} of {len(result.names)} channels are not shown: --all shows them.")
    for by, best in sorted(result.common.items(), reverse=True):
        one = "One strength for all channels" if several else "Best strength"
        mean = "its mean" if several else "it"
        console.print(f"{one} by the {by} bound: {best:.6g}, which makes {mean} {result.means(best)[by]:.6g}")
    console.print("Strength 0 is the batch alone, inf the source alone.")


def _write_bounds(result: "Bounds", path: Path) -> None:
    path.write_text(json.dumps(result.content(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _show_dominance(report: "DominanceReport") -> None:
    console, s, rows = _console(), report.settings, report.rows
    console.print(f"{s['estimator']} against {s['baseline']}: {report.verdict.upper()}")
    console.print(f"{report.reason}.")
    console.print(
        f"{s['dim']} channels, n = {s['n']}, {s['statistic']}, {s['loss']} loss, noise {s['noise']}, "
        f"attack {s['attack'] or 'none'}, seed {s['seed']}"
    )
    columns: dict[str, list[Any]] = {
        "direction": [row.direction for row in rows],
        "estimator's risk": [row.tally.estimator for row in rows],
        "rival's": [row.tally.baseline for row in rows],
        "difference": [row.difference for row in rows],
        "lower bound": [row.lower for row in rows],
        "upper": [row.upper for row in rows],
        "samples": [f"{row.replicates:,}" for row in rows],
        "": [("open", "worse", "better")[row.sign] for row in rows],
    }
    if len(report.directions) < 2:
        del columns["direction"]
    if rows:
        _grid(console, "radius", [f"{row.radius:.6g}" for row in rows], columns, True)
    console.print("What this rests on and what it does not cover:")
    for caveat in report.caveats:
        console.print(f"- {caveat}.")
    if report.interrupted:
        console.print("Interrupted before all was drawn: the bounds hold nevertheless.")


def _evaluation() -> Any:
    """The package behind `evaluate` and `shift`, which needs PyTorch."""
    try:
        from shrinkstats.adapters import evaluation
    except ModuleNotFoundError as error:
        raise UsageError(f'this needs {error.name}: pip install "shrinkstats[torch,cli]"') from error
    return evaluation


def _show_shift(report: Any, name: str, all_rows: bool) -> None:
    console = _console()
    noise = "calibrated noise" if report.calibrated else "noise as each batch shows it, for want of training images"
    console.print(f"{name}: {report.images} images in batches of {report.rows[0]['n']}; {noise}")
    columns = {
        key: [f"{row[key]:.3g}" for row in report.rows]
        for key in report.rows[0]
        if key not in ("layer", "depth", "channels", "n")
    }
    if hidden := _grid(console, "layer", [row["layer"] for row in report.rows], columns, all_rows):
        console.print(f"{len(hidden)} of {len(report.rows)} layers are not shown: --all shows them.")
    console.print(f"Mean distance {report.distance:.3g}; 1 is one standard deviation of the training data.")


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


if __name__ == "__main__":
    main()
