"""Train a network of shrinkstats.adapters.models on CIFAR-10, for the benchmarks that need one.

    python -m benchmarks.train --data FOLDER --model vgg16 --output vgg16.safetensors [--epochs 4]

One cycle of the learning rate (Smith & Topin 2018), random crops and flips. What is needed to go on is kept beside the
output after every epoch, and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.adaptation import normalizer
from shrinkstats.adapters import models
from shrinkstats.adapters.datasets import read_cifar10

BORDER = 4  # pixels that a crop may leave out


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of the images with a border of zeros, half of them mirrored."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, [BORDER] * 4)
    top, left = torch.randint(2 * BORDER + 1, (2, n), generator=generator)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    rows = top[:, None] + torch.arange(height)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """With the running statistics."""
    net.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([net(x).argmax(1) for x in images.split(250)])
    return float((found == labels).float().mean())


def main() -> None:
    """Train, save, record beside the weights how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, help="of the training set; all if left out")
    parser.add_argument("--rate", type=float, default=0.1, help="the largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    prepare = normalizer()
    images, labels = read_cifar10(args.data, "train")
    x, y = prepare(images[: args.images]), torch.from_numpy(labels[: args.images])
    net = getattr(models, args.model)().to(memory_format=torch.channels_last)
    steps = len(x) // args.batch
    optimizer = torch.optim.SGD(net.parameters(), args.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, args.epochs * steps, pct_start=0.3)
    parts: dict[str, Any] = {"net": net, "optimizer": optimizer, "schedule": schedule}
    kept = args.output.with_suffix(".unfinished")
    how = {name: value for name, value in vars(args).items() if name not in ("data", "output")}
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        if state["how"] != how:
            raise SystemExit(f"{kept} is of another training: {state['how']}\nremove it, or choose another --output")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["epochs"]
    for epoch in range(first, args.epochs):
        generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
        order = torch.randperm(len(x), generator=generator)[: steps * args.batch]
        net.train()
        start, losses = time.monotonic(), []
        for i, batch in enumerate(order.split(args.batch)):
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(augment(x[batch], generator).contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if i % 20 == 19:
                left = (time.monotonic() - start) / (i + 1) * ((args.epochs - epoch) * steps - i - 1) / 60
                loss_now = np.mean(losses[-20:])
                print(f"epoch {epoch + 1}, step {i + 1} of {steps}: {loss_now:.3f}, {left:.0f} min left", flush=True)
        temporary = kept.with_suffix(".tmp")
        torch.save(
            {name: part.state_dict() for name, part in parts.items()} | {"epochs": epoch + 1, "how": how}, temporary
        )
        temporary.replace(kept)
    images, labels = read_cifar10(args.data, "test")
    right = accuracy(net, prepare(images[:2000]), torch.from_numpy(labels[:2000]))
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, args.output)
    args.output.with_suffix(".json").write_text(json.dumps({**how, "accuracy": right}, indent=1) + "\n")
    kept.unlink(missing_ok=True)
    print(f"{100 * right:.1f}% of 2,000 test images; written to {args.output}")


if __name__ == "__main__":
    main()
