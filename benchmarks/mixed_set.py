"""A control: the same corrupted images in batches of one shift, and in batches of all shifts shuffled.

    python -m benchmarks.mixed_set --data FOLDER --weights FILE.safetensors

Every corruption at every severity gets --images test images of its own. Apart, a batch is of one shift; mixed, no batch
has a shift of its own, and its statistics say little about any of its images (Schneider et al. 2020, table 4).
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import torch

from benchmarks import cifar
from benchmarks.adaptation import NO_ASSETS, STEIN, TRAINED
from benchmarks.record import save
from shrinkstats.adapters.datasets import MixedSet
from shrinkstats.adapters.robustness import corrupt
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import adapt, reset
from shrinkstats.estimators import Estimator, PriorBlend, SteinBlend

RULES: dict[str, Estimator | None] = {
    TRAINED: None,
    "N=0": PriorBlend(0.0),
    "N=16": PriorBlend(16.0),
    STEIN: SteinBlend(),
}


def standard_error(right: np.ndarray, batch: int) -> float:
    """Of the mean: batches are independent, images of one are not."""
    batches = right.reshape(-1, batch).mean(1)
    return float(batches.std(ddof=1) / np.sqrt(len(batches)))


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cifar.add_arguments(parser, images=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    args = parser.parse_args()
    if any(args.images % size for size in args.batches):
        parser.error("images must be a multiple of every batch size, so that no batch holds two shifts")
    settings = {**cifar.settings(args), "severities": [1, 2, 3, 4, 5], "corruptions": NO_ASSETS}
    shifts = [(name, severity) for name in NO_ASSETS for severity in settings["severities"]]
    each, args.images = args.images, args.images * len(shifts)
    net, clean, labels, prepare = cifar.load(args)
    sets = {}
    for number, (name, severity) in enumerate(shifts):
        part = slice(each * number, each * (number + 1))
        sets[f"{name} {severity}"] = corrupt(clean[part], name, severity, seed=args.seed), labels[part]
    mixed = MixedSet(sets, seed=args.seed)[:]
    orders = {
        "apart": (np.concatenate([images for images, _ in sets.values()]), labels),
        "mixed": (mixed.images, mixed.labels),
    }
    rows: list[dict[str, Any]] = []
    for order, (images, y) in orders.items():
        loader = [(prepare(images), torch.from_numpy(y))]
        for batch in args.batches:
            for name, rule in RULES.items():
                if rule is None:
                    reset(net)
                else:
                    adapt(net, rule)
                with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                    right = ranks(net, loader, batch) == 0
                row = {"order": order, "batch": batch, "rule": name, "accuracy": float(right.mean())}
                rows.append({**row, "standard_error": standard_error(right, batch)})
                print(f"{order} {batch:3d} {name:>10}  {row['accuracy']:.3f}", flush=True)
    print(f"recorded in {save('mixed_set', {**settings, 'sets': len(sets), 'rows': rows})}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
