"""One picture: accuracy by batch size, a large panel for the mean and one for every shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shrinkstats.rules.looks import looks

METHODS = {"batch": "batch_norm", "stein": "stein_blend"}
STYLES: dict[str, dict[str, Any]] = {"trained": {"linestyle": "--"}, "stein": {"linewidth": 2.4, "zorder": 3}}
COLUMNS = 4


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture of what results.json holds."""
    shifts = list(dict.fromkeys(row["shift"] for row in results["shifts"]))
    large, small = shifts[-1], shifts[:-1]
    names = results["estimators"]
    first = [name for name in names if name.startswith("prior:")][:1]
    methods = {**METHODS, **dict.fromkeys(first, "prior_blend")}
    found = looks(methods.get(name, name) for name in names).values()
    styles = {
        name: {"color": c, "marker": m, **STYLES.get(name, {})} for name, (c, m) in zip(names, found, strict=True)
    }
    rows = -(-len(small) // COLUMNS)
    columns = min(len(small), COLUMNS)
    figure = Figure(figsize=(5.2 + 2.1 * columns, max(4.2, 0.9 + 1.8 * rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, *right = figure.subfigures(1, 2, width_ratios=[5.2, 2.1 * columns], squeeze=False)[0] if small else [figure]
    axes = left.subplots()
    _lines(axes, results, large, styles)
    severities = {tuple(row["severities"]) for row in results["shifts"] if row["shift"] == large} - {(0,)}
    of = f", severity {', '.join(map(str, *severities))}" if severities else ""
    axes.set_title(("mean of the corruptions" if small else _name(large)) + of, loc="left", fontweight="bold")
    axes.set(xlabel="images in the batch", ylabel="top-1 accuracy, %")
    axes.legend(frameon=False)
    panels = right[0].subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel() if right else []
    for panel in panels[len(small) :]:
        panel.set_axis_off()
    for panel, shift in zip(panels, small, strict=False):
        _lines(panel, results, shift, styles)
        panel.set_title(_name(shift), loc="left", fontsize=9)
        panel.tick_params(labelsize=7)
    settings = results["settings"]
    figure.suptitle(
        f"{settings['model']} on {settings['kind']}, {settings['images']} images of each shift; "
        "bands: 95% intervals over resampled batches",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    figure.savefig(path)


def _lines(axes: Axes, results: dict[str, Any], shift: str, styles: dict[str, dict[str, Any]]) -> None:
    sizes = results["batches"]
    for name, style in styles.items():
        rows = [row for row in results["shifts"] if row["shift"] == shift and row["estimator"] == name]
        axes.plot(sizes, [100 * row["top1"] for row in rows], markersize=4, label=name, **style)
        known = [(row["batch"], *row["top1_interval"]) for row in rows if row["top1_interval"]]
        if known:
            at, low, high = zip(*known, strict=True)
            axes.fill_between(
                at, [100 * v for v in low], [100 * v for v in high], color=style["color"], alpha=0.15, linewidth=0
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name(shift: str) -> str:
    return "no shift" if shift == "none" else "mixed set" if shift == "mixed" else shift.replace("_", " ")
