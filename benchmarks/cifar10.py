"""Normalizations under attack on CIFAR-10: norms x networks x attacks x seeds.

    python -m benchmarks.cifar10 --preset quick|cpu|paper --data FOLDER --output FOLDER

FOLDER of --data holds cifar-10-batches-py. Networks are trained, their weights kept as safetensors in --output, and
evaluated with running statistics and with those of the batch. Stopped at any moment and started again, the benchmark
goes on where it was. Two processes may share the work (--share 0/2 and 1/2, each with OMP_NUM_THREADS=1, are faster
than one with two threads); a last call without --share finds everything measured and records it. With several GPUs
`torchrun --nproc-per-node N -m benchmarks.cifar10 ...` trains on all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from benchmarks.cifar10_cells import BATCH, EPS, Bench, Cell, correct, first_cells, more_cells, row
from benchmarks.cifar10_data import Data, Shuffled
from benchmarks.cifar10_guards import guards
from benchmarks.cifar10_nets import NORMS, Subject, subjects
from benchmarks.record import save
from shrinkstats.adapters.attacks import PGD, classification
from shrinkstats.adapters.training import Step, fit, save_weights

Row = dict[str, Any]


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


class Cells:
    """Rows known so far, in memory and in a file of JSON lines that several processes may add to."""

    def __init__(self, path: Path, settings: Row) -> None:
        self.path, self.rows = path, []
        if not path.exists():
            self._append(json.dumps(settings) + "\n")
        text = path.read_text()
        if not text.endswith("\n"):
            self._append("\n")
        first, *lines = text.splitlines()
        if json.loads(first) != settings:
            raise SystemExit(f"{path} holds cells of other settings: {first}\nremove it, or choose another --output")
        for line in lines:
            try:
                known = json.loads(line)
            except json.JSONDecodeError:  # cut off when the benchmark was stopped
                continue
            if known != settings:  # two processes may have begun the file at once
                self.rows.append(known)

    def add(self, new: Row) -> None:
        """Keep a row, from now on."""
        self.rows.append(new)
        if first_rank():
            self._append(json.dumps(new) + "\n")

    def _append(self, text: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())  # at once: rows of two processes do not mix
        finally:
            os.close(file)

    def __contains__(self, wanted: Row) -> bool:
        return any(all(known.get(name) == value for name, value in wanted.items()) for known in self.rows)


def train(subject: Subject, data: Data, preset: Preset, output: Path, cells: Cells) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down, or cannot begin yet."""
    net = subject.build().to(data.test.device)
    path = output / f"{subject}.safetensors"
    checkpoint = path.with_suffix(".unfinished")
    for known in cells.rows:
        if "history" in known and Subject(*(known[name] for name in vars(subject))) == subject:
            if "failed" in known:
                return None
            subject.calibrate(net, data.validation.split(BATCH))  # makes room for what is loaded
            net.load_state_dict(load_file(path))
            return net.eval()
    if not subject.prepare(net, output):
        print(f"{subject} waits for the network with batch norm; start again when that is trained", flush=True)
        return None
    note: Row = {**vars(subject), "history": []}
    try:
        history = fit(
            net,
            lambda epoch: Shuffled(data.train, data.train_labels, 1000 * subject.seed + epoch),
            lambda logits, labels: nn.functional.cross_entropy(logits.float(), labels, reduction="none"),
            epochs=preset.epochs,
            rate=preset.rate,
            attack=PGD(EPS, steps=7) if subject.training == "adversarial" else None,
            autocast=torch.bfloat16 if preset.bfloat16 else None,
            validate=lambda net: validate(subject, net, data),
            checkpoint=checkpoint,
            seed=subject.seed,
            progress=Log(str(subject)),
        )
        note["history"] = [asdict(epoch) for epoch in history]
    except FloatingPointError as error:
        note["failed"] = str(error)
    if first_rank():
        if "failed" not in note:
            subject.calibrate(net, data.validation.split(BATCH))
            save_weights(net, path)
        print(f"{subject}: {note.get('failed') or note['history'][-1]['scores']}", flush=True)
    cells.add(note)
    if first_rank():
        checkpoint.unlink(missing_ok=True)
    return None if "failed" in note else net


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


class Log:
    """A line every half minute."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def __call__(self, step: Step) -> None:
        if first_rank() and time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            place = f"epoch {step.epoch + 1} of {step.epochs}, step {step.step} of {step.steps}"
            print(f"{self.name}: {place}, loss {step.loss:.3f}", flush=True)


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
    for bench in benches():
        found = (
            cell
            for mode in bench.subject.modes
            for cell in more_cells(mode, len(data.test), preset.curve, preset.sizes)
        )
        measure(bench, found, cells)
    for bench in benches():
        others = [
            other
            for other in everyone
            if replace(other, norm=bench.subject.norm) == bench.subject and other != bench.subject and bench.has(other)
        ]
        found = (Cell(mode, "transfer", EPS, source=other.norm) for mode in bench.subject.modes for other in others)
        measure(bench, found, cells)


def first_rank() -> bool:
    """Whether this process is the one that measures and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def start_ranks() -> torch.device:
    """The device of this process; under torchrun the processes come together first."""
    gpu = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        return torch.device("cuda" if gpu else "cpu")
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1))  # while the first one measures
    if not gpu:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--share", help="i/k: only every k-th network, from the i-th on")
    parser.add_argument("--nets", nargs="+")
    parser.add_argument("--norms", nargs="+", choices=NORMS)
    parser.add_argument("--trainings", nargs="+", choices=["natural", "adversarial"])
    parser.add_argument("--seeds", nargs="+", type=int)
    for name in ("epochs", "train-images", "validation-images", "test-images"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args(arguments)
    told = {field.name: getattr(args, field.name, None) for field in fields(Preset)}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    preset = replace(PRESETS[args.preset], **{name: value for name, value in told.items() if value is not None})
    device = start_ranks()
    args.output.mkdir(parents=True, exist_ok=True)
    path, settings = args.output / "cells.jsonl", {name: getattr(preset, name) for name in FIXED}
    if not first_rank():
        dist.barrier()  # the first one has begun the file
    cells = Cells(path, settings)
    if dist.is_initialized() and first_rank():
        dist.barrier()
    sizes = {"train": preset.train_images, "validation": preset.validation_images, "test": preset.test_images}
    data = Data.load(args.data, **sizes, device=device)
    everyone = subjects(preset.nets, preset.norms, preset.trainings, preset.seeds)
    share, shares = (int(number) for number in (args.share or "0/1").split("/"))
    if not 0 <= share < shares:
        parser.error(f"--share counts from 0: 0/2 and 1/2 are the two halves, got {args.share}")
    compare(everyone, everyone[share::shares], data, preset, args.output, cells)
    if args.share is None and first_rank():
        rows = [known for known in cells.rows if "history" not in known]
        trainings = [known for known in cells.rows if "history" in known]
        recorded = save(
            f"cifar10_{args.preset}",
            {"settings": asdict(preset), "trainings": trainings, "rows": rows, "guards": guards(rows)},
        )
        print(f"written to {recorded}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
