"""Draw the picture of docs/cityscapes.md: ``python -m benchmarks.cityscapes_pictures cityscapes_cpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.cityscapes.tables import CONDITIONS, STATISTICS
from benchmarks.lab.norms import norm_name
from benchmarks.lab.plots import draw_named, quiet, written
from benchmarks.lab.record import load
from shrinkstats.rules.looks import LOOKS

METHODS = {"running": "trained", "batch": "batch_norm", "stein_blend": "stein_blend"}
WIDTH = 0.14  # between the ways of a condition


def conditions(result: dict[str, Any]) -> Figure:
    """Mean IoU in every condition; a panel for every norm, a mark for every way to evaluate."""
    rows = result["rows"]
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    known = [key for key in CONDITIONS if any(row["condition"] == key for row in rows)]
    columns = min(len(norms), 2)
    lines = -(-len(norms) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(5.2 * columns + 0.4, 3.2 * lines + 0.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn: dict[str, Any] = {}
    for axis, norm in zip(axes.flat, norms, strict=False):
        found = {(row["mode"], row["batch"]) for row in rows if row["norm"] == norm}
        ways = sorted(found, key=lambda way: (list(STATISTICS).index(way[0]), way[1]))
        for number, way in enumerate(ways):
            chosen = [row for row in rows if (row["norm"], row["mode"], row["batch"]) == (norm, *way)]
            of = {key: [100 * row["miou"] for row in chosen if row["condition"] == key] for key in known}
            shift = WIDTH * (number - (len(ways) - 1) / 2)
            points = [(k + shift, np.mean(of[key])) for k, key in enumerate(known) if of[key]]
            mode, size = way
            colour, marker = LOOKS[METHODS[mode]]
            small = mode != "running" and size == min(batch for other, batch in ways if other == mode)
            label = STATISTICS[mode] + ("" if mode == "running" else f" {size}")
            drawn[label] = axis.plot(
                *zip(*points, strict=True),
                marker,
                color=colour,
                markerfacecolor="white" if small else colour,
                markersize=6,
            )[0]
        axis.set_title(norm_name(norm), fontsize=10, loc="left")
        axis.set_xticks(range(len(known)), [CONDITIONS[key] for key in known])
        axis.tick_params(axis="x", labelsize=8)
        quiet(axis, grid="y")
    for axis in axes.flat[len(norms) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylim(0, 108 * max(row["miou"] for row in rows))  # of all panels
    for axis in axes[:, 0]:
        axis.set_ylabel("mean IoU, %")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw(name: str, folder: Path | None = None) -> list[Path]:
    """Write the picture of a recorded result."""
    return [written(conditions(load(name)), f"{name}.svg", folder)]


if __name__ == "__main__":
    draw_named(__doc__, draw)
