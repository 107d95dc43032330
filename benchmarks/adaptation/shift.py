"""The error of a CIFAR-10 ResNet-20 from the mean distance of its statistics: a line fitted on some corruptions.

    python -m benchmarks.shift --data FOLDER --weights FILE.safetensors

FOLDER holds cifar-10-batches-py. In turn every kind of corruption (noise, blur, weather, digital) is held out: the
line is fitted to the other three, as figure 3 of Schneider et al. (2020) does it, and tested on the one held out.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.lab.command import options
from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load, save
from shrinkstats.adapters.datasets import read_cifar10
from shrinkstats.adapters.models import resnet20
from shrinkstats.adapters.robustness import GROUPS, corrupt
from shrinkstats.adapters.torch import fit_error_predictor, shift_report

LOOKS = {"noise": ("#D55E00", "o"), "blur": ("#0072B2", "^"), "weather": ("#009E73", "s"), "digital": ("#CC79A7", "D")}


@torch.inference_mode()
def error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images classified wrongly."""
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in zip(images.split(128), labels.split(128), strict=True))
    return 1 - right / len(labels)


def predict(rows: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """The line without each kind of corruption, and how far it is off on that kind."""
    found = {}
    for kind in GROUPS:
        fitted, held = ([r for r in rows if (r["kind"] == kind) is out] for out in (False, True))
        line = fit_error_predictor([r["distance"] for r in fitted], [r["error"] for r in fitted])
        off = line.test([r["distance"] for r in held], [r["error"] for r in held])
        found[kind] = {"slope": line.slope, "intercept": line.intercept, "fitted": line.deviation, "held_out": off}
    return found


def draw() -> Path:
    """Error by distance, and the line of all corruptions."""
    result = load("shift")
    figure, axis = plt.subplots(figsize=(6.4, 4.6), constrained_layout=True)
    for kind, (color, marker) in LOOKS.items():
        rows = [r for r in result["rows"] if r["kind"] == kind]
        axis.plot(
            [r["distance"] for r in rows], [100 * r["error"] for r in rows], marker, color=color, label=kind, alpha=0.8
        )
    line = fit_error_predictor([r["distance"] for r in result["rows"]], [r["error"] for r in result["rows"]])
    ends = np.array([0, max(r["distance"] for r in result["rows"])])
    axis.plot(ends, 100 * line(ends), color="#666666", linewidth=1)
    axis.set(xlabel="normalized W2 distance, mean over layers", ylabel="error, %", xlim=(0, None), ylim=(0, None))
    axis.legend(frameon=False)
    quiet(axis)
    return written(figure, "shift_error.svg")


def main() -> None:
    """Measure, print, record, draw."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225])
    args = parser.parse_args()

    test, labels = read_cifar10(args.data, "test")
    order = np.random.default_rng(args.seed).permutation(len(test))[: args.images]
    y = torch.from_numpy(labels[order])
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (args.mean, args.std))
    net = resnet20()
    net.load_state_dict(load_file(args.weights))
    net.eval().to(memory_format=torch.channels_last)
    rows = []
    for kind, names in GROUPS.items():
        for name in names:
            if name == "frost":  # needs pictures
                continue
            for severity in args.severities:
                images = torch.from_numpy(corrupt(test[order], name, severity, seed=args.seed)) / 255
                x = ((images - mean) / std).to(memory_format=torch.channels_last)
                distance = shift_report(net, x.split(128)).distance
                rows.append({"kind": kind, "shift": name, "severity": severity, "distance": distance})
                rows[-1]["error"] = error(net, x, y)
                print(f"{name:>18} {severity}  distance {distance:.3f}  error {rows[-1]['error']:.1%}", flush=True)
    found = predict(rows)
    for kind, line in found.items():
        print(f"without {kind}: off by {line['fitted']:.1%} where fitted, by {line['held_out']:.1%} on {kind}")
    settings = {"images": args.images, "seed": args.seed, "severities": args.severities}
    print(f"recorded in {save('shift', {**settings, 'predictors': found, 'rows': rows})}")
    draw()


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
