"""One picture: accuracy by batch size, a panel for every shift and a large one for their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shrinkstats.adapters.commands.digits.data import SHIFTS, load
from shrinkstats.adapters.commands.digits.summary import MEAN
from shrinkstats.rules.looks import LOOKS

STYLES: dict[str, dict[str, Any]] = {
    name: {"color": LOOKS[method][0], "marker": LOOKS[method][1], **style}
    for name, method, style in (
        ("trained statistics", "trained", {"linestyle": "--"}),
        ("batch statistics", "batch_norm", {}),
        ("PriorBlend(16)", "prior_blend", {}),
        ("SteinBlend", "stein_blend", {"linewidth": 2.6, "zorder": 3}),
    )
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture of these results."""
    figure = Figure(figsize=(12, 6.4), dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2,
        5,
        width_ratios=[1.15, 1.15, 1, 1, 1],
        left=0.055,
        right=0.985,
        bottom=0.09,
        top=0.81,
        wspace=0.28,
        hspace=0.42,
    )
    large = figure.add_subplot(grid[:, :2])
    _lines(large, results, MEAN)
    large.set_title("mean of the five", loc="left", y=1.015, fontsize=12, fontweight="bold")
    large.set_xlabel("images in the batch")
    large.set_ylabel("test images recognized, %")
    _name_lines(large, results)
    cells = [grid[row, column] for row in range(2) for column in range(2, 5)]
    examples = _examples(results["settings"]["seed"])
    for shift, cell in zip(examples, cells[:-1], strict=True):
        axes = figure.add_subplot(cell)
        _lines(axes, results, shift)
        title = "no shift" if shift == "none" else shift
        axes.set_title(title, loc="left", y=1.03, fontsize=11, fontweight="bold")
        thumbnail = axes.inset_axes((0.8, 1.03, 0.2, 0.2))
        thumbnail.imshow(examples[shift], cmap="gray_r", vmin=-0.2, vmax=1.3)
        thumbnail.set_axis_off()
    settings = results["settings"]
    figure.text(
        cells[-1].get_position(figure).x0,
        cells[-1].get_position(figure).y1,
        "One trained network, four\nsources of the statistics\nin its batch norm layers.\n\n"
        f"{settings['test_images']} test images; ways to\ndeal them into batches: {settings['shuffles']}.\n\n"
        "Bands: ± one standard\nerror over the images.",
        va="top",
        fontsize=9.5,
        color="#444444",
    )
    figure.text(0.055, 0.935, results["overall"]["verdict"], fontsize=15, fontweight="bold")
    figure.text(0.055, 0.895, "in accuracy, averaged over all shifts and batch sizes", fontsize=11, color="#444444")
    figure.savefig(path)


def _lines(axes: Axes, results: dict[str, Any], panel: str) -> None:
    sizes = results["batch_sizes"]
    for rule, line in results["panels"][panel].items():
        accuracy, error = (np.array(line[key]) for key in ("accuracy", "standard_error"))
        axes.plot(sizes, accuracy, markersize=5, **STYLES[rule])
        axes.fill_between(
            sizes, accuracy - error, accuracy + error, color=STYLES[rule]["color"], alpha=0.15, linewidth=0
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(sizes[0], sizes[-1])


def _name_lines(axes: Axes, results: dict[str, Any]) -> None:
    """Names beside the right ends, moved apart where lines end close to each other."""
    lines = results["panels"][MEAN]
    last = results["batch_sizes"][-1]
    axes.set_xlim(right=last * 11)
    height = float("inf")
    for rule in sorted(lines, key=lambda rule: -lines[rule]["accuracy"][-1]):
        height = min(lines[rule]["accuracy"][-1], height - 4.5)
        weight = "bold" if rule == next(iter(results["overall"]["accuracy"])) else "normal"
        axes.text(last * 1.25, height, rule, color=STYLES[rule]["color"], va="center", fontsize=11, fontweight=weight)


def _examples(seed: int) -> dict[str, Any]:
    """One digit under every shift."""
    image = load(seed)[1].images[:1]
    return {name: shift(image, torch.Generator().manual_seed(seed))[0, 0].numpy() for name, shift in SHIFTS.items()}
