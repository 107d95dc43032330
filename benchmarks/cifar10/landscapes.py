"""Loss landscapes of the networks that benchmarks.cifar10 trained, in both modes of evaluation.

    python -m benchmarks.landscapes --result cifar10_cpu --data FOLDER --weights FOLDER

FOLDER of --weights is the runner's --output. Every landscape is recorded at once in results/NAME_landscapes.json;
started again with the same options, those that are there are not computed anew. benchmarks.cifar_pictures draws them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.cifar10.cells import BATCH
from benchmarks.cifar10.nets import Subject
from benchmarks.lab.command import options
from benchmarks.lab.record import load, save
from shrinkstats.adapters.datasets import read_cifar10
from shrinkstats.adapters.torch.landscape import loss_landscape

OPTIONS = ("images", "steps", "span", "direction_seed")


def trained(subject: Subject, folder: Path, images: Tensor) -> nn.Module:
    """The network with its weights."""
    net = subject.build()
    subject.calibrate(net, images.split(BATCH))  # makes room for what is loaded
    net.load_state_dict(load_file(folder / f"{subject}.safetensors"))
    return net.eval()


def main(arguments: list[str] | None = None) -> None:
    """Compute what is missing, and record it."""
    parser = options(__doc__)
    parser.add_argument("--result", required=True, help="of benchmarks.cifar10, as cifar10_cpu")
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar-10-batches-py")
    parser.add_argument("--weights", type=Path, required=True, help="the runner's --output")
    parser.add_argument("--images", type=int, default=200, help="of the test set; in batches of 100")
    parser.add_argument("--steps", type=int, default=17)
    parser.add_argument("--span", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the networks to look at")
    parser.add_argument("--direction-seed", type=int, default=0)
    parser.add_argument("--norms", nargs="+", help="all if left out")
    args = parser.parse_args(arguments)
    settings = {name: getattr(args, name) for name in OPTIONS}
    name = f"{args.result}_landscapes"
    rows: list[dict[str, Any]] = []
    try:
        before = load(name)
    except FileNotFoundError:
        pass
    else:
        if before["options"] == settings:
            rows = before["rows"]
    images, labels = (torch.from_numpy(part[: args.images]) for part in read_cifar10(args.data, "test"))
    images = images.float() / 255
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))

    def loss(net: nn.Module) -> Tensor:
        return sum(nn.functional.cross_entropy(net(x), y, reduction="sum") for x, y in batches) / len(images)

    for training in load(args.result)["trainings"]:
        subject = Subject(*(training[part] for part in Subject.__dataclass_fields__))
        if "failed" in training or subject.seed != args.seed or subject.norm not in (args.norms or [subject.norm]):
            continue
        for mode in subject.modes:
            place = {**vars(subject), "mode": mode}
            if any(all(row[part] == value for part, value in place.items()) for row in rows):
                continue
            net = subject.in_mode(trained(subject, args.weights, images), mode)
            found = loss_landscape(net, loss, span=args.span, steps=args.steps, seed=args.direction_seed)
            rows.append({**place, "losses": found.losses.tolist()})
            save(name, {"options": settings, "coordinates": found.coordinates.tolist(), "rows": rows})
            print(f"{subject}, {mode} statistics: {found.losses.min():.3g} to {found.losses.max():.3g}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
