"""Normalizations in a 3D network: two groups of brain volumes, as PPMI has them, clean, noisy and attacked.

    python -m benchmarks.ppmi --preset quick|cpu|paper --data FOLDER --output FOLDER

FOLDER of --data holds the archive's CSV and the NIfTI files, in folders of any depth. Preset "paper" tells Parkinson's
disease from controls (Group PD and Control); "quick" and "cpu" tell Group large from the others: for other data say
--positive PD --negative Control. Subjects are dealt into five folds; seed k holds fold k out, so that seeds 0 to 4 test
every subject once. Networks are trained in batches of several sizes, their weights kept as safetensors in --output, and
evaluated with running statistics and with those of the batch. Stopped at any moment and started again, the benchmark
goes on where it was. Several processes may share the work (--share 0/2 and 1/2, each with OMP_NUM_THREADS=1); a last
call without --share records it. `torchrun --nproc-per-node N -m benchmarks.ppmi ...` trains on N GPUs, with statistics
of all of them.
"""

from __future__ import annotations

import argparse
import copy
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar10 import Cells, Log, first_rank, start_ranks
from benchmarks.cifar10_nets import ESTIMATORS
from benchmarks.markdown import markdown
from benchmarks.record import save
from shrinkstats.adapters.attacks import FGSM, PGD, Attack, GaussianNoise
from shrinkstats.adapters.datasets import PPMI, Volumes, cross_validation, split_subjects
from shrinkstats.adapters.models import small_cnn3d
from shrinkstats.adapters.torch import adapt, convert
from shrinkstats.adapters.training import fit, save_weights

Row = dict[str, Any]

FOLDS = 5
SHIFT = 2  # voxels that a volume may move in training
BATCH = 16  # in evaluation with running statistics
RESAMPLES = 2000


@dataclass(frozen=True)
class Preset:
    """What to compare, and how thoroughly."""

    norms: tuple[str, ...] = ("batch_norm", "stein_published", "stein_sampling", "robust_norm")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    batches: tuple[int, ...] = (2, 16)
    """Volumes a batch in training."""
    sizes: tuple[int, ...] = (2, 16)
    """And in evaluation with the batch's statistics."""
    strengths: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Of FGSM and PGD; intensities go from 0 to 1."""
    epochs: int = 60
    patience: int = 20
    rate: float = 0.02
    bfloat16: bool = False
    positive: tuple[str, ...] = ("large",)
    negative: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = None
    pattern: str = "*"


PRESETS = {
    "quick": Preset(seeds=(0,), batches=(16,), strengths=(0.01,), epochs=5),
    "cpu": Preset(),
    "paper": Preset(
        epochs=200, patience=50, positive=("PD",), negative=("Control",), shape=(128, 128, 64), bfloat16=True
    ),
}
FIXED = ("epochs", "patience", "rate", "bfloat16", "positive", "negative", "shape", "pattern")  # all cells depend on it


@dataclass(frozen=True)
class Run:
    """What is trained once and evaluated in each mode."""

    norm: str
    train_batch: int
    seed: int

    def __str__(self) -> str:
        return f"small_cnn3d-{self.norm}-{self.train_batch}-{self.seed}"

    def build(self, shape: Sequence[int]) -> nn.Module:
        """The untrained network; under torchrun its layers take the statistics of all ranks."""
        torch.manual_seed(self.seed)
        net = small_cnn3d(input_size=tuple(shape))
        if dist.is_initialized():
            return convert(net, ESTIMATORS[self.norm], process_group=dist.group.WORLD)
        return net if self.norm == "batch_norm" else convert(net, ESTIMATORS[self.norm])

    def in_mode(self, net: nn.Module, mode: str) -> nn.Module:
        """A copy that evaluates so; it is attacked, so its weights need no gradients."""
        net = copy.deepcopy(net).eval().requires_grad_(False)
        return adapt(net, ESTIMATORS[self.norm]) if mode == "batch" else net


class Part(NamedTuple):
    """Volumes of shape (n, 1, x, y, z) with intensities from 0 to 1, and their labels, on one device."""

    images: Tensor
    labels: Tensor


def parts(volumes: Volumes, seed: int, device: torch.device) -> tuple[Part, Part, Part]:
    """To train on, for validation, and to test on: the fold of the seed. No two of them share a subject."""
    rest, test = fold(volumes, seed)
    inner = split_subjects(volumes.subjects[rest], volumes.labels[rest], (0.8, 0.2), seed=seed)
    images, labels = torch.from_numpy(volumes.images), torch.from_numpy(volumes.labels)
    train, validation, held_out = (
        Part(images[chosen].to(device), labels[chosen].to(device)) for chosen in (rest[inner[0]], rest[inner[1]], test)
    )
    return train, validation, held_out


def fold(volumes: Volumes, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the volumes that are not and that are in the fold of a seed."""
    return cross_validation(volumes.subjects, volumes.labels, FOLDS)[seed % FOLDS]


@dataclass(frozen=True)
class Shuffled:
    """The batches of an epoch, made one by one; the seed says which epoch of which training."""

    part: Part
    size: int
    seed: int

    def __len__(self) -> int:
        return len(self.part.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.part.images), generator=generator)[: len(self) * self.size]
        for chosen in order.split(self.size):
            yield augment(self.part.images[chosen], generator), self.part.labels[chosen]


def augment(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Volumes moved by some voxels along each axis, half of them mirrored from left to right."""
    padded = functional.pad(volumes, [SHIFT] * 6)
    starts = torch.randint(2 * SHIFT + 1, (len(volumes), 3), generator=generator).tolist()
    for axis, size in enumerate(volumes.shape[2:]):
        moved = zip(padded, starts, strict=True)
        padded = torch.stack([volume.narrow(1 + axis, start[axis], size) for volume, start in moved])
    mirrored = torch.rand(len(volumes), generator=generator) < 0.5
    return torch.where(mirrored.to(volumes.device)[:, None, None, None, None], padded.flip(2), padded)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of every volume."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0].float(), labels.float(), reduction="none")


def train(run: Run, data: tuple[Part, Part, Part], preset: Preset, output: Path, cells: Cells) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down."""
    training, validation, _ = data
    net = run.build(training.images.shape[2:]).to(training.images.device)
    path = output / f"{run}.safetensors"
    checkpoint = path.with_suffix(".unfinished")
    for known in cells.rows:
        if "history" in known and all(known[name] == value for name, value in vars(run).items()):
            if "failed" in known:
                return None
            net.load_state_dict(load_file(path))
            return net.eval()
    note: Row = {**vars(run), "history": []}
    try:
        history = fit(
            net,
            lambda epoch: Shuffled(training, run.train_batch, 1000 * run.seed + epoch),
            losses,
            epochs=preset.epochs,
            rate=preset.rate,
            autocast=torch.bfloat16 if preset.bfloat16 else None,
            validate=lambda net: validate(net, validation),
            patience=preset.patience,
            checkpoint=checkpoint,
            seed=run.seed,
            progress=Log(str(run)),
        )
        note["history"] = [asdict(epoch) for epoch in history]
    except FloatingPointError as error:
        note["failed"] = str(error)
    if first_rank():
        if "failed" not in note:
            save_weights(net, path)
        print(f"{run}: {note.get('failed') or note['history'][-1]['scores']}", flush=True)
    cells.add(note)
    if first_rank():
        checkpoint.unlink(missing_ok=True)
    return None if "failed" in note else net


def validate(net: nn.Module, part: Part) -> dict[str, float]:
    """Minus the loss, by which the best weights are chosen, and the balanced accuracy, with running statistics."""
    with torch.no_grad():
        logits = torch.cat([net(x) for x in part.images.split(BATCH)])
    right = ((logits[:, 0] > 0) == (part.labels == 1)).double()
    classes = [float(right[part.labels == label].mean()) for label in (0, 1)]
    return {"likelihood": -float(losses(logits, part.labels).mean()), "balanced_accuracy": sum(classes) / 2}


class Cell(NamedTuple):
    """One condition: whose statistics, volumes a batch (running statistics do not depend on it), and what is done.

    `eps` is the variance of Gaussian noise, and the radius of the ball of FGSM and PGD.
    """

    mode: str
    batch: int
    attack: str
    eps: float


def all_cells(preset: Preset) -> list[Cell]:
    """The conditions of one network."""
    kinds = [("clean", 0.0), ("gaussian", 0.01), *((a, eps) for a in ("fgsm", "pgd") for eps in preset.strengths)]
    modes = [("running", BATCH), *(("batch", size) for size in preset.sizes)]
    return [Cell(*mode, *kind) for mode in modes for kind in kinds]


ATTACKS = {"gaussian": GaussianNoise, "fgsm": FGSM, "pgd": PGD}


def evaluate(net: nn.Module, part: Part, cell: Cell) -> list[float]:
    """The logit of every volume. All batches are full: the last one is filled up with volumes of the first.

    Volumes take their seats at random: a table in the order of groups would make batches of one group.
    """
    attack: Attack | None = ATTACKS[cell.attack](cell.eps) if cell.attack in ATTACKS else None
    generator, n = torch.Generator().manual_seed(0), len(part.images)
    order = torch.randperm(n, generator=generator)
    seats = order[torch.arange(-(-n // cell.batch) * cell.batch) % n]
    found = []
    for chosen in seats.split(cell.batch):
        x, y = part.images[chosen], part.labels[chosen]
        if attack is not None:
            x = attack(lambda x, y=y: losses(net(x), y), x, generator=generator)
        with torch.no_grad():
            found.append(net(x)[:, 0])
    logits = torch.cat(found)[:n][order.argsort()]
    return [round(value, 5) for value in logits.tolist()]


def scores(
    logits: NDArray[np.float64], labels: NDArray[np.int64], subjects: NDArray[np.str_], folds: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Accuracy, balanced accuracy, AUC, sensitivity, specificity: each with the ends of its 95% interval.

    Intervals come from drawing subjects with replacement within every fold and class (the percentile bootstrap), so
    several volumes of a subject count as one observation; training is not repeated. The AUC is the mean over folds:
    logits of different networks are not compared.
    """
    rng, weights = np.random.default_rng(0), np.ones((RESAMPLES + 1, len(labels)))
    for group in {*zip(folds.tolist(), labels.tolist(), strict=True)}:
        members = np.flatnonzero((folds == group[0]) & (labels == group[1]))
        names, whose = np.unique(subjects[members], return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        weights[1:, members] = drawn[:, whose]

    positive, right = labels == 1, (logits > 0) == (labels == 1)

    def share(among: NDArray[np.bool_]) -> NDArray[np.float64]:
        return weights[:, among] @ right[among] / weights[:, among].sum(1)

    def area(fold: int) -> NDArray[np.float64]:
        high, low = ((folds == fold) & (positive == one) for one in (True, False))
        above = np.sign(logits[high][:, None] - logits[low]) / 2 + 0.5
        pairs = weights[:, high].sum(1) * weights[:, low].sum(1)
        return (weights[:, high] @ above * weights[:, low]).sum(1) / pairs

    sensitivity, specificity = share(positive), share(~positive)
    found = {
        "accuracy": share(np.ones(len(labels), bool)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "auc": np.mean([area(fold) for fold in np.unique(folds)], axis=0),
        "sensitivity": sensitivity,
        "specificity": specificity,
    }
    return {name: [float(v[0]), *np.quantile(v[1:], (0.025, 0.975)).tolist()] for name, v in found.items()}


def pooled(volumes: Volumes, tested: dict[int, list[float]]) -> Row:
    """The scores of what several seeds were tested on, from the logits by seed."""
    where = {seed: fold(volumes, seed)[1] for seed in tested}
    index = np.concatenate(list(where.values()))
    folds = np.repeat(list(where), [len(test) for test in where.values()])
    logits = np.concatenate(list(tested.values()))
    return {"volumes": len(index), **scores(logits, volumes.labels[index], volumes.subjects[index], folds)}


def summary(volumes: Volumes, rows: Sequence[Row]) -> list[Row]:
    """The scores of every norm in every condition, with all seeds together; the balanced accuracy of each beside."""
    by_condition: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    names = ("norm", "train_batch", *Cell._fields)
    for row in sorted(rows, key=lambda row: row["seed"]):
        by_condition.setdefault(tuple(row[name] for name in names), {})[row["seed"]] = row["logits"]
    found = []
    for condition, tested in sorted(by_condition.items()):
        each = {seed: pooled(volumes, {seed: logits})["balanced_accuracy"][0] for seed, logits in tested.items()}
        known = {**pooled(volumes, tested), "balanced_accuracy_by_seed": each}
        found.append({**dict(zip(names, condition, strict=True)), **known})
    return found


def table(results: Sequence[Row]) -> str:
    """Balanced accuracy in percent, a row for each way to normalize, a column for each condition."""
    kinds = sorted({(row["attack"], row["eps"]) for row in results}, key=lambda k: (list(KINDS).index(k[0]), k[1]))
    ways = sorted({(row["norm"], row["train_batch"], row["mode"], row["batch"]) for row in results})
    cells = {
        ((row["norm"], row["train_batch"], row["mode"], row["batch"]), row["attack"], row["eps"]): row
        for row in results
    }

    def shown(row: Row) -> str:
        value, low, high = (100 * v for v in row["balanced_accuracy"])
        return f"{value:.1f} ({low:.0f}-{high:.0f})"

    head = ["trained in batches of", *(f"{attack} {eps:g}" if eps else attack for attack, eps in kinds)]
    lines = []
    for way in ways:
        norm, batch, mode, size = way
        name = f"{norm}, {batch}; {mode}" + (f" of {size}" if mode == "batch" else "")
        lines.append([name, *(shown(cells[way, attack, eps]) for attack, eps in kinds)])
    return markdown(head, lines)


KINDS = ("clean", *ATTACKS)


def read(args: argparse.Namespace, preset: Preset) -> Volumes:
    """The volumes; what is wrong with some of them is said, and does not stop the others."""
    tables = [args.table] if args.table else sorted(args.data.glob("*.csv"))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise SystemExit(f"expected one CSV in {args.data}, found {found}; name the archive's table by --table")
    known = PPMI(
        args.data,
        tables[0],
        positive=preset.positive,
        negative=preset.negative,
        pattern=preset.pattern,
        shape=preset.shape,
        normalization="percentiles",
        mask=args.mask,
    )

    def progress(done: int, total: int) -> None:
        if first_rank() and (done % 50 == 0 or done == total):
            print(f"read {done} of {total} volumes", flush=True)

    volumes = known.load(progress)
    for problem in volumes.problems if first_rank() else ():
        print(f"{'kept' if problem.kept else 'left out'}: {problem}", flush=True)
    return volumes


def compare(runs: Sequence[Run], volumes: Volumes, preset: Preset, output: Path, cells: Cells, device: Any) -> None:
    """Train and measure."""
    for run in runs:
        data = parts(volumes, run.seed, device)
        net = train(run, data, preset, output, cells)
        if net is None or not first_rank():  # it trains with the first, which measures
            continue
        for cell in all_cells(preset):
            if {**vars(run), **cell._asdict()} not in cells:
                logits = evaluate(run.in_mode(net, cell.mode), data[2], cell)
                cells.add({**vars(run), **cell._asdict(), "logits": logits})
        print(f"{run}: measured", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="the archive's CSV; by default the one in --data")
    parser.add_argument("--mask", type=Path, help="a NIfTI file that is 0 outside of the brain")
    parser.add_argument("--pattern", help="files whose names do not match are passed over, such as *_FA*")
    parser.add_argument("--positive", nargs="+", help="the groups with label 1")
    parser.add_argument("--negative", nargs="+", help="the groups with label 0; by default those of the preset")
    parser.add_argument("--shape", nargs=3, type=int, help="voxels of the common grid")
    parser.add_argument("--share", default="0/1", help="i/k: only every k-th network, from the i-th on")
    parser.add_argument("--norms", nargs="+", choices=ESTIMATORS)
    for name in ("seeds", "batches", "sizes"):
        parser.add_argument(f"--{name}", nargs="+", type=int)
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args(arguments)
    told = {field.name: getattr(args, field.name, None) for field in fields(Preset)}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    preset = replace(PRESETS[args.preset], **{name: value for name, value in told.items() if value is not None})
    share, shares = (int(number) for number in args.share.split("/"))
    if not 0 <= share < shares:
        parser.error(f"--share counts from 0: 0/2 and 1/2 are the two halves, got {args.share}")
    device = start_ranks()
    args.output.mkdir(parents=True, exist_ok=True)
    volumes = read(args, preset)
    scans = "".join(f"{scan.image} {scan.group}\n" for scan in volumes.scans)
    fixed = {name: list(v) if isinstance(v := getattr(preset, name), tuple) else v for name in FIXED}
    settings = {
        **fixed,
        "mask": args.mask and args.mask.name,
        "volumes": len(volumes.labels),
        "scans": zlib.crc32(scans.encode()),
    }
    if not first_rank():
        dist.barrier()  # the first one has begun the file
    cells = Cells(args.output / "cells.jsonl", settings)
    if dist.is_initialized() and first_rank():
        dist.barrier()
    runs = [Run(norm, batch, seed) for seed in preset.seeds for batch in preset.batches for norm in preset.norms]
    compare(runs[share::shares], volumes, preset, args.output, cells, device)
    if shares == 1 and first_rank():
        wanted = [row for row in cells.rows if Run(*(row[name] for name in ("norm", "train_batch", "seed"))) in runs]
        results = summary(volumes, [row for row in wanted if "logits" in row])
        print(table(results))
        described = {
            "volumes": len(volumes.labels),
            "subjects": len(set(volumes.subjects.tolist())),
            "positive": int(volumes.labels.sum()),
            "shape": volumes.images.shape[2:],
            "problems": len(volumes.problems),
        }
        trainings = [row for row in wanted if "history" in row]
        content = {"settings": asdict(preset), "data": described, "trainings": trainings, "rows": results}
        print(f"written to {save(f'ppmi_{args.preset}', content)}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
