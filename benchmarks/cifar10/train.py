"""Train a network of shrinkstats.adapters.models on CIFAR-10, for the benchmarks that need one.

    python -m benchmarks.train --data FOLDER --model vgg16 --output vgg16.safetensors [--epochs 4]

One cycle of the learning rate (Smith & Topin 2018), random crops and flips. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cifar10.data import Data, Shuffled
from benchmarks.lab.cifar import MEAN, STD
from benchmarks.lab.command import options
from benchmarks.lab.runner import Log
from benchmarks.lab.training import fit, save_weights
from shrinkstats._files import whole
from shrinkstats.adapters import models
from shrinkstats.adapters.attacks import Standardized


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The accuracy with the running statistics."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([net(x).argmax(1) for x in images.split(250)])
    return float((found == labels).float().mean())


def main() -> None:
    """Train, save, record beside the weights how."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=50_000, help="of the training set")
    parser.add_argument("--rate", type=float, default=0.1, help="the largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = Data.load(args.data, train=args.images, validation=0, test=2000, device=torch.device("cpu"))
    torch.manual_seed(args.seed)
    net = getattr(models, args.model)().to(memory_format=torch.channels_last)
    seen = Standardized(net, MEAN, STD)
    checkpoint = args.output.with_suffix(".unfinished")
    fit(
        seen,
        lambda epoch: Shuffled(data.train, data.train_labels, 1000 * args.seed + epoch),
        lambda logits, labels: nn.functional.cross_entropy(logits.float(), labels, reduction="none"),
        epochs=args.epochs,
        rate=args.rate,
        autocast=torch.bfloat16,
        checkpoint=checkpoint,
        seed=args.seed,
        progress=Log(args.model),
    )
    right = accuracy(seen, data.test, data.test_labels)
    save_weights(net, args.output)
    how = {name: value for name, value in vars(args).items() if name not in ("data", "output")}
    with whole(args.output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({**how, "accuracy": right}, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(f"{100 * right:.1f}% of 2,000 test images; written to {args.output}")


if __name__ == "__main__":
    main()
