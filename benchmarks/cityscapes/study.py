"""Normalizations in a segmenter of street scenes: clean, noisy, attacked, and in other weather than it was trained in.

    python -m benchmarks.cityscapes --preset quick|cpu|paper --data FOLDER --output FOLDER

FOLDER of --data holds leftImg8bit and gtFine. Networks are trained on the split "train" without its last scenes, which
choose the best weights, and tested on "val"; and, where "test" has annotated scenes of drives (cities) that are not in
"train", on those. They are evaluated with running statistics and with those of the batch; batch norm also adapted by a
Stein blend of the two. Weights are kept as safetensors in --output, with a picture of some scenes for every network.
Stopped at any moment and started again, the benchmark goes on where it was. Several processes may share the work
(--share 0/2 and 1/2, each with OMP_NUM_THREADS=1); a last call without --share records it. `torchrun --nproc-per-node N
-m benchmarks.cityscapes ...` trains on N GPUs, with statistics of all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from benchmarks.cityscapes import tables as cityscapes_tables
from benchmarks.lab import runner
from benchmarks.lab.cells import Cells, Row, first_rank
from benchmarks.lab.record import save
from benchmarks.lab.segmentation import Confusion, Example, draw_overlays, scores_counting_void
from shrinkstats.adapters import models
from shrinkstats.adapters.attacks import FGSM, PGD, Attack, GaussianNoise, Standardized, segmentation
from shrinkstats.adapters.datasets import Augmentation, Cityscapes
from shrinkstats.adapters.robustness.weather import plasma
from shrinkstats.adapters.torch import adapt, calibrate, convert
from shrinkstats.estimators import SteinBlend
from shrinkstats.rules.registry import named

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the published networks expect
CATEGORIES = Cityscapes.categories
CLASSES, VOID = len(CATEGORIES), 255
EPS = 0.03
BLEND = "stein_blend"
BATCH = 16  # in evaluation with running statistics
SHOWN = 3  # scenes in a picture


@dataclass(frozen=True)
class Preset:
    """What to compare, and how thoroughly."""

    norms: tuple[str, ...] = ("batch_norm", "stein_published", "stein_sampling", "robust_norm")
    seeds: tuple[int, ...] = (0,)
    net: str = "hrnet_w18_small_v1"
    size: tuple[int, int] = (180, 240)
    """Height and width of the scenes and of the crops that are trained on."""
    scale: tuple[float, float] = (0.75, 1.5)
    train_batch: int = 8
    epochs: int = 30
    patience: int | None = None
    rate: float = 0.05
    validation_images: int = 32
    test_images: int = 101
    other_images: int = 64
    """Of the drives that are not trained on."""
    sizes: tuple[int, ...] = (2, 16)
    """Images a batch, in evaluation with the batch's statistics."""
    pgd_steps: int = 5
    bfloat16: bool = True
    """Convolutions in training; evaluation and its attacks are in full precision."""
    workers: int = 0
    """Processes that read and augment scenes."""


PRESETS = {
    "quick": Preset(
        norms=("batch_norm", "stein_sampling"),
        size=(90, 120),
        epochs=2,
        validation_images=16,
        test_images=16,
        other_images=16,
        sizes=(2,),
        pgd_steps=3,
    ),
    "cpu": Preset(),
    "paper": Preset(
        seeds=(0, 1, 2),
        size=(256, 512),
        scale=(0.5, 2.0),
        train_batch=16,
        epochs=200,
        patience=50,
        validation_images=300,
        test_images=500,
        other_images=500,
        pgd_steps=20,
        workers=8,
    ),
}
FIXED = (  # all cells depend on it
    "net", "size", "scale", "train_batch", "epochs", "patience", "rate",
    "validation_images", "test_images", "other_images", "pgd_steps", "bfloat16",
)  # fmt: skip


class Segmenter(nn.Module):
    """A network for images from 0 to 1, with logits at the images' size."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = Standardized(net, MEAN, STD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, classes, h, w)."""
        logits = self.net(images).float()
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Run:
    """What is trained once and evaluated in each mode."""

    net: str
    norm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.net}-{self.norm}-{self.seed}"

    @property
    def modes(self) -> tuple[str, ...]:
        """Whose statistics evaluation takes: those of training, of the batch, or both blended."""
        return ("running", "batch", BLEND) if self.norm == "batch_norm" else ("running", "batch")

    def build(self) -> Segmenter:
        """The untrained network; under torchrun its layers take the statistics of all ranks."""
        torch.manual_seed(self.seed)
        net = getattr(models, self.net)(num_classes=CLASSES)
        if dist.is_initialized():
            convert(net, named(self.norm), process_group=dist.group.WORLD)
        elif self.norm != "batch_norm":
            convert(net, named(self.norm))
        return Segmenter(net.to(memory_format=torch.channels_last))

    def in_mode(self, net: nn.Module, mode: str, clean: Callable[[], Iterator[Tensor]]) -> nn.Module:
        """A copy that evaluates so; it is attacked, so its weights need no gradients."""
        net = copy.deepcopy(net).eval().requires_grad_(False)
        if mode == "running":
            return net
        if mode == BLEND:
            return adapt(calibrate(net, clean()), SteinBlend())
        return adapt(net, named(self.norm))


@dataclass(frozen=True)
class Data:
    """Scenes to train on, for validation and to test on; none of them is in two parts."""

    train: Subset[Any]
    plain: Subset[Any]
    """Those to train on, not augmented."""
    validation: Subset[Any]
    test: Subset[Any]
    other: Subset[Any]
    """To test on as well: of drives that are not trained on. There may be none."""
    preset: Preset
    device: torch.device

    @classmethod
    def load(cls, folder: Path, preset: Preset, device: torch.device) -> Data:
        """The scenes in a folder, which are read when they are needed."""
        plain, test = (Cityscapes(folder, name, size=preset.size) for name in ("train", "val"))
        augmented = Cityscapes(
            folder, "train", size=preset.size, augmentation=Augmentation(preset.size, scale=preset.scale)
        )
        known, held = np.split(np.arange(len(plain)), [max(0, len(plain) - preset.validation_images)])
        if len(known) < preset.train_batch:
            raise SystemExit(f"{len(known)} scenes to train on, too few for a batch of {preset.train_batch}")
        return cls(
            Subset(augmented, known),
            Subset(plain, known),
            Subset(plain, held),
            some(test, range(len(test)), preset.test_images),
            other_drives(folder, preset, {frame.image.parent.name for frame in plain.frames}),
            preset,
            device,
        )

    def shuffled(self, seed: int, epoch: int) -> Scenes:
        """The batches of an epoch of the training with a seed."""
        draw = 1000 * seed + epoch
        return Scenes(Subset(self.train.dataset.at(draw), self.train.indices), self, self.preset.train_batch, draw)

    def clean(self) -> Iterator[Tensor]:
        """Batches of training scenes as they are, for calibration."""
        return (images for images, _ in Scenes(self.plain, self, self.preset.train_batch, seed=0))


def some(scenes: Any, indices: Sequence[int], count: int) -> Subset[Any]:
    """So many of the scenes, spread evenly: neighbours are alike."""
    spread = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))
    return Subset(scenes, [indices[k] for k in spread])


def other_drives(folder: Path, preset: Preset, known: set[str]) -> Subset[Any]:
    """Annotated scenes of "test" that are of other drives, so far as there are any: those of Cityscapes are void."""
    if not all((folder / kind / "test").is_dir() for kind in ("leftImg8bit", "gtFine")):
        return Subset(None, [])
    scenes = Cityscapes(folder, "test", size=preset.size)
    strange = [index for index, frame in enumerate(scenes.frames) if frame.image.parent.name not in known]
    chosen = some(scenes, strange, preset.other_images)
    return Subset(scenes, [index for index in chosen.indices if (scenes[index][1] != VOID).any()])


@dataclass(frozen=True)
class Scenes:
    """Batches of images from 0 to 1 and labels, made one by one: in order, or shuffled by a seed and all of a size."""

    scenes: Subset[Any]
    data: Data
    size: int
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.scenes) // self.size if self.seed is not None else -(-len(self.scenes) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self.scenes,
            self.size,
            shuffle=self.seed is not None,
            drop_last=self.seed is not None,
            num_workers=self.data.preset.workers,
            generator=torch.Generator().manual_seed(self.seed or 0),
        )
        for images, labels in loader:
            yield images.to(self.data.device).float() / 255, labels.to(self.data.device)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of every scene; void does not count."""
    return segmentation(nn.Identity(), labels)(logits)


def confusion(logits: Tensor, labels: Tensor) -> Confusion:
    """Pixels by true and predicted class."""
    return Confusion.of(labels.cpu().numpy(), logits.argmax(1).cpu().numpy(), classes=CLASSES)


def train(run: Run, data: Data, output: Path, cells: Cells) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down."""
    preset = data.preset
    return runner.train(
        run,
        run.build().to(data.device),
        lambda epoch: data.shuffled(run.seed, epoch),
        losses,
        output,
        cells,
        validate=lambda net: validate(net, data),
        epochs=preset.epochs,
        rate=preset.rate,
        patience=preset.patience,
        autocast=torch.bfloat16 if preset.bfloat16 else None,
    )


def validate(net: nn.Module, data: Data) -> dict[str, float]:
    """Mean IoU, by which the best weights are chosen, and pixel accuracy, with running statistics."""
    total = Confusion.empty(CLASSES)
    with torch.no_grad():
        for images, labels in Scenes(data.validation, data, 8):
            total += confusion(net(images), labels)
    found = total.scores()
    return {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy}


def fog(image: Tensor, generator: torch.Generator) -> Tensor:
    """The fog of CIFAR-10-C: a plasma fractal added, the whole darkened so that the brightest value stays."""
    thickness, decay = 1.0, 2.0
    height, width = image.shape[2:]
    side = 1 << (max(height, width) - 1).bit_length()
    seed = int(torch.randint(2**31, (), generator=generator))
    clouds = torch.from_numpy(plasma(side, decay, [np.random.default_rng(seed)])[:, None, :height, :width])
    return (image + thickness * clouds.to(image)) * image.max() / (image.max() + thickness)


def night(image: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the light, shadows deeper, bluish, with the noise of a sensor that amplifies it."""
    tint = torch.tensor([0.8, 0.9, 1.1]).to(image)[:, None, None]
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (0.25 * image**1.5 * tint + 0.02 * noise).clamp(0, 1)


def noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise on every value."""
    return GaussianNoise(0.01)(None, image, generator=generator)


SHIFTS = {"fog": fog, "night": night, "noise": noise}
OTHER = "other_drive"  # scenes as they are, but of drives that were not trained on
CONDITIONS = ("clean", OTHER, *SHIFTS, "fgsm", "pgd")


def changed(condition: str, net: nn.Module, images: Tensor, labels: Tensor, steps: int, first: int) -> Tensor:
    """The images in a condition; `first` is the number of the first one, which random numbers belong to."""
    if condition in ("clean", OTHER):
        return images
    if condition in SHIFTS:  # image by image: the same in batches of any size
        shift, numbered = SHIFTS[condition], enumerate(images.split(1), first)
        return torch.cat([shift(image, torch.Generator().manual_seed(number)) for number, image in numbered])
    attack: Attack = FGSM(EPS) if condition == "fgsm" else PGD(EPS, steps)
    return attack(segmentation(net, labels), images, generator=torch.Generator().manual_seed(first))


class Cell(NamedTuple):
    """Whose statistics, images a batch (running ones do not depend on it), and what is done to the images.

    Test images are in the order of the files, so that those of a batch are of one drive, as in use.
    """

    mode: str
    batch: int
    condition: str


def all_cells(run: Run, data: Data) -> list[Cell]:
    """The conditions of one network."""
    sizes = data.preset.sizes
    ways = [(mode, size) for mode in run.modes for size in (sizes if mode != "running" else (BATCH,))]
    conditions = [condition for condition in CONDITIONS if condition != OTHER or len(data.other)]
    return [Cell(*way, condition) for way in ways for condition in conditions]


def evaluate(net: nn.Module, data: Data, cell: Cell) -> Row:
    """Scores over all test scenes, and those of every class that occurs."""
    found, scenes = [], data.other if cell.condition == OTHER else data.test
    for number, (images, labels) in enumerate(Scenes(scenes, data, cell.batch)):
        images = changed(cell.condition, net, images, labels, data.preset.pgd_steps, number * cell.batch)
        with torch.no_grad():
            found.append(confusion(net(images), labels))
    known = sum(found, Confusion.empty(CLASSES)).scores()
    per_class = {c.name: s._asdict() for c, s in zip(CATEGORIES, known.classes, strict=True) if s.pixels}
    means = {name: value for name, value in vars(known).items() if name != "classes"}
    return {
        **means,
        "images": len(scenes),
        "classes": per_class,
        "counting_void": scores_counting_void(found)._asdict(),
    }


def draw(path: Path, net: nn.Module, data: Data) -> None:
    """Some scenes: image, truth, prediction, and prediction under PGD, with running statistics."""
    examples = []
    for number, (images, labels) in enumerate(Scenes(some(data.test.dataset, data.test.indices, SHOWN), data, 1)):
        attacked = changed("pgd", net, images, labels, data.preset.pgd_steps, number)
        with torch.no_grad():
            before, after = (net(x).argmax(1)[0].cpu().numpy() for x in (images, attacked))
        image = (255 * images[0]).round().byte().cpu().numpy()
        examples.append(Example(image, labels[0].cpu().numpy(), before, after))
    names, _, colours = zip(*CATEGORIES, strict=True)
    draw_overlays(path, examples, names=names, colours=colours, attack=f"under PGD, eps {EPS}")


def compare(runs: Sequence[Run], data: Data, output: Path, cells: Cells) -> None:
    """Train and measure: first all networks with running statistics, then in the other modes."""
    for modes in (("running",), ("batch", BLEND)):
        for run in runs:
            net = train(run, data, output, cells)
            if net is None or not first_rank():  # it trains with the first, which measures
                continue
            for mode in modes:
                measure(run, net, mode, data, cells)
            picture = output / f"{run}.png"
            if not picture.exists():
                draw(picture, run.in_mode(net, "running", data.clean), data)
        if not first_rank():
            return


def measure(run: Run, net: nn.Module, mode: str, data: Data, cells: Cells) -> None:
    """Fill in the cells that are missing."""
    wanted = [cell for cell in all_cells(run, data) if cell.mode == mode]
    wanted = [cell for cell in wanted if {**vars(run), **cell._asdict()} not in cells]
    evaluated = run.in_mode(net, mode, data.clean) if wanted else net
    for cell in wanted:
        found = evaluate(evaluated, data, cell)
        cells.add({**vars(run), **cell._asdict(), **found})
        print(f"{run}: {' '.join(map(str, cell))}: {100 * found['miou']:.1f}% mean IoU", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, record."""
    parser = runner.parser(__doc__, PRESETS)
    parser.add_argument("--net", help="a network of shrinkstats.adapters.models, such as hrnet_w48")
    parser.add_argument("--norms", nargs="+", type=runner.rule_name)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--size", nargs=2, type=int, help="height and width of the scenes")
    for name in ("epochs", "patience", "train-batch", "validation-images", "test-images", "other-images", "workers"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args(arguments)
    preset = runner.as_told(PRESETS[args.preset], args)
    device = runner.start_ranks()
    data = Data.load(args.data, preset, device)
    cells = runner.cells_of(args.output, runner.settings(preset, FIXED))
    runs = [Run(preset.net, norm, seed) for seed in preset.seeds for norm in preset.norms]
    compare(args.share.part(runs), data, args.output, cells)
    if args.share.is_all and first_rank():
        wanted = [row for row in cells.rows if Run(row["net"], row["norm"], row["seed"]) in runs]
        rows, trainings = ([row for row in wanted if ("history" in row) == is_note] for is_note in (False, True))
        described = {name: len(getattr(data, name)) for name in ("train", "validation", "test", "other")}
        content = {"settings": asdict(preset), "scenes": described, "trainings": trainings, "rows": rows}
        recorded = save(name := f"cityscapes_{args.preset}", content)
        print(f"{cityscapes_tables.conditions(name)}\n\n{cityscapes_tables.classes(name)}\n\nwritten to {recorded}")
    runner.end_ranks()
