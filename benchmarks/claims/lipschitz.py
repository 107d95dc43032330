"""Local Lipschitz constants of two layers of a trained network over batch size, by rule; and their chart.

    python -m benchmarks.lipschitz --data FOLDER --weights FILE.safetensors
    python -m benchmarks.lipschitz --chart

The inputs of the first and of the last normalization layer of a CIFAR-10 ResNet-20 on test images (FOLDER holds
cifar-10-batches-py), with the layers' own weights; what comes before a layer normalizes with trained statistics. The
images are scaled to [0, 1] and normalized by --mean and --std.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.lab.command import options
from benchmarks.lab.plots import quiet, written
from benchmarks.lab.record import load, save
from shrinkstats import Prior
from shrinkstats.adapters.datasets import read_cifar10
from shrinkstats.adapters.models import resnet20
from shrinkstats.adapters.torch import ShrinkBatchNorm2d, calibrate
from shrinkstats.adapters.torch.conversion import shrinking_layers
from shrinkstats.adapters.torch.noise import noise_of
from shrinkstats.estimators import BatchStatistics, Estimator, RobustNorm, Stein, SteinBlend
from shrinkstats.rules.looks import looks
from shrinkstats.theory.lipschitz import lipschitz

CALIBRATION = 1280  # training images
CALIBRATED = "SteinBlend(), calibrated"
RULES: dict[str, Estimator] = {
    "batch statistics": BatchStatistics(),
    "Stein()": Stein(),
    "Stein.published()": Stein.published(),
    "RobustNorm()": RobustNorm(),
    "SteinBlend()": SteinBlend(),
    CALIBRATED: SteinBlend(),
}
WHATS = {
    "frozen": "statistics frozen",
    "through": "through the statistics",
    "sample": "through the statistics,\nan image's effect on its own output",
}
METHODS = {
    "batch statistics": "batch_norm",
    "Stein()": "stein_sampling",
    "Stein.published()": "stein_published",
    "RobustNorm()": "robust_norm",
    "SteinBlend()": "not calibrated",
    CALIBRATED: "stein_blend",
}


def inputs(net: nn.Module, images: Tensor) -> dict[str, tuple[ShrinkBatchNorm2d, np.ndarray]]:
    """The first and the last normalization layer, and what reaches them."""
    norms = shrinking_layers(net)
    first, *_, last = norms
    seen: dict[str, list[Tensor]] = {first: [], last: []}
    hooks = [norms[n].register_forward_pre_hook(lambda _, x, n=n: seen[n].append(x[0])) for n in seen]
    with torch.inference_mode():
        for part in images.split(128):
            net(part)
    for hook in hooks:
        hook.remove()
    return {name: (norms[name], torch.cat(seen[name]).numpy()) for name in seen}


def measure(layer: ShrinkBatchNorm2d, x: np.ndarray, size: int, batches: int) -> dict[str, dict[str, list[float]]]:
    """Mean and standard error over batches, of every rule and constant."""
    weight = layer.weight.detach().numpy()
    prior = Prior(*(v.numpy().astype(float) for v in (layer.running_mean, layer.running_var)))
    calibrated = prior._replace(noise=noise_of(layer, size, lambda v: v.double().numpy()))
    found: dict[str, dict[str, list[float]]] = {}
    for name, rule in RULES.items():
        values = []
        for batch in x[: size * batches].reshape(batches, size, *x.shape[1:]):
            options = {"weight": weight, "prior": calibrated if name == CALIBRATED else prior, "eps": layer.eps}
            whole = lipschitz(batch, rule, **options)
            values.append([*whole, lipschitz(batch, rule, sample=0, **options).through])
        table = np.array(values)
        error = table.std(axis=0, ddof=1) / np.sqrt(batches)
        found[name] = {what: [float(m), float(e)] for what, m, e in zip(WHATS, table.mean(axis=0), error, strict=True)}
    return found


def chart() -> Path:
    """A row of panels for each layer, a panel for each constant."""
    result = load("lipschitz")
    layers = result["layers"]
    figure, panels = plt.subplots(len(layers), len(WHATS), figsize=(11, 6.4), sharex=True, sharey="row", squeeze=False)
    for row, (name, layer) in zip(panels, layers.items(), strict=True):
        sizes = [r["batch"] for r in layer["rows"]]
        for axes, (what, title) in zip(row, WHATS.items(), strict=True):
            axes.axhline(layer["trained"], color="#666666", linestyle="--", label="trained statistics (frozen)")
            for rule, (color, marker) in zip(METHODS, looks(METHODS.values()).values(), strict=True):
                mean, error = np.array([r["rules"][rule][what] for r in layer["rows"]]).T
                axes.plot(sizes, mean, label=rule, markersize=5, color=color, marker=marker)
                axes.fill_between(sizes, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(sizes, [str(s) for s in sizes])
            axes.minorticks_off()
            quiet(axes, grid="y")
            if axes in panels[0]:
                axes.set_title(title, loc="left", fontsize=10, fontweight="bold", va="top", y=1.12)
            if axes in panels[-1]:
                axes.set_xlabel("images in the batch")
        low, high = row[0].get_ylim()
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
        row[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
        row[0].set_ylabel(f"{name} ({layer['channels']} channels)\nLipschitz constant")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncol=4, loc="lower center", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.075, 1, 1))
    return written(figure, "lipschitz.svg")


def main() -> None:
    """Measure, print, record, draw."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--chart", action="store_true", help="draw the recorded result and measure nothing")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--batches", type=int, default=8, help="of every size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225])
    args = parser.parse_args()
    if args.chart:
        print(f"written: {chart()}")
        return
    if args.data is None or args.weights is None:
        parser.error("pass --data and --weights to measure, or --chart to draw what is recorded")

    rng = np.random.default_rng(args.seed)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (args.mean, args.std))

    def some(split: str, count: int) -> Tensor:
        images, _ = read_cifar10(args.data, split)
        chosen = images[rng.permutation(len(images))[:count]] / np.float32(255)
        return (torch.from_numpy(chosen.astype(np.float32)) - mean) / std

    net = resnet20()
    net.load_state_dict(load_file(args.weights))
    calibrate(net.eval(), some("train", CALIBRATION).split(128))
    layers = {}
    for name, (layer, x) in inputs(net, some("test", max(args.sizes) * args.batches)).items():
        trained = float((layer.weight.detach().abs() / (layer.running_var + layer.eps).sqrt()).max())
        rows = [
            {"batch": size, "rules": measure(layer, x, size, args.batches)} for size in track(args.sizes, name, None)
        ]
        layers[name] = {"channels": x.shape[1], "shape": list(x.shape[1:]), "trained": trained, "rows": rows}
        print(f"{name}: trained statistics {trained:.3g}")
        for row in rows:
            line = (f"{rule} {' '.join(f'{v[0]:.3g}' for v in w.values())}" for rule, w in row["rules"].items())
            print(f"{row['batch']:5d}  " + "; ".join(line))
    print(f"recorded in {save('lipschitz', {'batches': args.batches, 'seed': args.seed, 'layers': layers})}")
    print(f"written: {chart()}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
