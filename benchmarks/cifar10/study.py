"""Normalizations under attack on CIFAR-10: norms x networks x attacks x seeds.

    python -m benchmarks.cifar10 --preset quick|cpu|powers|paper --data FOLDER --output FOLDER

FOLDER of --data holds cifar-10-batches-py. Networks are trained, their weights kept as safetensors in --output, and
evaluated with running statistics and with those of the batch. Stopped at any moment and started again, the benchmark
goes on where it was. Two processes may share the work (--share 0/2 and 1/2, each with OMP_NUM_THREADS=1, are faster
than one with two threads); a last call without --share finds everything measured and records it. With several GPUs
`torchrun --nproc-per-node N -m benchmarks.cifar10 ...` trains on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.cifar10.cells import BATCH, EPS, Bench, Cell, correct, first_cells, more_cells, row
from benchmarks.cifar10.data import Data, Shuffled
from benchmarks.cifar10.guards import guards
from benchmarks.cifar10.nets import NORMS, Subject, norm, subjects
from benchmarks.lab import runner
from benchmarks.lab.cells import Cells, first_rank
from benchmarks.lab.record import save
from shrinkstats.adapters.attacks import PGD, classification


@dataclass(frozen=True)
class Preset:
    """What to compare, and how thoroughly."""

    nets: tuple[str, ...]
    norms: tuple[str, ...]
    trainings: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    train_images: int
    validation_images: int
    test_images: int
    curve: tuple[float, ...] = (0.003, 0.01, 0.1, 0.3, 0.9)
    sizes: tuple[int, ...] = (1, 2, 4, 10, 20, 50)
    rate: float = 0.1
    all_attacks: bool = True
    """Also curves, other attacks, other mates and transferred attacks; if not, the columns of the papers alone."""
    bfloat16: bool = False
    """Convolutions in training; evaluation and its attacks are in full precision."""


PRESETS = {
    "quick": Preset(
        nets=("resnet20",),
        norms=("batch_norm", "robust_norm", "stein_sampling"),
        trainings=("natural",),
        seeds=(0,),
        epochs=1,
        train_images=5000,
        validation_images=200,
        test_images=100,
        curve=(0.003, 0.9),
        sizes=(10,),
        bfloat16=True,
    ),
    "cpu": Preset(
        nets=("resnet20",),
        norms=("batch_norm", "robust_norm", "stein_sampling", "stein_published"),
        trainings=("natural",),
        seeds=(0, 1),
        epochs=10,
        train_images=49_000,
        validation_images=1000,
        test_images=500,
        bfloat16=True,
        curve=(0.003, 0.01, 0.9),
    ),
    "powers": Preset(
        nets=("resnet20",),
        norms=(
            "robust_norm_0.05",
            "robust_norm_0.1",
            "robust_norm",
            "robust_norm_0.3",
            "robust_norm_0.5",
            "robust_norm_1",
        ),
        trainings=("natural",),
        seeds=(0,),
        epochs=2,
        train_images=15_000,
        validation_images=500,
        test_images=200,
        all_attacks=False,
        bfloat16=True,
    ),
    "paper": Preset(
        nets=("resnet20", "resnet9"),
        norms=NORMS,
        trainings=("natural", "adversarial"),
        seeds=(0, 1, 2),
        epochs=30,
        train_images=49_000,
        validation_images=1000,
        test_images=1000,
    ),
}
FIXED = ("epochs", "train_images", "validation_images", "test_images", "rate", "bfloat16")  # all cells depend on these


def train(subject: Subject, data: Data, preset: Preset, output: Path, cells: Cells) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down, or cannot begin yet."""
    net = subject.build().to(data.test.device)
    if cells.training(subject) is None and not subject.prepare(net, output):
        print(f"{subject} waits for the network with batch norm; start again when that is trained", flush=True)
        return None
    return runner.train(
        subject,
        net,
        lambda epoch: Shuffled(data.train, data.train_labels, 1000 * subject.seed + epoch),
        lambda logits, labels: nn.functional.cross_entropy(logits.float(), labels, reduction="none"),
        output,
        cells,
        complete=lambda net: subject.calibrate(net, data.validation.split(BATCH)),
        validate=lambda net: validate(subject, net, data),
        epochs=preset.epochs,
        rate=preset.rate,
        attack=PGD(EPS, steps=7) if subject.training == "adversarial" else None,
        autocast=torch.bfloat16 if preset.bfloat16 else None,
    )


def validate(subject: Subject, net: nn.Module, data: Data) -> dict[str, float]:
    """Accuracy and loss in every mode; first what the best weights are chosen by."""
    images, labels = data.validation, data.validation_labels
    scores = {}
    if subject.training == "adversarial":
        plain = subject.in_mode(net, "running")
        attack, pairs = PGD(EPS, steps=7), list(zip(images[:500].split(BATCH), labels.split(BATCH), strict=False))
        right = [correct(plain, attack(classification(plain, y), x), y, BATCH) for x, y in pairs]
        scores["attacked"] = sum(right) / sum(len(y) for _, y in pairs)
    for mode in subject.modes:
        found = subject.in_mode(net, mode)
        with torch.no_grad():
            logits = torch.cat([found(x) for x in images.split(BATCH)])
        scores[mode] = int((logits.argmax(1) == labels).sum()) / len(labels)
        scores[f"{mode}_loss"] = float(nn.functional.cross_entropy(logits, labels))
    return scores


def measure(bench: Bench, wanted: Iterable[Cell], cells: Cells) -> None:
    """Fill in the cells that are missing."""
    for cell in wanted:
        if {**vars(bench.subject), **cell._asdict()} in cells:
            continue
        start = time.monotonic()
        found = row(bench.subject, cell, len(bench.images), bench.right(cell))
        cells.add(found)
        share, took = found["right"] / found["images"], time.monotonic() - start
        print(f"{bench.subject}: {' '.join(map(str, cell))}: {share:.1%} ({took:.0f} s)", flush=True)


def compare(
    everyone: list[Subject], mine: list[Subject], data: Data, preset: Preset, output: Path, cells: Cells
) -> None:
    """Train and measure, what matters most first."""

    def benches() -> Iterator[Bench]:
        for subject in mine:
            net = train(subject, data, preset, output, cells)
            if net is not None:
                yield Bench(subject, net, data.test, data.test_labels, output)

    if not first_rank():  # it trains with the first, which measures
        for _ in benches():
            pass
        return
    for bench in benches():
        measure(bench, (cell for mode in bench.subject.modes for cell in first_cells(mode)), cells)
    if not preset.all_attacks:
        return
    for bench in benches():
        found = (
            cell
            for mode in bench.subject.modes
            for cell in more_cells(mode, len(data.test), preset.curve, preset.sizes)
            if not needless(bench.subject, cell, cells)
        )
        measure(bench, found, cells)
    for bench in benches():
        norm = bench.subject.norm
        sources = [other.norm for other in everyone if replace(other, norm=norm) == bench.subject and bench.has(other)]
        found = (
            Cell(mode, "transfer", EPS, source=source)
            for mode in bench.subject.modes
            for source in sources
            if (mode, source) != ("running", norm)  # that is the attack on the network itself
        )
        measure(bench, found, cells)


def needless(subject: Subject, cell: Cell, cells: Cells) -> bool:
    """Whether a cell adds nothing: more starts, where one leaves no image right."""
    one = cell._replace(attack="pgd")
    return cell.attack == "pgd_restarts" and {**vars(subject), **one._asdict(), "right": 0} in cells


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, record."""
    parser = runner.parser(__doc__, PRESETS)
    parser.add_argument("--nets", nargs="+")
    parser.add_argument("--norms", nargs="+", type=norm)
    parser.add_argument("--trainings", nargs="+", choices=["natural", "adversarial"])
    parser.add_argument("--seeds", nargs="+", type=int)
    for name in ("epochs", "train-images", "validation-images", "test-images"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args(arguments)
    preset = runner.as_told(PRESETS[args.preset], args)
    device = runner.start_ranks()
    cells = runner.cells_of(args.output, runner.settings(preset, FIXED))
    sizes = {"train": preset.train_images, "validation": preset.validation_images, "test": preset.test_images}
    data = Data.load(args.data, **sizes, device=device)
    everyone = subjects(preset.nets, preset.norms, preset.trainings, preset.seeds)
    compare(everyone, args.share.part(everyone), data, preset, args.output, cells)
    if args.share.is_all and first_rank():
        rows = [known for known in cells.rows if "history" not in known]
        trainings = [known for known in cells.rows if "history" in known]
        recorded = save(
            f"cifar10_{args.preset}",
            {"settings": asdict(preset), "trainings": trainings, "rows": rows, "guards": guards(rows)},
        )
        print(f"written to {recorded}")
    runner.end_ranks()
