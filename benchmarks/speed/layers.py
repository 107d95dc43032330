"""ShrinkBatchNorm against nn.BatchNorm, against the same rule in plain PyTorch operations, and both compiled.

    python -m benchmarks.layers [--compile] [--repeats 31]

Training step (forward and backward), forward in training, forward in evaluation; float32, contiguous and
channels-last; peak memory of a step; and a training step of a ResNet-20 on CIFAR-10 shapes.
"""

from __future__ import annotations

import argparse
import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.lab.command import options
from benchmarks.lab.record import save, side_by_side
from shrinkstats.adapters.models import resnet20
from shrinkstats.adapters.torch import convert, fused
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, ShrinkBatchNorm2d, ShrinkBatchNorm3d
from shrinkstats.estimators import Stein

SHAPES = [
    (128, 16, 32, 32),
    (32, 64, 32, 32),
    (128, 64, 8, 8),
    (8, 512, 7, 7),
    (32, 256, 14, 14),
    (16, 3, 224, 224),
    (4, 64, 128, 256),
    (2, 32, 48, 48, 48),
]
ORDERS = ("contiguous", "channels-last")
IN_A_ROW = 8
WHATS = ("training step", "training forward", "evaluation")


class _Plain(nn.Module):
    """A layer of ours that is made to use PyTorch's own operations, as a user would write the rule down."""

    def __init__(self, layer: ShrinkBatchNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            return layer(x)
        rule = fused.Rule(layer.estimator, None, layer.eps)
        y = fused.plain(x, layer.weight, layer.bias, rule)
        layer._track(rule)
        return y


def layers(channels: int, dimensions: int, compiled: bool) -> dict[str, nn.Module]:
    """The rivals, by name."""
    ours = (ShrinkBatchNorm3d if dimensions == 5 else ShrinkBatchNorm2d)(channels, Stein())
    theirs = (nn.BatchNorm3d if dimensions == 5 else nn.BatchNorm2d)(channels)
    rivals: dict[str, nn.Module] = {
        "ours": ours,
        "nn.BatchNorm": theirs,
        "plain operations": _Plain(copy.deepcopy(ours)),
    }
    if compiled:
        rivals["compiled ours"] = torch.compile(copy.deepcopy(ours))
        rivals["compiled nn.BatchNorm"] = torch.compile(copy.deepcopy(theirs))
    return rivals


def calls(layer: nn.Module, x: Tensor, g: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed of a layer."""

    def step() -> None:
        x.grad = None
        layer.train()(x).backward(g)

    def evaluation() -> None:
        with torch.no_grad():
            layer.eval()(x)

    return {"training step": step, "training forward": lambda: layer.train()(x), "evaluation": evaluation}


def measure(shape: tuple[int, ...], order: str, repeats: int, compiled: bool) -> dict[str, Any]:
    """Median seconds of every rival for one shape and memory order."""
    torch.manual_seed(0)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory = torch.contiguous_format if order == "contiguous" else formats[len(shape)]
    x = (torch.randn(shape) + 0.5).contiguous(memory_format=memory).requires_grad_()
    g = torch.randn(shape).contiguous(memory_format=memory)
    timed = {name: calls(layer, x, g) for name, layer in layers(shape[1], len(shape), compiled).items()}
    seconds = {
        what: side_by_side({n: c[what] for n, c in timed.items()}, repeats=repeats, in_a_row=IN_A_ROW) for what in WHATS
    }
    return {"shape": list(shape), "order": order, "megabytes": x.nbytes / 1e6, "seconds": seconds}


def peak_memory(shape: tuple[int, ...], ours: bool) -> int:
    """Peak resident bytes of a process that makes training steps, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.layers", "--peak", "ours" if ours else "nn", "x".join(map(str, shape))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _peak(kind: str, text: str) -> None:
    shape = tuple(map(int, text.split("x")))
    layer = layers(shape[1], len(shape), False)["ours" if kind == "ours" else "nn.BatchNorm"]
    small = torch.randn(2, shape[1], *[8] * (len(shape) - 2), requires_grad=True)
    layer(small).sum().backward()  # whatever loads at the first use is loaded
    before = _status("VmRSS")
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(3):
        x.grad = None
        layer(x).backward(g)
    print(_status("VmHWM") - before)


def _status(name: str) -> int:
    """Bytes of an entry of /proc/self/status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def resnet_step(repeats: int) -> dict[str, float]:
    """Median seconds of a training step of a ResNet-20, batch 128, unconverted and converted."""
    torch.manual_seed(0)
    plain = resnet20()
    nets = {"nn.BatchNorm": plain, "ours": convert(copy.deepcopy(plain), Stein())}
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.01) for name, net in nets.items()}

    def step(name: str) -> None:
        optimizers[name].zero_grad()
        nn.functional.cross_entropy(nets[name](x), y).backward()
        optimizers[name].step()

    return side_by_side({name: lambda name=name: step(name) for name in nets}, repeats=repeats)


def ratios(rows: list[dict[str, Any]], what: str, order: str, rival: str) -> list[float]:
    """Ours over a rival's, for every shape of an order."""
    chosen = [r["seconds"][what] for r in rows if r["order"] == order]
    return [s["ours"] / s[rival] for s in chosen if rival in s]


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def show(rows: list[dict[str, Any]]) -> None:
    """A table of milliseconds, and geometric means of the ratios."""
    console = Console(width=150)
    for what in WHATS:
        names = list(rows[0]["seconds"][what])
        table = Table("shape", "order", *names, "ours / nn", title=f"{what}, milliseconds", box=None)
        for row in rows:
            s = row["seconds"][what]
            figures = [f"{1e3 * s[n]:.3f}" for n in names]
            table.add_row(
                "x".join(map(str, row["shape"])), row["order"], *figures, f"{s['ours'] / s['nn.BatchNorm']:.2f}"
            )
        console.print(table)
        for order in ORDERS:
            means = {n: geometric_mean(ratios(rows, what, order, n)) for n in names if n != "ours"}
            console.print(
                f"{order}: geometric mean of ours over " + ", ".join(f"{n} {m:.2f}" for n, m in means.items())
            )


def main() -> None:
    """Measure, print, record."""
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile of ours and of nn.BatchNorm (minutes)"
    )
    parser.add_argument("--quick", action="store_true", help="no memory, no ResNet-20, nothing recorded")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        _peak(*args.peak)
        return
    rows = [measure(shape, order, args.repeats, args.compile) for order in ORDERS for shape in SHAPES]
    show(rows)
    if args.quick:
        return
    memory = [
        {"shape": list(s), "ours": peak_memory(s, True), "nn.BatchNorm": peak_memory(s, False)} for s in SHAPES[-2:]
    ]
    net = resnet_step(max(5, args.repeats // 3))
    print(
        "peak memory of a step, MB:",
        [{k: v if k == "shape" else round(v / 1e6, 1) for k, v in m.items()} for m in memory],
    )
    print(f"ResNet-20 step, batch 128: ours {net['ours']:.3f} s, nn.BatchNorm {net['nn.BatchNorm']:.3f} s")
    result = {
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "estimator": str(Stein()),
        "repeats": args.repeats,
    }
    print(f"recorded in {save('layers', {**result, 'rows': rows, 'memory': memory, 'resnet20_step': net})}")


if __name__ == "__main__":
    main()
