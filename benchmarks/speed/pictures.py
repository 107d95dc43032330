"""The picture of benchmarks.layers."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load
from benchmarks.speed.layers import ORDERS, WHATS, geometric_mean, ratios

COLORS = {"training step": "#d55e00", "training forward": "#0072b2", "evaluation": "#6b6b6b"}
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
