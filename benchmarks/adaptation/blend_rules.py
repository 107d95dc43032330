"""What was tried for the Stein blend: every rule on the same corrupted CIFAR-10 images, against the one that is used.

    python -m benchmarks.blend_rules --data FOLDER --weights FILE.safetensors

The first conditions are of the kinds that the rule was developed on; the held-out ones played no part. Every cell is
written to --cells as soon as it is known; started again, the benchmark goes on where it was.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.lab import cifar
from benchmarks.lab.cells import Cells
from benchmarks.lab.record import save
from shrinkstats.adapters.robustness import HOLDOUT, corrupt
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import adapt, reset
from shrinkstats.estimators import Estimator, PriorBlend, SteinBlend
from shrinkstats.values import Moments, Prior, Statistics

CONDITIONS = {
    "developed on": [
        ("none", 0),
        ("gaussian_noise", 3),
        ("contrast", 5),
        ("defocus_blur", 5),
        ("fog", 3),
        ("pixelate", 5),
        ("jpeg_compression", 5),
        ("brightness", 5),
    ],
    "held out": [(name, severity) for name in HOLDOUT for severity in (3, 5)],
}
BLOCK = 64  # images; batches do not reach over blocks, so that these are independent

Vector = NDArray[np.float64]


class Seen(NamedTuple):
    """A batch in units of the training data's standard deviations: vectors of shape (..., c)."""

    shift: Vector  # of the mean
    raw: Vector  # the batch's standard deviation
    ratio: Vector  # the same, divided by what small batches have without shift
    excess: Vector  # the same less 1, the bias of small batches subtracted
    noise: Vector  # variance of the shift by chance
    noise_sd: Vector  # variance of the ratio by chance
    n: float  # images in the batch


Rule = Callable[[Seen], tuple[Vector, Vector]]  # gives the mean and the variance to take, in the same units


@dataclass(frozen=True)
class Tried(Estimator):
    """A rule as an estimator."""

    uses_extremes: ClassVar[bool] = False
    rule: Rule

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """What the rule takes."""
        sd = np.sqrt(prior.var)
        raw, bias = np.sqrt(moments.var()) / sd, prior.noise.sd_bias
        shift = (moments.mean - prior.mean) / sd
        noise = prior.noise.mean / prior.var
        seen = Seen(shift, raw, raw / (1 + bias), raw - 1 - bias, noise, prior.noise.sd, moments.samples)
        mean, var = self.rule(seen)
        return Statistics(prior.mean + sd * mean, prior.var * var)


def weight(deviation: Vector, noise: Vector, kappa: float = 1.0) -> Vector:
    """Stein's weight of a batch, one for all channels."""
    noise = np.broadcast_to(noise, deviation.shape)
    return np.maximum(0, 1 - kappa * noise.sum(-1) / (deviation**2).sum(-1))[..., None]


def weight_per_channel(deviation: Vector, noise: Vector) -> Vector:
    """The posterior's, if the shifts of a layer's channels have one variance and are independent."""
    variance = np.maximum(0, (deviation**2 - noise).mean(-1, keepdims=True))
    return variance / (variance + noise)


def most(seen: Seen, samples: float = 1.0) -> float:
    """The largest weight of the batch, where the training data count as this many samples at least."""
    return seen.n / (seen.n + samples)


def variances(seen: Seen, *, kappa: float = 1.0, weight: Callable[..., Vector] = weight) -> tuple[Vector, Vector]:
    """Means and variances blended, the latter with the weight of the standard deviations."""
    w = most(seen) * weight(seen.shift, kappa * seen.noise)
    w_spread = most(seen) * weight(seen.excess, seen.noise_sd)
    return w * seen.shift, 1 - w_spread + w_spread * seen.raw**2


def subtracted_bias(seen: Seen) -> tuple[Vector, Vector]:
    """Standard deviations blended, their bias subtracted."""
    sd = np.maximum(0, 1 + most(seen) * weight(seen.excess, seen.noise_sd) * seen.excess)
    return most(seen) * weight(seen.shift, seen.noise) * seen.shift, sd**2


def one(seen: Seen) -> float:
    """Noise as in training."""
    return 1.0


def channel(seen: Seen) -> Vector:
    """Noise grows with each channel's variance."""
    return seen.ratio**2


def layer(seen: Seen) -> Vector:
    """Noise grows with the layer's mean variance."""
    return (seen.ratio**2).mean(-1, keepdims=True)


def root(seen: Seen) -> Vector:
    """Noise grows half as fast."""
    return np.sqrt(layer(seen))


def up(seen: Seen) -> Vector:
    """Noise grows, and never falls."""
    return np.maximum(1, layer(seen))


def deviations(
    seen: Seen,
    *,
    mean: Callable[[Seen], Any] = channel,
    sd: Callable[[Seen], Any] = layer,
    kappa: float = 1.0,
    kappa_sd: float = 1.0,
    samples: float = 1.0,
) -> tuple[Vector, Vector]:
    """Standard deviations blended, the bias divided out; `mean` and `sd` say how their noise grows. The rule itself."""
    w = most(seen, samples) * weight(seen.shift, seen.noise * mean(seen), kappa)
    w_sd = most(seen, samples) * weight(seen.ratio - 1, seen.noise_sd * sd(seen), kappa_sd)
    return w * seen.shift, (1 + w_sd * (seen.ratio - 1)) ** 2


def self_consistent(seen: Seen) -> tuple[Vector, Vector]:
    """Do as `deviations` does; spread that a small batch hides in its mean counts as far as the blend leaves it in."""
    shift, var = deviations(seen)
    inside = np.minimum(1, (seen.raw / seen.ratio) ** 2)
    w = most(seen) * weight(seen.shift, seen.noise * channel(seen))
    return shift, var * (inside + (1 - w) ** 2 * (1 - inside))


STEIN = "the Stein blend"
TRIED: dict[str, Rule] = {
    "variances blended": variances,
    "variances blended, factor 1.5 on the mean's noise": partial(variances, kappa=1.5),
    "variances blended, a weight per channel": partial(variances, weight=weight_per_channel),
    "bias subtracted": subtracted_bias,
    "self-consistent": self_consistent,
    "noise as in training": partial(deviations, mean=one, sd=one),
    "noise of the mean grows by layer": partial(deviations, mean=layer),
    "noise of the mean alone grows": partial(deviations, sd=one),
    "noise of the sd grows by channel": partial(deviations, sd=channel),
    "noise grows half as fast": partial(deviations, mean=root, sd=root),
    "noise grows, never falls": partial(deviations, mean=up, sd=up),
    "training data count as no sample": partial(deviations, samples=0.0),
    "the same, factor 1.5 on the sd's noise": partial(deviations, samples=0.0, kappa_sd=1.5),
    "training data count as half a sample": partial(deviations, samples=0.5),
    "training data count as two samples": partial(deviations, samples=2.0),
    "factor 0.75 on the sd's noise": partial(deviations, kappa_sd=0.75),
    "factor 1.5 on the sd's noise": partial(deviations, kappa_sd=1.5),
    "factor 0.75 on the mean's noise": partial(deviations, kappa=0.75),
    "factor 1.25 on the mean's noise": partial(deviations, kappa=1.25),
}
RULES: dict[str, Estimator | None] = {
    STEIN: SteinBlend(),
    **{name: Tried(rule) for name, rule in TRIED.items()},
    "fixed N = 8": PriorBlend(8.0),
    "fixed N = 16": PriorBlend(16.0),
    "trained statistics": None,
}


def compared(rows: list[dict[str, Any]], rule: str, shifts: list[tuple[str, int]], sizes: list[int]) -> dict[str, Any]:
    """A rule's mean accuracy over some cells, and how much it is above the Stein blend's, in points.

    The same images go through both. The standard error is that of the mean over blocks of images.
    """
    wanted = {(*shift, size) for shift in shifts for size in sizes}

    def blocks(name: str) -> Vector:
        cells = [r["right"] for r in rows if r["rule"] == name and (r["shift"], r["severity"], r["batch"]) in wanted]
        return 100 / BLOCK * np.mean(cells, axis=0)

    accuracy, above = blocks(rule), blocks(rule) - blocks(STEIN)
    error = above.std(ddof=1) / np.sqrt(len(above))
    return {"accuracy": float(accuracy.mean()), "above": float(above.mean()), "standard_error": float(error)}


def main() -> None:
    """Measure what is missing, print, record."""
    parser = cifar.options(__doc__, images=512)
    parser.add_argument("--cells", type=Path, default=Path("blend_rules.jsonl"), help="where measured cells are kept")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    args = parser.parse_args()
    if args.images % BLOCK or args.images < 2 * BLOCK or any(BLOCK % size for size in args.batches):
        parser.error(f"images must be two or more blocks of {BLOCK}, and batches divide a block")
    settings = {**cifar.settings(args), "batches": args.batches}
    cells = Cells(args.cells, settings)
    net, images, labels, prepare = cifar.load(args)
    y = torch.from_numpy(labels)
    known = {(r["shift"], r["severity"], r["batch"], r["rule"]) for r in cells.rows}
    shifts = [shift for group in CONDITIONS.values() for shift in group]
    start = time.monotonic()
    for done, (shift, severity) in enumerate(shifts):
        print(f"{done}/{len(shifts)} conditions, {(time.monotonic() - start) / 60:.1f} min", flush=True)
        x = prepare(corrupt(images, shift, severity, seed=args.seed) if severity else images)
        for size in args.batches:
            for name, rule in RULES.items():
                if (shift, severity, size, name) in known:
                    continue
                if rule is None:
                    reset(net)
                else:
                    adapt(net, rule)
                with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                    right = (ranks(net, [(x, y)], size) == 0).reshape(-1, BLOCK).sum(1)
                row = {"shift": shift, "severity": severity, "batch": size, "rule": name, "right": right.tolist()}
                cells.add(row)
    parts = {group: (shifts, args.batches) for group, shifts in CONDITIONS.items()}
    parts |= {f"n = {size}": (shifts, [size]) for size in args.batches}
    found = {name: {part: compared(cells.rows, name, *which) for part, which in parts.items()} for name in RULES}
    for name, by_part in found.items():
        print(f"{name:>50}  " + "  ".join(f"{c['above']:+6.2f} ± {c['standard_error']:.2f}" for c in by_part.values()))
    conditions = {group: [list(shift) for shift in shifts] for group, shifts in CONDITIONS.items()}
    print(
        f"recorded in {save('blend_rules', {**settings, 'conditions': conditions, 'rules': found, 'rows': cells.rows})}"
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
