"""A trained CIFAR-10 ResNet-20 under Gaussian noise, at small batches: trained statistics against a Stein blend.

    python -m benchmarks.cifar_noise --data FOLDER --weights FILE.safetensors

FOLDER holds cifar-10-batches-py. The weights are those of a ResNet-20 of shrinkstats.adapters.models that takes
images scaled to [0, 1] and normalized by --mean and --std.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.record import save
from shrinkstats.adapters.datasets import read_cifar10
from shrinkstats.adapters.models import resnet20
from shrinkstats.adapters.torch import adapt, calibrate, reset
from shrinkstats.estimators import BatchStatistics, Estimator, PriorBlend, SteinBlend

RULES: dict[str, Estimator | None] = {
    "trained statistics": None,
    "batch statistics": BatchStatistics(),
    "PriorBlend(16)": PriorBlend(16),
    "SteinBlend": SteinBlend(),
}


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, batch: int) -> float:
    """Share of images classified correctly, in batches of one size (the rest of a division is left out)."""
    whole = len(images) // batch * batch
    hits = [
        (net(x).argmax(1) == y).sum()
        for x, y in zip(images[:whole].split(batch), labels[:whole].split(batch), strict=True)
    ]
    return float(sum(hits)) / whole


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.08, help="standard deviation, for images in [0, 1]")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225])
    args = parser.parse_args()

    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (args.mean, args.std))
    rng = np.random.default_rng(args.seed)

    def prepare(x: np.ndarray, noise: float) -> Tensor:
        scaled = x / np.float32(255)
        noisy = np.clip(scaled + rng.normal(0, noise, x.shape), 0, 1) if noise else scaled
        return (torch.from_numpy(noisy.astype(np.float32)) - mean) / std

    train, _ = read_cifar10(args.data, "train")
    test, labels = read_cifar10(args.data, "test")
    order = rng.permutation(len(test))[: args.images]
    y = torch.from_numpy(labels[order])
    net = resnet20()
    net.load_state_dict(load_file(args.weights))
    net.eval()
    calibrate(net, prepare(train[rng.permutation(len(train))[:1280]], 0).split(128))
    rows = []
    for shift, sigma in (("none", 0.0), (f"noise {args.noise:g}", args.noise)):
        x = prepare(test[order], sigma)
        for batch in args.batches:
            row = {"shift": shift, "batch": batch, "accuracy": {}}
            for name, rule in RULES.items():
                if rule is None:
                    reset(net)
                else:
                    adapt(net, rule)
                row["accuracy"][name] = accuracy(net, x, y, batch)
            rows.append(row)
            print(
                f"{shift:>12} {batch:4d}  " + "  ".join(f"{k} {v:.3f}" for k, v in row["accuracy"].items()), flush=True
            )
    settings = {"noise": args.noise, "images": args.images, "seed": args.seed, "rows": rows}
    print(f"recorded in {save('cifar_noise', settings)}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
