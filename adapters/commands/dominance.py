"""`shrinkstats dominance`: whether one estimator has a smaller risk than another, wherever the truth is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkstats.adapters.commands.errors import INTERRUPTED, UsageError
from shrinkstats.adapters.commands.output import PICTURES, check_output, check_picture, write_whole
from shrinkstats.adapters.commands.screen import grid, screen

if TYPE_CHECKING:
    from shrinkstats.theory import DominanceReport


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
    from shrinkstats.adapters.commands import question

    check_output(output, force, (".json",))
    check_output(picture, force, PICTURES, "--picture")
    check_output(resume, True, (".json",), "--resume")
    if picture is not None:
        check_picture()
    if statistic not in ("mean", "var"):
        raise UsageError(f"--statistic must be mean or var, got {statistic!r}")
    if against is None and against_constant is not None:
        raise UsageError("--against-constant needs --against, the rule it is of")
    rival = against or {"mean": "sample-mean", "var": "sample-variance"}[statistic]
    report = question.verify(
        question.rule("ESTIMATOR", estimator, constant, statistic),
        baseline=question.rule("--against", rival, against_constant, statistic),
        dim=dim,
        n=samples,
        statistic=statistic,
        radii=question.radii(radii),
        noise=question.noise(noise),
        attack=question.attack(attack, strength, common, worst_case),
        known_variance=known_variance,
        loss=question.loss(loss),
        confidence=confidence,
        seed=seed,
        budget=budget,
        workers=workers,
        resume=resume,
        progress=not quiet,
    )
    write_whole((output, report.save), (picture if report.rows else None, report.plot))
    if quiet:
        typer.echo(report.verdict)
    else:
        _show(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


def _show(report: DominanceReport) -> None:
    console, s, rows = screen(), report.settings, report.rows
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
        grid(console, "radius", [f"{row.radius:.6g}" for row in rows], columns, True)
    console.print("What this rests on and what it does not cover:")
    for caveat in report.caveats:
        console.print(f"- {caveat}.")
    if report.interrupted:
        console.print("Interrupted before all was drawn: the bounds hold nevertheless.")
