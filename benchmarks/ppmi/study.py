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
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.lab import runner
from benchmarks.lab.cells import Cells, first_rank
from benchmarks.lab.record import save
from benchmarks.ppmi import tables as ppmi_tables
from benchmarks.ppmi.data import Part, Shuffled, parts
from benchmarks.ppmi.nets import NETS, Run
from benchmarks.ppmi.scores import extents_alone, summary
from shrinkstats.adapters.attacks import FGSM, PGD, Attack, GaussianNoise
from shrinkstats.adapters.datasets import PPMI, Volumes

BATCH = 16  # in evaluation with running statistics


@dataclass(frozen=True)
class Preset:
    """What to compare, and how thoroughly."""

    nets: tuple[str, ...] = ("small_cnn3d",)
    norms: tuple[str, ...] = ("batch_norm", "stein_published", "stein_sampling", "robust_norm")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    batches: tuple[int, ...] = (2, 16)
    """Volumes a batch in training."""
    sizes: tuple[int, ...] = (2, 16)
    """And in evaluation with the batch's statistics."""
    strengths: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Of FGSM and PGD; intensities go from 0 to 1."""
    epochs: int = 100
    patience: int | None = None
    rate: float = 0.02
    """Of batches of 16; that of others goes with the square root of their size."""
    bfloat16: bool = False
    positive: tuple[str, ...] = ("large",)
    negative: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = None
    pattern: str = "*"
    harmonize: str | None = None
    """The column of the table that says what a scan was made on."""


PRESETS = {
    "quick": Preset(seeds=(0,), batches=(16,), strengths=(0.01,), epochs=5),
    "cpu": Preset(shape=(32, 44, 28)),  # nearly all scans of the hippocampus fill it: it does not show where they end
    "paper": Preset(
        epochs=200, patience=100, positive=("PD",), negative=("Control",), shape=(128, 128, 64), bfloat16=True
    ),
}
FIXED = (  # all cells depend on it
    "epochs", "patience", "rate", "bfloat16", "positive", "negative", "shape", "pattern", "harmonize",
)  # fmt: skip


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of every volume."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0].float(), labels.float(), reduction="none")


def train(run: Run, data: tuple[Part, Part, Part], preset: Preset, output: Path, cells: Cells) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down."""
    training, validation, _ = data
    return runner.train(
        run,
        run.build(training.images.shape[2:]).to(training.images.device),
        lambda epoch: Shuffled(training, run.train_batch, 1000 * run.seed + epoch),
        losses,
        output,
        cells,
        validate=lambda net: validate(net, validation),
        epochs=preset.epochs,
        rate=preset.rate * (run.train_batch / 16) ** 0.5,
        patience=preset.patience,
        autocast=torch.bfloat16 if preset.bfloat16 else None,
    )


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


def read(args: argparse.Namespace, preset: Preset) -> tuple[Volumes, NDArray[np.float64]]:
    """The volumes, and millimetres of the grid along its axes; what is wrong with some is said and stops no others."""
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
    return volumes, np.multiply(known.shape, known.spacing)


def compare(runs: Sequence[Run], volumes: Volumes, preset: Preset, output: Path, cells: Cells, device: Any) -> None:
    """Train and measure."""
    for run in runs:
        data = parts(volumes, run.seed, device, preset.harmonize)
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
    parser = runner.parser(__doc__, PRESETS)
    parser.add_argument("--table", type=Path, help="the archive's CSV; by default the one in --data")
    parser.add_argument("--mask", type=Path, help="a NIfTI file that is 0 outside of the brain")
    parser.add_argument("--pattern", help="files whose names do not match are passed over, such as *_FA*")
    parser.add_argument("--positive", nargs="+", help="the groups with label 1")
    parser.add_argument("--negative", nargs="+", help="the groups with label 0; by default those of the preset")
    parser.add_argument("--shape", nargs=3, type=int, help="voxels of the common grid")
    parser.add_argument("--harmonize", metavar="COLUMN", help="take out the differences between the table's scanners")
    parser.add_argument("--nets", nargs="+", choices=NETS)
    parser.add_argument("--norms", nargs="+", type=runner.rule_name)
    for name in ("seeds", "batches", "sizes"):
        parser.add_argument(f"--{name}", nargs="+", type=int)
    for name in ("epochs", "patience"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args(arguments)
    preset = runner.as_told(PRESETS[args.preset], args)
    device = runner.start_ranks()
    volumes, grid = read(args, preset)
    for net in preset.nets:
        NETS[net](volumes.images.shape[2:])  # what cannot be made is said before others are trained
    scans = "".join(f"{scan.image} {scan.group}\n" for scan in volumes.scans)
    settings = {
        **runner.settings(preset, FIXED),
        "mask": args.mask and args.mask.name,
        "volumes": len(volumes.labels),
        "scans": zlib.crc32(scans.encode()),
    }
    cells = runner.cells_of(args.output, settings)
    runs = [
        Run(net, norm, batch, seed)
        for seed in preset.seeds
        for net in preset.nets
        for batch in preset.batches
        for norm in preset.norms
    ]
    compare(args.share.part(runs), volumes, preset, args.output, cells, device)
    if args.share.is_all and first_rank():
        wanted = [row for row in cells.rows if Run(*(row[name] for name in vars(runs[0]))) in runs]
        names = (*(name for name in vars(runs[0]) if name != "seed"), *Cell._fields)
        results = summary(volumes, [row for row in wanted if "logits" in row], names)
        extents = {
            "extents of the scans alone": extents_alone(volumes, preset.seeds),
            "extents as far as the grid goes": extents_alone(volumes, preset.seeds, grid),
        }
        described = {
            "volumes": len(volumes.labels),
            "subjects": len(set(volumes.subjects.tolist())),
            "positive": int(volumes.labels.sum()),
            "shape": volumes.images.shape[2:],
            "problems": len(volumes.problems),
        }
        # The epochs before the last one are in the cells alone.
        trainings = [{**row, "history": row["history"][-1:]} for row in wanted if "history" in row]
        content = {
            "settings": asdict(preset),
            "data": described,
            "trainings": trainings,
            "rows": results,
            "extents": extents,
        }
        recorded = save(name := f"ppmi_{args.preset}", content)
        print(f"{ppmi_tables.attacked(name)}\n\n{ppmi_tables.scores(name)}\n\nwritten to {recorded}")
    runner.end_ranks()
