"""Draw the picture of docs/ppmi.md: ``python -m benchmarks.ppmi_pictures ppmi_cpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.lab.norms import DRAWN, norm_name
from benchmarks.lab.plots import draw_named, quiet, written
from benchmarks.lab.record import load
from benchmarks.ppmi.tables import ATTACKS, NETS
from shrinkstats.rules.looks import LOOKS

WIDTH = 0.14  # between the norms of a condition


def under_attack(result: dict[str, Any]) -> Figure:
    """Balanced accuracy with running statistics and its interval; a panel for every network and training batch."""
    rows = [row for row in result["rows"] if row["mode"] == "running"]
    kinds = sorted({(row["attack"], row["eps"]) for row in rows}, key=lambda kind: (list(ATTACKS).index(kind[0]), kind))
    panels = list(dict.fromkeys((row["net"], row["train_batch"]) for row in rows))
    norms = [norm for norm in DRAWN if any(row["norm"] == norm for row in rows)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels) + 0.4, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (net, batch) in zip(axes[0], panels, strict=True):
        for number, norm in enumerate(norms):
            known = {
                (row["attack"], row["eps"]): row["balanced_accuracy"]
                for row in rows
                if (row["net"], row["train_batch"], row["norm"]) == (net, batch, norm)
            }
            if not known:
                continue
            at = [kinds.index(kind) + WIDTH * (number - (len(norms) - 1) / 2) for kind in known]
            value, low, high = 100 * np.array(list(known.values())).T
            colour, marker = LOOKS[norm]
            axis.errorbar(
                at, value, (value - low, high - value), fmt=marker, color=colour, linewidth=1, label=norm_name(norm)
            )
        axis.axhline(50, color="black", linewidth=0.8, linestyle=":")
        for (name, row), dashes in zip(result["extents"].items(), ("--", "-."), strict=False):
            axis.axhline(100 * row["balanced_accuracy"][0], color="#888888", linewidth=1, linestyle=dashes, label=name)
        names = [ATTACKS[attack].split()[0] for attack, _ in kinds]
        axis.set_xticks(
            range(len(kinds)),
            [f"{name}\n{eps:g}" if eps else name for name, (_, eps) in zip(names, kinds, strict=True)],
        )
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(f"{NETS[net]}, trained in batches of {batch}", fontsize=10, loc="left")
        quiet(axis, grid="y")
    axes[0, 0].set_ylabel("balanced accuracy, %")
    axes[0, 0].set_ylim(0, 100)
    drawn = axes[0, 0].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw(name: str, folder: Path | None = None) -> list[Path]:
    """Write the picture of a recorded result."""
    return [written(under_attack(load(name)), f"{name}.svg", folder)]


if __name__ == "__main__":
    draw_named(__doc__, draw)
