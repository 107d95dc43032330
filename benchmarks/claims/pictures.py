"""The picture of the exact risks."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.lab.plots import quiet, written
from shrinkstats.theory import bayes_risk, james_stein_risk, minimax_risk

DIMS = (3, 10)  # channels


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
