"""What is measured of a trained network: cells of attack, strength, batch size and mode, and how each is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.cifar10.nets import Subject
from shrinkstats._files import whole
from shrinkstats.adapters import attacks
from shrinkstats.adapters.attacks import Attack, classification, over_mates
from shrinkstats.adapters.torch import grouped

BATCH = 100  # images that share statistics, as in the RobustNorm paper
EPS = 0.03
SPREAD = 0.25  # standard deviation of CIFAR-10's pixels, within 0.01 the same in all three channels
SIZE = 3 * 32 * 32  # elements of an image: an l2 ball of radius eps sqrt(SIZE) has changes of root mean square eps

ATTACKS: dict[str, Callable[[float], Attack]] = {
    "gradient": attacks.Gradient,
    "fgsm": attacks.FGSM,
    "bim": attacks.BIM,
    "bim_5": lambda eps: attacks.BIM(eps, steps=5, step=1 / 255),  # as in the code of the Stein paper
    "pgd": attacks.PGD,
    "pgd_l2": lambda eps: attacks.PGD(eps * SIZE**0.5, norm="l2"),
    "pgd_restarts": lambda eps: attacks.PGD(eps, restarts=3),
    "occlusion": lambda eps: attacks.Occlusion(int(eps)),
    "gaussian": attacks.GaussianNoise,
    "cauchy": attacks.ClippedCauchyNoise,
}


class Cell(NamedTuple):
    """One number. `eps` is the strength in the attack's own units: a variance for Gaussian noise, pixels for occlusion.

    `mates` are the images that share the batch: the "same" as when the attack was made, "other" ones, or other ones
    of which the attack had "known". `source` is the norm whose network a transferred attack was made on.
    """

    mode: str
    attack: str
    eps: float
    batch: int = BATCH
    mates: str = "same"
    source: str = ""


def first_cells(mode: str) -> Iterator[Cell]:
    """The columns of the papers' tables."""
    yield Cell(mode, "clean", 0.0)
    yield Cell(mode, "fgsm", EPS)
    yield Cell(mode, "pgd", EPS)
    yield Cell(mode, "gaussian", 0.25)
    yield Cell(mode, "cauchy", 0.1)
    yield Cell(mode, "bim", EPS)
    yield Cell(mode, "bim_5", 5 / 255)


def more_cells(mode: str, images: int, curve: tuple[float, ...], sizes: tuple[int, ...]) -> Iterator[Cell]:
    """Curves, other attacks, what the guards compare, and strengths measured in standard deviations of the pixels.

    Other mates take at least two batches.
    """
    for attack in ("fgsm", "bim", "pgd"):
        yield Cell(mode, attack, EPS * SPREAD)
    yield Cell(mode, "gaussian", 0.25 * SPREAD**2)
    for eps in curve:
        yield Cell(mode, "pgd", eps)
    yield Cell(mode, "gradient", EPS)
    yield Cell(mode, "pgd_l2", EPS)
    yield Cell(mode, "pgd_restarts", EPS)
    yield Cell(mode, "occlusion", 7.0)
    if mode == "batch":
        if images >= 2 * BATCH:
            yield Cell(mode, "pgd", EPS, mates="other")
            yield Cell(mode, "pgd", EPS, mates="known")
        for size in sizes:
            if images % size == 0:
                yield Cell(mode, "clean", 0.0, size)


@dataclass
class Bench:
    """A trained network, images, and a folder for those attacked by PGD, which several cells look at."""

    subject: Subject
    net: nn.Module
    images: Tensor
    labels: Tensor
    folder: Path

    def right(self, cell: Cell) -> int:
        """How many images are classified correctly."""
        net = self.subject.in_mode(self.net, cell.mode)
        if cell.source:
            source = Subject(self.subject.net, cell.source, self.subject.seed, self.subject.training)
            images = load_file(self._file(source, "running"))["images"].to(self.images.device)
            return correct(net, images, self.labels, cell.batch)
        if cell.attack == "clean":
            return correct(net, self.images, self.labels, cell.batch)
        images = self._attacked(net, cell)
        if cell.mates == "same":
            return correct(net, images, self.labels, cell.batch)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).to(images.device)
        return correct(net, images[order], self.labels[order], cell.batch)

    def has(self, source: Subject) -> bool:
        """Whether a network's images for transferred attacks are there."""
        return self._file(source, "running").exists()

    def _attacked(self, net: nn.Module, cell: Cell) -> Tensor:
        """The images as the attack leaves them."""
        made = cell._replace(mates="same") if cell.mates == "other" else cell
        shared = made == Cell(cell.mode, "pgd", EPS)
        path = self._file(self.subject, cell.mode)
        if shared and path.exists():
            return load_file(path)["images"].to(self.images.device)
        generator = torch.Generator().manual_seed(self.subject.seed)
        attack, changed = ATTACKS[cell.attack](cell.eps), []
        for x, y in self._portions(cell):
            loss = classification(net, y)
            if cell.mates == "known":
                loss = over_mates(partial(classification, labels=y), net, cell.batch, draws=2, generator=generator)
            changed.append(attack(loss, x, generator=generator))
        if shared:
            path.parent.mkdir(exist_ok=True)
            with whole(path) as temporary:
                save_file({"images": torch.cat(changed).cpu()}, temporary)
        return torch.cat(changed)

    def _portions(self, cell: Cell) -> Iterator[tuple[Tensor, Tensor]]:
        """What is attacked at a time: a batch, or two or three whose images change places."""
        n, size = len(self.images), cell.batch
        starts = range(0, n, size) if cell.mates != "known" else range(0, n - 2 * size + 1, 2 * size)
        for start, stop in pairwise([*starts, n]):
            yield self.images[start:stop], self.labels[start:stop]

    def _file(self, subject: Subject, mode: str) -> Path:
        return self.folder / "attacked" / f"{subject}-{mode}.safetensors"


def correct(net: nn.Module, images: Tensor, labels: Tensor, batch: int) -> int:
    """How many of the images get their label, in batches of a size."""
    together = grouped(net, batch) if batch < BATCH else nullcontext()
    with torch.no_grad(), together:
        found = torch.cat([net(x).argmax(1) for x in images.split(batch * max(1, BATCH // batch))])
    return int((found == labels).sum())


def row(subject: Subject, cell: Cell, images: int, right: int) -> dict[str, Any]:
    """A cell as it is written down."""
    return {**vars(subject), **cell._asdict(), "images": images, "right": right}
