"""A dominance report as a picture: the risks above, their difference with its bounds below."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from shrinkstats._files import whole
from shrinkstats.theory.report import DominanceReport, Row

# Colours of Okabe and Ito, told apart by everyone; line styles tell directions apart.
ESTIMATOR, BASELINE, OPEN = "#D55E00", "#0072B2", "#777777"
COLORS = {-1: "#009E73", 0: OPEN, 1: "#D55E00"}
WORDS = {-1: "better", 0: "open", 1: "worse"}
MARKERS = {-1: "v", 0: "o", 1: "^"}
STYLES = ("-", "--", ":")
FAR = 4.0  # risks above this many times the baseline's are left to the lower panel


def draw(report: DominanceReport, target: str | os.PathLike[str] | tuple[Any, Any] | None = None) -> Any:
    """Draw into a pair of axes, or a figure of its own, which is written where `target` is a path."""
    if isinstance(target, tuple):
        risks, differences = target
        figure = risks.figure
    else:
        figure = Figure(figsize=(6.4, 6.0), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        risks, differences = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(report.directions)}
    _draw_risks(risks, report, styles)
    _draw_differences(differences, report, styles)
    for axes in (risks, differences):
        for crossing in report.crossings:
            axes.axvspan(crossing.low, crossing.high, color="#E69F00", alpha=0.25, linewidth=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
    if not isinstance(target, tuple | None):
        path = Path(target)
        with whole(path if path.suffix else path.with_suffix(".png")) as temporary:
            figure.savefig(temporary)
    return figure


def _draw_risks(axes: Any, report: DominanceReport, styles: dict[str, str]) -> None:
    s = report.settings
    for which, color in (("baseline", BASELINE), ("estimator", ESTIMATOR)):
        for name, style in styles.items():
            rows = [row for row in report.rows if row.direction == name]
            radius, risk = _columns(rows, lambda row, w=which: getattr(row.tally, w))
            error = np.array([row.standard_error(which) for row in rows])
            several = f", {name}" if len(styles) > 1 and which == "estimator" else ""
            label = s[which] + several if which == "estimator" or style == STYLES[0] else None
            axes.plot(radius, risk, style, color=color, label=label, linewidth=1.6)
            axes.fill_between(radius, risk - 2 * error, risk + 2 * error, color=color, alpha=0.2, linewidth=0)
    if s["statistic"] == "mean" and s["attack"] is None and not s["loss"].startswith("weighted"):
        axes.axhline(s["dim"], color="black", linewidth=0.8, linestyle=(0, (6, 3)), label=f"minimax risk, {s['dim']}")
    finite = [v for row in report.rows for v in (row.tally.estimator, row.tally.baseline) if np.isfinite(v)]
    base = [row.tally.baseline for row in report.rows if np.isfinite(row.tally.baseline)]
    if finite and base:
        axes.set_ylim(0, min(1.08 * max(finite), FAR * max(base)))
    axes.set_ylabel(f"risk ({s['loss'].split(' ')[0]} loss)")
    axes.legend(frameon=False, fontsize=8.5)
    attack = f"attack {s['attack']}" if s["attack"] else "no attack"
    axes.set_title(f"{report.verdict}", loc="left", fontweight="bold", fontsize=12)
    axes.set_title(
        f"{s['dim']} channels, n = {s['n']}, {s['noise'].removesuffix('()')} noise, {attack}", loc="right", fontsize=8.5
    )


def _draw_differences(axes: Any, report: DominanceReport, styles: dict[str, str]) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    for name, style in styles.items():
        radius, difference = _columns([r for r in report.rows if r.direction == name], lambda row: row.difference)
        axes.plot(radius, difference, style, color="#bbbbbb", linewidth=1, zorder=1)
    for sign in (-1, 0, 1):
        rows = [row for row in report.rows if row.sign == sign and np.isfinite(row.difference)]
        if not rows:
            continue
        radius, difference = _columns(rows, lambda row: row.difference)
        half = [
            [_finite(row.difference - row.lower) for row in rows],
            [_finite(row.upper - row.difference) for row in rows],
        ]
        look = {"fmt": MARKERS[sign], "color": COLORS[sign], "markerfacecolor": "white" if sign == 0 else COLORS[sign]}
        axes.errorbar(radius, difference, half, markersize=4, linewidth=1, label=WORDS[sign], **look)
    spread = max((abs(row.difference) for row in report.rows if np.isfinite(row.difference)), default=0.0)
    base = max((row.tally.baseline for row in report.rows if np.isfinite(row.tally.baseline)), default=0.0)
    if spread > FAR * base > 0:  # both the small differences and the large ones are to be seen
        axes.set_yscale("symlog", linthresh=base / 2)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=base))  # none crowd around 0
    means = report.settings["statistic"] == "mean"
    start, unit = ("the target", "one mean") if means else ("equal log variances", "one of them")
    axes.set_xlabel(f"distance from {start}, in standard errors of {unit}")
    axes.set_ylabel("difference of risks")
    infinite = [row.radius for row in report.rows if np.isinf(row.difference)]
    if infinite:
        axes.plot(infinite, np.ones(len(infinite)), "^", color=COLORS[1], transform=axes.get_xaxis_transform(),
                  clip_on=False, label="infinite risk")  # fmt: skip
    title = f"bounds hold together: {report.settings['confidence']:g}"
    axes.legend(frameon=False, fontsize=8.5, ncols=3, title=title, title_fontsize=8)


def _finite(length: float) -> float:
    return length if np.isfinite(length) else 0.0


def _columns(rows: list[Row], value: Any) -> tuple[Any, Any]:
    return np.array([row.radius for row in rows]), np.array([value(row) for row in rows])
