"""Draw the charts of docs/ from the recorded results, and exact risks: ``python -m benchmarks.charts``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load
from benchmarks.speed.layers import ORDERS, WHATS, geometric_mean, ratios
from shrinkstats.theory import bayes_risk, james_stein_risk, minimax_risk

COLORS = {"training step": "#d55e00", "training forward": "#0072b2", "evaluation": "#6b6b6b"}
DIMS = (3, 10)  # channels in the picture of the risks
MARKS = {"training step": "D", "training forward": "o", "evaluation": "s"}


def layers() -> Path:
    """ShrinkBatchNorm's time over nn.BatchNorm's, by shape and memory order."""
    result = load("layers")
    shapes = ["x".join(map(str, r["shape"])) for r in result["rows"] if r["order"] == ORDERS[0]]
    figure, axes = plt.subplots(1, len(ORDERS), figsize=(10, 4.2), sharey=True, constrained_layout=True)
    for axis, order in zip(axes, ORDERS, strict=True):
        axis.axvline(1, color="black", linewidth=1)
        for what in WHATS:
            values = ratios(result["rows"], what, order, "nn.BatchNorm")
            mean = geometric_mean(values)
            axis.plot(
                values, range(len(values)), MARKS[what], color=COLORS[what], label=f"{what} (geometric mean {mean:.2f})"
            )
        axis.set(xscale="log", title=order, xlabel="time over nn.BatchNorm's; left of 1 is faster")
        axis.set_xticks([0.1, 0.2, 0.5, 1, 2, 4], ["0.1", "0.2", "0.5", "1", "2", "4"])
        axis.set_xlim(0.05, 5)
        axis.minorticks_off()
        quiet(axis, grid="x", frame=("top", "right", "left"))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize=8)
    axes[0].set_yticks(range(len(shapes)), shapes)
    axes[0].invert_yaxis()
    m = result["machine"]
    figure.suptitle(
        f"ShrinkBatchNorm with {result['estimator']}, float32, {m['processor']}, {m['cores']} cores", fontsize=10
    )
    return written(figure, "layers.svg")


def risks() -> Path:
    """Exact risks of James-Stein between the Bayes and the minimax line."""
    radius = np.linspace(0, 12, 241)
    figure, panels = plt.subplots(1, len(DIMS), figsize=(10, 3.9), constrained_layout=True)
    for axis, dim in zip(panels, DIMS, strict=True):
        axis.axhline(minimax_risk(dim), color="black", linewidth=1, label="minimax line: the sample mean")
        axis.plot(radius, james_stein_risk(dim, radius), "--", color="#0072b2", label="James-Stein")
        cut = james_stein_risk(dim, radius, positive_part=True)
        axis.plot(radius, cut, color="#d55e00", label="James-Stein, positive part")
        axis.plot(radius, bayes_risk(dim, radius), ":", color="#6b6b6b", linewidth=2, label="Bayes line: radius known")
        axis.set(xlabel="radius: distance of the truth, in standard errors of one mean", xlim=(0, 12))
        axis.set_ylim(0, 1.08 * dim)
        axis.set_title(f"{dim} channels", loc="left", fontsize=10)
        quiet(axis, grid="y")
    panels[0].set_ylabel("risk")
    panels[-1].legend(frameon=False, fontsize=9, loc="center right")
    return written(figure, "risks.svg")


if __name__ == "__main__":
    for chart in (layers, risks):
        print(f"written: {chart()}")
