"""Draw the pictures of docs/adversarial.md from a recorded result of benchmarks.cifar10.

    python -m benchmarks.cifar_pictures cifar10_cpu

They are the RobustNorm paper's: accuracy over eps (its figures 4 and 6), over the inference batch size (5), over the
power p (10 and 11), tracked against batch statistics over training (1, 3 and 8), and loss landscapes (9), which
benchmarks.landscapes records. A picture whose cells were not measured is left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.cifar10.cells import EPS
from benchmarks.cifar10.results import WITHOUT_STATISTICS, Row, Setting, accuracy, chosen, settings
from benchmarks.lab.norms import DRAWN, norm_name
from benchmarks.lab.plots import draw_named, quiet, written
from benchmarks.lab.record import load
from benchmarks.lab.tables import OverSeeds, of_seeds
from shrinkstats.adapters.torch.landscape import Landscape
from shrinkstats.rules.looks import LOOKS

ATTACKS = {
    ("clean", 0.0): ("clean", "#666666", "s"),
    ("gaussian", 0.25): ("Gaussian noise", "#56B4E9", "v"),
    ("fgsm", EPS): ("FGSM", "#0072B2", "o"),
    ("bim", EPS): ("BIM", "#009E73", "^"),
    ("pgd", EPS): ("PGD", "#D55E00", "D"),
}
DASHES = {"running": "-", "batch": "--"}
CHANCE = 10.0
Point = tuple[float, OverSeeds]


def over_eps(result: dict[str, Any]) -> Figure | None:
    """Accuracy under PGD over eps; a panel for every mode."""
    rows = result["rows"]
    strengths = sorted({row["eps"] for row in rows if row["attack"] == "pgd"})
    if len(strengths) < 2:
        return None
    clean = strengths[0] / 3  # where the logarithmic axis shows 0
    apart = [eps for eps, after in pairwise([*strengths, math.inf]) if after > 1.5 * eps]  # their names do not collide

    def line(setting: Setting) -> list[Point]:
        found = [(eps, list(_at(chosen(rows, setting, "pgd"), eps=eps))) for eps in strengths]
        points = [(clean, list(chosen(rows, setting, "clean"))), *found]
        return [(eps, value) for eps, value in ((eps, accuracy(found)) for eps, found in points) if value is not None]

    figure, panels = _panels(settings(rows), lambda s: (s.group, f"{s.mode} statistics"))
    for axis, found in panels:
        for setting in found:
            _line(axis, line(setting), setting)
        axis.axhline(CHANCE, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="eps of PGD, l-inf (dotted: chance)", ylim=(-2, 102))
        axis.set_xticks([clean, *apart], ["0", *(f"{eps:g}" for eps in apart)])
        axis.minorticks_off()
    return _finished(figure, panels, "accuracy, %")


def over_batch_size(result: dict[str, Any]) -> Figure | None:
    """Clean accuracy over the images that share statistics; running statistics, which have no such size, as lines."""
    rows = [row for row in result["rows"] if row["attack"] == "clean"]
    sizes = sorted({row["batch"] for row in rows})
    if len(sizes) < 2:
        return None
    figure, panels = _panels(settings(rows), lambda s: (s.group, ""))
    for axis, found in panels:
        for setting in found:
            points = [(size, accuracy(chosen(rows, setting, "clean", batch=size))) for size in sizes]
            known = [(float(size), value) for size, value in points if value is not None]
            if setting.mode == "batch":
                _line(axis, known, setting)
            elif known and setting.norm in DRAWN:
                label = norm_name(setting.norm) if setting.norm in WITHOUT_STATISTICS else None
                axis.axhline(known[-1][1].mean, color=LOOKS[setting.norm][0], linestyle=":", label=label)
        axis.set(xscale="log", xlabel="images in a batch (dotted: running statistics)", ylim=(-2, 102))
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    return _finished(figure, panels, "clean accuracy, %")


def over_power(result: dict[str, Any]) -> Figure | None:
    """RobustNorm's accuracy over its power, clean and attacked; a panel for every mode."""
    rows = [row for row in result["rows"] if row["norm"].startswith("robust_norm")]
    powers = {norm: float(norm.removeprefix("robust_norm_")) if norm != "robust_norm" else 0.2 for norm in _norms(rows)}
    if len(powers) < 2:
        return None
    figure, panels = _panels(settings(rows), lambda s: (s.group, f"{s.mode} statistics"))
    for axis, found in panels:
        for (attack, eps), (name, color, marker) in ATTACKS.items():
            points = [
                (powers[s.norm], accuracy(_at(chosen(rows, s, attack), eps=eps)))
                for s in sorted(found, key=lambda s: powers[s.norm])
            ]
            _band(axis, [(p, v) for p, v in points if v is not None], name, color, marker)
        axis.axhline(CHANCE, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlabel="power p (dotted: chance)", ylim=(-2, 102))
    return _finished(figure, panels, "accuracy, %")


def over_training(result: dict[str, Any]) -> Figure | None:
    """Validation accuracy and loss after every epoch: running statistics against those of the batch."""
    trainings = [r for r in result["trainings"] if len(r["history"]) > 1 and r["norm"] not in WITHOUT_STATISTICS]
    if not trainings:
        return None
    norms = [norm for norm in DRAWN if norm in _norms(trainings)]
    groups = list(dict.fromkeys((row["net"], row["training"]) for row in trainings))
    figure, axes = plt.subplots(
        2 * len(groups),
        len(norms),
        figsize=(max(2.6 * len(norms), 5.2), 4.4 * len(groups)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for g, (net, training) in enumerate(groups):
        for column, norm in enumerate(norms):
            above, below = axes[2 * g, column], axes[2 * g + 1, column]
            found = [r["history"] for r in trainings if (r["net"], r["training"], r["norm"]) == (net, training, norm)]
            for mode in DASHES:
                _history(above, found, mode, mode, 100.0)
                _history(below, found, f"{mode}_loss", mode, 1.0)
            above.set_title(norm_name(norm), fontsize=10)
            below.set_yscale("log")
            below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            below.yaxis.set_major_formatter("{x:g}")
            below.yaxis.set_minor_formatter(NullFormatter())
            quiet(above, below)
        group = Setting(net, training, "", "").group.replace(", ", "\n")
        axes[2 * g, 0].set_ylabel(f"{group}\naccuracy, %")
        axes[2 * g + 1, 0].set_ylabel("loss")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    drawn = {text: line for axis in axes.flat for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def landscapes(result: dict[str, Any]) -> Figure | None:
    """Losses around the trained weights, on one scale; a row for every network and mode, a column for every norm."""
    rows = [row for row in result["rows"] if row["norm"] in DRAWN]
    if not rows:
        return None
    norms = [norm for norm in DRAWN if norm in _norms(rows)]
    lines = list(dict.fromkeys((row["net"], row["training"], row["mode"]) for row in rows))
    found = {
        (row["net"], row["training"], row["mode"], row["norm"]): Landscape(
            np.array(result["coordinates"]), np.array(row["losses"], dtype=float)
        )
        for row in rows
    }
    finite = [v.losses[np.isfinite(v.losses)] for v in found.values()]
    low, high = min(float(v.min()) for v in finite if v.size), float(np.median([v.max() for v in finite if v.size]))
    levels = np.geomspace(max(low, 1e-4 * high), high, 14)
    figure, axes = plt.subplots(
        len(lines),
        len(norms),
        figsize=(2.9 * len(norms) + 0.6, 2.8 * len(lines) + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for i, (net, training, mode) in enumerate(lines):
        for axis, norm in zip(axes[i], norms, strict=True):
            if (net, training, mode, norm) in found:
                found[net, training, mode, norm].draw(axis, levels=levels)
            else:
                axis.set_axis_off()
            axis.set_ylabel("")
            if i == 0:
                axis.set_title(norm_name(norm), fontsize=10)
        axes[i, 0].set_ylabel(f"{Setting(net, training, '', '').group}\n{mode} statistics", fontsize=9)
    figure.supxlabel("first direction (second: upwards), lengths of the filters; lines of equal loss", fontsize=9)
    return figure


def _norms(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["norm"] for row in rows))


def _at(rows: Iterable[Row], **wanted: Any) -> Iterable[Row]:
    return (row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _panels(
    found: list[Setting], place: Callable[[Setting], tuple[str, str]]
) -> tuple[Figure, list[tuple[Axes, list[Setting]]]]:
    """Panels by network, training and title; norms without batch statistics are in all of a network's."""
    places: dict[tuple[str, str], list[Setting]] = {}
    for setting in found:
        places.setdefault(place(setting), []).append(setting)
    across = max(sum(group == row for row, _ in places) for group, _ in places)
    columns = across if across > 1 else min(len(places), 2)
    rows = -(-len(places) // columns)
    size = (4.9 * columns + 0.4, 3.5 * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    panels = []
    for axis, ((group, title), inside) in zip(axes.flat, places.items(), strict=False):
        axis.set_title(", ".join(text for text in (group, title) if text), fontsize=10)
        here = {setting.norm for setting in inside}
        still = [s for s in found if s.group == group and s.norm in WITHOUT_STATISTICS and s.norm not in here]
        panels.append((axis, inside + still))
    for axis in axes.flat[len(places) :]:
        axis.set_axis_off()
    return figure, panels


def _line(axis: Axes, points: list[Point], setting: Setting) -> None:
    if setting.norm in DRAWN:
        _band(axis, points, norm_name(setting.norm), *LOOKS[setting.norm])


def _band(axis: Axes, points: list[Point], label: str, color: str, marker: str) -> None:
    """Means over seeds, and the range of the seeds: intervals of two seeds would cover the picture."""
    if not points:
        return
    at = [x for x, _ in points]
    axis.plot(at, [v.mean for _, v in points], color=color, marker=marker, markersize=5, label=label)
    low, high = ([end(v.seeds) for _, v in points] for end in (min, max))
    axis.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def _history(axis: Axes, histories: list[list[Row]], score: str, mode: str, unit: float) -> None:
    """A score after every epoch: the mean over seeds, and a thin line for each of them."""
    histories = [history for history in histories if history and score in history[0]["scores"]]
    if not histories:
        return
    color = {"running": "#D55E00", "batch": "#0072B2"}[mode]
    lines = [[unit * epoch["scores"][score] for epoch in history] for history in histories]
    for line in lines:
        axis.plot(range(1, len(line) + 1), line, DASHES[mode], color=color, linewidth=0.7, alpha=0.5)
    length = min(map(len, lines))  # early stopping may have ended some before others
    means = [of_seeds([line[epoch] for line in lines]).mean for epoch in range(length)]
    axis.plot(range(1, length + 1), means, DASHES[mode], color=color, linewidth=2, label=f"{mode} statistics")


def _finished(figure: Figure, panels: list[tuple[Axes, list[Setting]]], ylabel: str) -> Figure:
    """Quiet grids, and one legend for all panels."""
    drawn: dict[str, Any] = {}
    for axis, _ in panels:
        quiet(axis)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(ylabel)
        drawn |= {text: line for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside lower center", ncols=int(figure.get_figwidth() // 2.4), frameon=False
    )
    return figure


PICTURES: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "eps": over_eps,
    "batch_size": over_batch_size,
    "power": over_power,
    "training": over_training,
}


def draw(name: str, folder: Path | None = None) -> list[Path]:
    """Write the pictures of a recorded result, and of its landscapes if they are recorded."""
    figures = {part: picture(load(name)) for part, picture in PICTURES.items()}
    with contextlib.suppress(FileNotFoundError):
        figures["landscapes"] = landscapes(load(f"{name}_landscapes"))
    return [written(figure, f"{name}_{part}.svg", folder) for part, figure in figures.items() if figure is not None]


if __name__ == "__main__":
    draw_named(__doc__, draw)
