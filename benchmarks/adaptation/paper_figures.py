"""Figures 1, 4 and 5 of Schneider et al. (2020), from the recorded results and the statistics of a network's layers.

    python -m benchmarks.paper_figures --data FOLDER --weights FILE.safetensors

Figures 1 and 4 need results/adaptation.json and results/mixed_set.json. For figure 5 the bounds of Proposition 1 are
computed for every channel of every layer and averaged over them, in units of the training data's variances.
"""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.adaptation.study import STEIN, STRENGTHS, TRAINED, accuracies
from benchmarks.lab import cifar
from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load, save
from shrinkstats import Moments, Statistics, moments, wasserstein_bounds
from shrinkstats.adapters.robustness import GROUPS, corrupt
from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, reset, shift_report
from shrinkstats.rules.looks import LOOKS

SHIFTS = (("gaussian_noise", 3), ("contrast", 5), ("jpeg_compression", 5))
SIZES = (1, 4, 16, 64)
GRID = np.geomspace(1 / 16, 4096, 129)
LINES = {
    TRAINED: ("trained statistics", *LOOKS["trained"]),
    "N=0": ("batch statistics", *LOOKS["batch_norm"]),
    "N=16": ("fixed strength, N = 16", *LOOKS["prior_blend"]),
    STEIN: ("Stein blend", *LOOKS["stein_blend"]),
}
Pair = tuple[Statistics, Statistics]
SHADES = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")


@torch.inference_mode()
def layer_statistics(net: nn.Module, x: Tensor) -> list[Pair]:
    """Training statistics and those of some images, for every layer of a network as it was trained."""
    layers = [module for module in net.modules() if isinstance(module, ShrinkBatchNorm2d)]
    seen: dict[nn.Module, Moments] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[layer] = moments(inputs[0].numpy()) + seen.get(layer, Moments.empty(layer.num_features))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    for batch in x.split(128):
        net(batch)
    for hook in hooks:
        hook.remove()
    source = [Statistics(*(v.double().numpy() for v in (m.running_mean, m.running_var))) for m in layers]
    return [(s, Statistics(seen[m].mean, seen[m].var())) for s, m in zip(source, layers, strict=True)]


def mean_bounds(statistics: list[Pair], n: int) -> NDArray[np.float64]:
    """Lower and upper bound at every strength of the grid: the mean over layers of that over channels."""
    means = []
    for source, target in statistics:
        strength = np.broadcast_to(GRID[:, None], (len(GRID), len(source.mean)))
        bounds = wasserstein_bounds(source, target, n=n, strength=strength)
        means.append([(bound / source.var).mean(-1) for bound in bounds])
    return np.mean(means, axis=0)


def stein_strengths(net: nn.Module, x: Tensor, n: int) -> dict[str, float]:
    """The strengths that a Stein blend's weights amount to, of means and standard deviations: medians over layers."""
    rows = shift_report(adapt(net), x.split(n)).rows
    reset(net)
    return {part: float(np.median([row[f"strength_{part}"] for row in rows])) for part in ("mean", "sd")}


def style(axis: Axes, sizes: list[int] | None = None) -> None:
    """A quiet grid; with sizes, an axis of batch sizes."""
    quiet(axis)
    if sizes is not None:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("images in the batch")


def lines(axis: Axes, sizes: list[int], accuracy: Any) -> None:
    """Accuracy over batch size, a line for every rule; `accuracy` is asked for each rule and size."""
    for rule, (label, color, marker) in LINES.items():
        values = [100 * accuracy(rule, size) for size in sizes]
        if rule == TRAINED:
            axis.plot(sizes, values, color=color, label=label)  # no batch size changes it
        else:
            axis.plot(sizes, values, marker=marker, color=color, label=label, markersize=5)
    style(axis, sizes)


def finish(figure: Figure, axis: Axes, name: str, columns: int) -> None:
    """One legend for all panels, and the file."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    print(f"written: {written(figure, f'{name}.svg').name}")


def figure1(result: dict[str, Any]) -> None:
    """Accuracy by batch size, for every kind of corruption."""
    table = accuracies(result["rows"])
    shifts = {"no shift": ("none",), **GROUPS}
    sizes = sorted({size for *_, size in table})
    figure, axes = plt.subplots(1, len(shifts), figsize=(13, 3.6), sharey=True, layout="constrained")
    for axis, (title, names) in zip(axes, shifts.items(), strict=True):
        lines(
            axis,
            sizes,
            lambda rule, size, names=names: np.mean(
                [found[rule] for (name, _, n), found in table.items() if n == size and name in names]
            ),
        )
        axis.set_title(title)
    axes[0].set_ylabel("accuracy, %")
    finish(figure, axes[0], "paper_figure1", 4)


def figure4(result: dict[str, Any], control: dict[str, Any]) -> None:
    """Accuracy by batch size without a shift, with one shift a batch, and with many in a batch."""
    table = accuracies(result["rows"])
    found = {(r["order"], r["rule"], r["batch"]): r["accuracy"] for r in control["rows"]}
    sizes = sorted({size for *_, size in table})
    sizes_of_control = sorted({row["batch"] for row in control["rows"]})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.9), sharey=True, layout="constrained")
    lines(axes[0], sizes, lambda rule, size: table["none", 0, size][rule])
    axes[0].set(title="no shift", ylabel="accuracy, %")
    for axis, order, title in (
        (axes[1], "apart", "corrupted, a batch of one shift"),
        (axes[2], "mixed", "the same images, shifts shuffled"),
    ):
        lines(axis, sizes_of_control, lambda rule, size, order=order: found[order, rule, size])
        axis.set_title(title)
    finish(figure, axes[0], "paper_figure4", 4)


def figure5(result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The bounds over the strength, accuracy over the strength, and the strengths that are best, by batch size."""
    table = accuracies(result["rows"])
    sizes = sorted({size for *_, size in table})
    figure, axes = plt.subplots(len(rows), 3, figsize=(11, 3.1 * len(rows)), squeeze=False, layout="constrained")
    for (left, middle, right), row in zip(axes, rows, strict=True):
        shift = tuple(row["shift"])
        for color, n in zip(SHADES, SIZES, strict=True):
            bounds = row["bounds"][str(n)]
            left.fill_between(GRID, bounds["lower"], bounds["upper"], color=color, alpha=0.25, linewidth=0)
            left.plot(GRID, bounds["upper"], color=color, label=f"n = {n}")
            if (*shift, n) in table:
                values = [100 * table[(*shift, n)][f"N={strength:g}"] for strength in STRENGTHS[1:]]
                middle.plot(STRENGTHS[1:], values, "o-", color=color, markersize=4, label=f"n = {n}")
        left.set(
            xscale="log", yscale="log", xlim=(GRID[0], GRID[-1]), ylabel=f"{shift[0]} {shift[1]}\nsquared W2 distance"
        )
        middle.set(xscale="log", xlim=(GRID[0], GRID[-1]), ylabel="accuracy, %")
        for side, marker in (("lower", "--"), ("upper", "-")):
            best = [GRID[int(np.argmin(row["bounds"][str(n)][side]))] for n in SIZES]
            right.plot(SIZES, best, marker, color="#CC79A7", label=f"lowest {side} bound")
        for part, marker in (("mean", "D-"), ("sd", "d--")):
            right.plot(
                SIZES,
                [row["stein"][str(n)][part] for n in SIZES],
                marker,
                color="#D55E00",
                label=f"Stein blend, {part}",
            )
        measured = {
            n: max(STRENGTHS[1:], key=lambda strength, n=n: table[(*shift, n)][f"N={strength:g}"])
            for n in sizes
            if (*shift, n) in table
        }
        right.plot(list(measured), list(measured.values()), "ko", fillstyle="none", label="most accurate")
        right.set(yscale="log", ylabel="strength N", ylim=(GRID[0], GRID[-1]))
        style(left), style(middle), style(right, sizes)
    axes[0, 0].set_title("bounds of Proposition 1")
    axes[0, 1].set_title("measured")
    axes[0, 2].set_title("best strength")
    axes[0, 2].legend(frameon=False, fontsize=7, loc="lower right")
    for axis in axes[-1, :2]:
        axis.set_xlabel("strength N")
    finish(figure, axes[0, 0], "paper_figure5", 4)


def main() -> None:
    """Compute, record, draw."""
    parser = cifar.options(__doc__, images=512)
    args = parser.parse_args()
    net, images, _, prepare = cifar.load(args)
    rows = []
    for shift, severity in SHIFTS:
        x = prepare(corrupt(images, shift, severity, seed=args.seed))
        statistics = layer_statistics(net, x)
        bounds = {n: dict(zip(("lower", "upper"), mean_bounds(statistics, n).tolist(), strict=True)) for n in SIZES}
        rows.append(
            {"shift": (shift, severity), "bounds": bounds, "stein": {n: stein_strengths(net, x, n) for n in SIZES}}
        )
        print(f"{shift} {severity}", flush=True)
    print(f"recorded in {save('paper_figures', {**cifar.settings(args), 'strengths': GRID.tolist(), 'rows': rows})}")
    result = load("adaptation")
    figure1(result)
    figure4(result, load("mixed_set"))
    figure5(result, load("paper_figures")["rows"])


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
