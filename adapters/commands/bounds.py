"""`shrinkstats bounds`: how far a blend of statistics is from the truth, by strength, and the best strength."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from shrinkstats.adapters.commands import blends
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.options import AllRows
from shrinkstats.adapters.commands.output import PICTURES, check_output, check_picture, write_json, write_whole
from shrinkstats.adapters.commands.screen import grid, printable, screen

STRENGTHS = [0.0, *(2.0**i for i in range(9)), math.inf]


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
    all_rows: AllRows = False,
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
    check_output(output, force, (".json",))
    check_output(picture, force, PICTURES, "--picture")
    strengths = sorted(strength or STRENGTHS)
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha must be between 0 and 1, got {alpha:g}")
    if bad := [value for value in strengths if not value >= 0]:
        raise UsageError(f"--strength must be at least 0, got {bad[0]:g}")
    result = blends.bounds(source, target, n=samples, strengths=strengths, alpha=alpha, normalized=normalized)
    write_whole((output, partial(write_json, result.content())), (picture, partial(_draw, result)))
    _show(result, all_rows)


def _show(result: blends.Bounds, all_rows: bool) -> None:
    console = screen()
    several = len(result.names) > 1
    unit = ", in units of the source's variance" if result.normalized else ""
    over = f"; means over {len(result.names)} channels" if several else ""
    console.print(f"Expected squared W2 between the target and a blend with {result.n} of its samples{unit}{over}")
    with np.errstate(divide="ignore"):
        weight = 1 / (1 + result.n / result.strength)  # N / (N + n), from N = 0 to infinity
    columns = {"source_weight": weight, "lower": result.lower.mean(axis=1), "upper": result.upper.mean(axis=1)}
    grid(console, "strength", [f"{value:g}" for value in result.strength], columns, True)
    if several:
        console.print("The best strength of every channel, by its upper bound:")
        columns = {
            "best_strength": result.best["upper"],
            "lower": result.best_lower["upper"],
            "upper": result.best_upper["upper"],
        }
        if hidden := grid(console, "channel", [printable(name) for name in result.names], columns, all_rows):
            console.print(f"{len(hidden)} of {len(result.names)} channels are not shown: --all shows them.")
    for by, best in sorted(result.common.items(), reverse=True):
        one = "One strength for all channels" if several else "Best strength"
        mean = "its mean" if several else "it"
        console.print(f"{one} by the {by} bound: {best:.6g}, which makes {mean} {result.means(best)[by]:.6g}")
    console.print("Strength 0 is the batch alone, inf the source alone.")


def _draw(result: blends.Bounds, path: Path) -> None:
    """Both bounds over the strength, averaged over the channels, and where each is lowest."""
    check_picture()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    strength = np.geomspace(result.n / 200, result.n * 200, 241)
    means = [result.means(value) for value in strength]
    lower, upper = ([m[by] for m in means] for by in ("lower", "upper"))
    axes.fill_between(strength, lower, upper, color="#0072B2", alpha=0.12, linewidth=0)
    for by, values, color in (("upper", upper, "#D55E00"), ("lower", lower, "#0072B2")):
        best = result.common[by]
        axes.plot(strength, values, label=f"{by} bound, lowest at N = {best:.4g}", linewidth=2, color=color)
        if strength[0] <= best <= strength[-1]:
            axes.plot(best, result.means(best)[by], "o", markersize=7, color=color)
    alone = result.means(math.inf)["lower"]
    axes.axhline(alone, color="#666666", linestyle="--", label="source statistics alone (N = inf)")
    axes.set(
        xscale="log",
        yscale="log" if alone > 0 else "linear",
        xlabel="strength N: how many samples the source statistics count for",
        ylabel="expected squared W2 from the target"
        + (",\nin units of the source's variance" if result.normalized else ""),
    )
    for axis, subs in ((axes.xaxis, (1,)), (axes.yaxis, (1, 2, 5))):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
        if axis is axes.xaxis or alone > 0:
            axis.set_major_locator(LogLocator(subs=subs))
    channels = len(result.names)
    over = f", mean of {channels} channels" if channels > 1 else ""
    axes.set_title(f"A blend of source statistics with those of {result.n} samples{over}", loc="left", fontsize=11)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
