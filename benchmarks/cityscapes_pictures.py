"""Draw the picture of docs/cityscapes.md: ``python -m benchmarks.cityscapes_pictures cityscapes_cpu``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.charts import STATIC
from benchmarks.cifar_results import norm_name
from benchmarks.cityscapes_tables import CONDITIONS, STATISTICS
from benchmarks.record import load
from shrinkstats._files import whole
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
        axis.grid(axis="y", color="#dddddd")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(norms) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylim(0, 108 * max(row["miou"] for row in rows))  # of all panels
    for axis in axes[:, 0]:
        axis.set_ylabel("mean IoU, %")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw(name: str, folder: Path = STATIC) -> Path:
    """Write the picture of a recorded result."""
    figure = conditions(load(name))
    path = folder / f"{name}.svg"
    with whole(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})
    plt.close(figure)
    return path


def main() -> None:
    """Draw what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", help="names in results/, as cityscapes_cpu")
    for name in parser.parse_args().results:
        print(f"written: {draw(name).name}")


if __name__ == "__main__":
    main()
