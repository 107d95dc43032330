"""A control: the same corrupted images in batches of one shift, and in batches of all shifts shuffled.

    python -m benchmarks.mixed_set --data FOLDER --weights FILE.safetensors

Every corruption at every severity gets --images test images of its own. Apart, a batch is of one shift; mixed, no batch
has a shift of its own, and its statistics say little about any of its images (Schneider et al. 2020, table 4).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.adaptation.study import NO_ASSETS, STEIN, TRAINED
from benchmarks.lab import cifar
from benchmarks.lab.record import save
from shrinkstats.adapters.datasets import MixedSet
from shrinkstats.adapters.robustness import corrupt
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import adapt, reset
from shrinkstats.estimators import Estimator, PriorBlend, SteinBlend

RULES: dict[str, Estimator] = {
    "N=0": PriorBlend(0.0),
    "N=16": PriorBlend(16.0),
    STEIN: SteinBlend(),
}


def compared(right: NDArray[np.bool_], trained: NDArray[np.bool_], batch: int) -> dict[str, float]:
    """Accuracy, and how much it is above the trained network's on the same images.

    The standard error is over batches: images of one are not independent.
    """
    above = (right.astype(float) - trained).reshape(-1, batch).mean(1)
    error = above.std(ddof=1) / np.sqrt(len(above))
    return {"accuracy": float(right.mean()), "above": float(above.mean()), "standard_error": float(error)}


def main() -> None:
    """Measure, print, record."""
    parser = cifar.options(__doc__, images=64)
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
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            trained = ranks(reset(net), loader, 1) == 0
            for batch in args.batches:
                found = {
                    TRAINED: trained,
                    **{name: ranks(adapt(net, r), loader, batch) == 0 for name, r in RULES.items()},
                }
                for name, right in found.items():
                    rows.append({"order": order, "batch": batch, "rule": name, **compared(right, trained, batch)})
                    print(f"{order} {batch:3d} {name:>10}  {rows[-1]['accuracy']:.3f}", flush=True)
    print(f"recorded in {save('mixed_set', {**settings, 'sets': len(sets), 'rows': rows})}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
