"""Stein blend against every fixed strength N on corrupted CIFAR-10: corruptions x severities x batch sizes.

    python -m benchmarks.adaptation --data FOLDER --weights FILE.safetensors [--quick]

FOLDER holds cifar-10-batches-py. The weights are those of a --model of shrinkstats.adapters.models that takes images
scaled to [0, 1] and normalized by --mean and --std; --name says under which name to record another network.

Every cell is written to --cells as soon as it is known; started again, the benchmark goes on where it was. Several
processes may fill the file together, each with its --share (0/2 and 1/2, with OMP_NUM_THREADS=1, are faster than one
process with two threads); a last call without a share finds everything measured and records it. --bfloat16 makes the
convolutions cheaper, not the statistics.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lab import cifar
from benchmarks.lab.cells import Cells, Row, Share
from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load, save, side_by_side
from shrinkstats.adapters.robustness import CORRUPTIONS, corrupt
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import adapt, grouped, reset
from shrinkstats.estimators import PriorBlend, SteinBlend
from shrinkstats.rules.looks import LOOKS

STRENGTHS = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
FORWARD = 64  # images of the batch whose forward pass is timed
THOUSAND, GROUPS = 1024, (1, 256)  # images in batches of either size, timed
TRAINED = f"N={math.inf:g}"  # the network as it was trained; no batch size changes it
STEIN = "SteinBlend"
NO_ASSETS = [name for name in CORRUPTIONS if name != "frost"]


def cells(
    shifts: list[tuple[str, int]], sizes: list[int], strengths: Sequence[float]
) -> Iterator[tuple[str, int, int, str]]:
    """Shift, severity, batch size and rule of everything to measure."""
    for shift, severity in shifts:
        yield shift, severity, 0, TRAINED
        for size in sizes:
            for rule in (*(f"N={n:g}" for n in strengths), STEIN):
                yield shift, severity, size, rule


def measure(net: nn.Module, images: Tensor, labels: Tensor, size: int, rule: str) -> int:
    """How many images are classified correctly in batches of one size."""
    if rule == TRAINED:
        reset(net)
    else:
        adapt(net, SteinBlend() if rule == STEIN else PriorBlend(float(rule.removeprefix("N="))))
    return int((ranks(net, [(images, labels)], size or 1) == 0).sum())


def overhead(net: nn.Module, images: Tensor) -> dict[str, float]:
    """Seconds of an evaluation forward pass of one batch, as trained and adapted."""
    x = images[:FORWARD]
    nets = {TRAINED: reset(copy.deepcopy(net)), STEIN: adapt(copy.deepcopy(net), SteinBlend())}
    with torch.inference_mode():
        return side_by_side({name: lambda net=net: net(x) for name, net in nets.items()}, repeats=101, in_a_row=3)


def in_groups(net: nn.Module, images: Tensor) -> dict[str, float]:
    """Seconds that a thousand images take in batches of one size, by that size."""
    x, adapted = images[:THOUSAND], adapt(copy.deepcopy(net), SteinBlend())

    def evaluate(size: int) -> None:
        with grouped(adapted, size):
            for part in x.split(max(size, 128)):  # what fits into the cache
                adapted(part)

    with torch.inference_mode():
        return side_by_side({str(n): lambda n=n: evaluate(n) for n in GROUPS}, repeats=9)


def accuracies(rows: list[Row]) -> dict[tuple[str, int, int], dict[str, float]]:
    """Accuracy of every rule by shift, severity and batch size."""
    table: dict[tuple[str, int, int], dict[str, float]] = defaultdict(dict)
    trained = {}
    for row in rows:
        value = row["right"] / row["images"]
        if row["rule"] == TRAINED:
            trained[row["shift"], row["severity"]] = value
        else:
            table[row["shift"], row["severity"], row["batch"]][row["rule"]] = value
    return {cell: {**found, TRAINED: trained[cell[:2]]} for cell, found in table.items()}


def summary(rows: list[Row]) -> Row:
    """What the benchmark is for; regrets are points of accuracy below the best fixed strength in hindsight."""
    table = accuracies(rows)
    fixed = [rule for rule in next(iter(table.values())) if rule != STEIN]
    mean = {rule: 100 * float(np.mean([found[rule] for found in table.values()])) for rule in (*fixed, STEIN)}
    best = {cell: max(found[rule] for rule in fixed) for cell, found in table.items()}

    def worst(losses: dict[Any, float]) -> Row:
        cell = max(losses, key=lambda c: losses[c])
        return {"points": losses[cell], "cell": list(cell)}

    regrets = {
        rule: {cell: 100 * (best[cell] - found[rule]) for cell, found in table.items()} for rule in (*fixed, STEIN)
    }
    return {
        "cells": len(table),
        "mean_accuracy": mean,
        "hindsight": 100 * float(np.mean(list(best.values()))),
        "best_fixed": max(fixed, key=lambda rule: mean[rule]),
        "mean_regret": {rule: float(np.mean(list(r.values()))) for rule, r in regrets.items()},
        "worst_regret": {rule: worst(r) for rule, r in regrets.items()},
        "worst_loss_to_trained": worst({cell: 100 * (found[TRAINED] - found[STEIN]) for cell, found in table.items()}),
    }


def show(found: Row) -> str:
    """The summary, to read."""
    lines = [f"{found['cells']} cells; the best fixed strength of each, in hindsight: {found['hindsight']:.2f}%"]
    for rule, value in sorted(found["mean_accuracy"].items(), key=lambda item: -item[1]):
        w = found["worst_regret"][rule]
        place = "{} {}, n={}".format(*w["cell"])
        regret = found["mean_regret"][rule]
        lines.append(f"  {rule:>10}  {value:6.2f}%   regret {regret:5.2f}, at worst {w['points']:5.2f} ({place})")
    w = found["worst_loss_to_trained"]
    lines.append(
        "  Stein blend below the trained network by at most {:.2f} points ({} {}, n={})".format(w["points"], *w["cell"])
    )
    return "\n".join(lines)


def draw(result: Row, name: str) -> Path:
    """Accuracy by batch size, by strength, and the regret of every cell."""
    table, found = accuracies(result["rows"]), result["summary"]
    sizes = sorted({size for *_, size in table})
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 6), constrained_layout=True, width_ratios=[1.2, 1, 1.2]
    )
    lines = {
        TRAINED: ("trained statistics", *LOOKS["trained"]),
        "N=0": ("batch statistics", *LOOKS["batch_norm"]),
        found["best_fixed"]: (f"best fixed strength, {found['best_fixed']}", *LOOKS["prior_blend"]),
        STEIN: ("Stein blend", *LOOKS["stein_blend"]),
    }
    for rule, (label, color, marker) in lines.items():
        values = [100 * np.mean([v[rule] for cell, v in table.items() if cell[2] == size]) for size in sizes]
        left.plot(sizes, values, marker=marker, color=color, label=label, zorder=3 if rule == STEIN else 2)
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set(xlabel="images in the batch", ylabel="mean accuracy, %", title="by batch size")
    left.legend(frameon=False)
    names = [rule for rule in found["mean_accuracy"] if rule != STEIN]
    middle.plot(range(len(names)), [found["mean_accuracy"][rule] for rule in names], "o-", color="#009E73")
    middle.axhline(found["mean_accuracy"][STEIN], color="#D55E00")
    middle.annotate(
        "Stein blend", (0, found["mean_accuracy"][STEIN]), (0, 3), textcoords="offset points", color="#D55E00"
    )
    middle.set_xticks(range(len(names)), [name[2:].replace("inf", "∞") for name in names], fontsize=8)
    middle.set(xlabel="strength N, the same everywhere", title="by strength")
    order = ["none", *result["corruptions"]]
    shifts = sorted({cell[:2] for cell in table}, key=lambda shift: (order.index(shift[0]), shift[1]))
    fixed = [rule for rule in found["mean_accuracy"] if rule != STEIN]
    regret = [[100 * (max(table[(*s, n)][r] for r in fixed) - table[(*s, n)][STEIN]) for n in sizes] for s in shifts]
    bound = max(1.0, float(np.abs(regret).max()))
    image = right.imshow(regret, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    right.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    right.set_yticks(range(len(shifts)), [f"{s} {k}" if k else s for s, k in shifts], fontsize=6)
    right.set(xlabel="images in the batch", title="Stein blend below the best N of each cell")
    figure.colorbar(image, ax=right, label="points of accuracy")
    quiet(left, middle)
    return written(figure, f"{name}.svg")


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, print, record, draw."""
    parser = cifar.options(__doc__, images=2048)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--name", default="adaptation", help="of the recorded result")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--cells", type=Path, default=Path("adaptation.jsonl"), help="where measured cells are kept")
    parser.add_argument(
        "--quick", action="store_true", help="a subset: 512 images, five corruptions, three batch sizes"
    )
    parser.add_argument(
        "--share", type=Share.of, default=Share(0, 1), help="i/k: measure every k-th condition only, and record nothing"
    )
    parser.add_argument("--corruptions", nargs="+", default=NO_ASSETS)
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    args = parser.parse_args(arguments)
    if args.quick:
        args.images, args.severities, args.batches = 512, [3], [1, 8, 64]
        args.corruptions = ["gaussian_noise", "defocus_blur", "contrast", "pixelate", "jpeg_compression"]
    if min(args.images, THOUSAND) % max(GROUPS):  # said now, not when everything else is measured
        parser.error(f"--images must be {THOUSAND} at least, or a multiple of {max(GROUPS)}")
    names = ("corruptions", "severities", "batches", "strengths", "model")
    settings = {**cifar.settings(args), **{name: getattr(args, name) for name in names}}
    known = Cells(args.cells, settings)
    net, clean, labels, prepare = cifar.load(args, args.model)
    y = torch.from_numpy(labels)
    shifts = [("none", 0), *((name, severity) for name in args.corruptions for severity in args.severities)]
    shifts = args.share.part(shifts)
    measured = {(row["shift"], row["severity"], row["batch"], row["rule"]) for row in known.rows}
    todo = [cell for cell in cells(shifts, args.batches, args.strengths) if cell not in measured]
    start, shown, x = time.monotonic(), None, None
    for done, (shift, severity, size, rule) in enumerate(todo):
        if shown != (shift, severity):
            left = (time.monotonic() - start) / max(done, 1) * (len(todo) - done) / 60
            print(f"{len(todo) - done} cells to go, {left:.0f} min; {shift} {severity}", flush=True)
            x, shown = (
                prepare(corrupt(clean, shift, severity, seed=args.seed) if severity else clean),
                (shift, severity),
            )
        row = {"shift": shift, "severity": severity, "batch": size, "rule": rule, "images": len(y)}
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            row["right"] = measure(net, x, y, size, rule)
        known.add(row)
    if not args.share.is_all:
        return
    found = summary(known.rows)
    print(show(found))
    seconds = overhead(net, prepare(clean))
    print(
        "a batch of {}: {:.1f} ms as trained, {:.1f} ms adapted".format(FORWARD, *(1e3 * s for s in seconds.values()))
    )
    groups = in_groups(net, prepare(clean))
    print(f"{THOUSAND} images: " + ", ".join(f"{1e3 * s:.0f} ms at n = {n}" for n, s in groups.items()))
    name = f"{args.name}_quick" if args.quick else args.name
    result = {**settings, "summary": found, "overhead": seconds, "groups": groups, "rows": known.rows}
    print(f"recorded in {save(name, result)}")
    if not args.quick:
        draw(load(name), name)
