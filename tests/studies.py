"""The long studies, on made-up data and with small networks: for the tests of each, and for those of all together."""

import csv
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")
pytest.importorskip("benchmarks", reason="the benchmarks are not on the path")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.lab import record  # noqa: E402
from shrinkstats.adapters import models  # noqa: E402
from shrinkstats.adapters.attacks import PGD  # noqa: E402


@dataclass(frozen=True)
class Study:
    """One of them.

    `made_up` writes data into a folder; `shrink` makes networks and presets small; `measured` is the function that
    fills a cell; `arguments` say where data and cells lie. `few` options leave less to do, `other` ones need cells of
    their own; `undrawn` replaces what draws. The network that is `killed` in training is trained with the `options`;
    `unmeasured` then leaves all but the training out. A study without one trains nothing.
    """

    module: ModuleType
    made_up: Callable[[Path], None]
    shrink: Callable[[pytest.MonkeyPatch], None]
    measured: tuple[Any, str]
    record: str
    few: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    undrawn: Callable[..., Any] | None = None
    killed: str | None = None
    options: str = ""
    unmeasured: dict[str, Any] = field(default_factory=dict)
    arguments: Callable[[Path, Path], list[str]] = lambda folder, output: [
        "--preset", "quick", "--data", str(folder), "--output", str(output)
    ]  # fmt: skip

    def command(self, folder, home, patch):
        """The command on the data in a folder, with its files below `home`; gives what it recorded."""
        self.shrink(patch)
        patch.setattr(record, "RESULTS", home / "results")

        def call(output, *options):
            self.module.main([*self.arguments(folder, home / output), *options])
            path = home / "results" / f"{self.record}.json"
            return json.loads(path.read_text()) if path.exists() else None

        return call


def known(rows):
    """Rows in an order of their own."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def same(result):
    """What is recorded, without the seconds that the trainings took."""
    trainings = [{**t, "history": [{**e, "seconds": 0} for e in t["history"]]} for t in result.get("trainings", [])]
    return known([*trainings, *result["rows"]])


# --- CIFAR-10 ------------------------------------------------------------------------------------------------------

NETS = ("batch_norm", "robust_norm", "group_norm")


def small(norm_layer=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), norm_layer(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


def without_norm():
    return small(lambda channels: nn.Identity())


def quicker(make):
    """The same attack in at most 3 steps."""

    def attack(eps):
        slow = make(eps)
        return replace(slow, steps=3) if hasattr(slow, "steps") else slow

    return attack


def images(folder):
    """Files in the layout of CIFAR-10, whose images tell their class."""
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        labels = rng.integers(10, size=60)
        pixels = rng.integers(0, 100, (60, 3, 32, 32)) + 15 * labels[:, None, None, None]
        content = {b"data": pixels.astype(np.uint8).reshape(60, -1), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))


def cifar10():
    """Norms under attack on CIFAR-10."""
    from benchmarks.cifar10 import cells, guards, study

    def shrink(patch):
        patch.setattr(models, "resnet20", small)
        patch.setattr(models, "fixup_resnet20", without_norm)
        for module in (study, cells, guards):
            patch.setattr(module, "BATCH", 5)
        patch.setattr(cells.Cell.__new__, "__defaults__", (5, "same", ""))
        patch.setattr(cells, "ATTACKS", {name: quicker(make) for name, make in cells.ATTACKS.items()})
        sizes = {"train_images": 256, "validation_images": 20, "test_images": 10, "sizes": (1,)}
        patch.setitem(study.PRESETS, "quick", replace(study.PRESETS["quick"], norms=NETS, **sizes))

    return Study(
        module=study,
        made_up=images,
        shrink=shrink,
        measured=(cells.Bench, "right"),
        record="cifar10_quick",
        few=("--norms", "batch_norm", "group_norm"),
        other=("--epochs", "2"),
        killed="resnet20-stein_sampling-natural-0",
        options="--norms stein_sampling --epochs 2 --train-images 256 --validation-images 20 --test-images 4",
        unmeasured={"measure": lambda *arguments: None},
    )


# --- street scenes -------------------------------------------------------------------------------------------------

SIZE = (16, 24)
ROAD, SKY, CAR, ODD = 7, 23, 26, 0  # labelIds
SCENES = {
    ("train", "bonn"): 16, ("val", "aachen"): 5, ("test", "bonn"): 3, ("test", "ulm"): 3, ("test", "secret"): 2
}  # fmt: skip


def segmenter(num_classes=19):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, num_classes, 1)
    )


def street(rng):
    """A scene whose colours tell its classes: sky above, road below, a car, and a void corner."""
    ids = np.full(SIZE, ROAD, np.uint8)
    ids[: rng.integers(5, 9)] = SKY
    left = rng.integers(16)
    ids[9:13, left : left + 8] = CAR
    ids[-2:, -3:] = ODD
    colours = np.zeros((34, 3))
    colours[[ROAD, SKY, CAR]] = (90, 90, 90), (90, 140, 220), (200, 40, 40)
    return (colours[ids] + rng.integers(0, 30, (*SIZE, 3))).astype(np.uint8), ids


def streets(folder):
    """Files in the layout of Cityscapes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for (split, city), count in SCENES.items():
        for k in range(count):
            image, ids = street(rng)
            if city == "secret":
                ids[:] = ODD
            for kind, picture in (("leftImg8bit", image), ("gtFine_labelIds", ids)):
                path = folder / kind.split("_")[0] / split / city / f"{city}_000000_{k:06}_{kind}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)


def cityscapes():
    """Norms in a segmenter of street scenes."""
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    from benchmarks.cityscapes import study

    def shrink(patch):
        patch.setattr(models, "hrnet_w18_small_v1", segmenter)
        patch.setattr(study, "SHOWN", 1)
        sizes = {"validation_images": 4, "test_images": 5, "other_images": 5, "train_batch": 4, "size": SIZE}
        tiny = replace(study.PRESETS["quick"], norms=NETS[:2], epochs=2, pgd_steps=2, **sizes)
        patch.setitem(study.PRESETS, "quick", tiny)

    return Study(
        module=study,
        made_up=streets,
        shrink=shrink,
        measured=(study, "evaluate"),
        record="cityscapes_quick",
        undrawn=lambda path, net, data: path.touch(),
        other=("--size", "8", "12"),
        killed="hrnet_w18_small_v1-stein_sampling-0",
        options="--norms stein_sampling --epochs 3 --size 32 48 --train-batch 3 --validation-images 4",
        unmeasured={"measure": lambda *arguments: None},
    )


# --- brain volumes -------------------------------------------------------------------------------------------------

SUBJECTS = 30


def brains(folder):
    """An archive of three groups; the brains of the group "large" are. One file is cut short."""
    import nibabel

    rng = np.random.default_rng(0)
    rows = []
    for k in range(SUBJECTS):
        group = ("large", "small", "tiny")[k % 3]
        radius = {"large": 5, "small": 3, "tiny": 2}[group]
        grid = np.mgrid[-6:6, -6:6, -6:6]
        brain = 0.1 + (np.sqrt((grid**2).sum(0)) < radius) * 0.7 + 0.1 * rng.random((12, 12, 12))
        path = folder / "images" / f"S{k}" / f"I{1000 + k}.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(brain.astype(np.float32), np.eye(4)), path)
        rows.append([f"I{1000 + k}", f"S{k}", group])
    path.write_bytes(path.read_bytes()[:100])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Image Data ID", "Subject", "Group"], *rows])


def ppmi():
    """Norms in a 3D network on brain volumes."""
    pytest.importorskip("nibabel", reason="needs the extra shrinkstats[medical]")
    pytest.importorskip("sklearn", reason="needs the extra shrinkstats[sklearn]")
    from benchmarks.ppmi import scores, study

    def shrink(patch):
        patch.setattr(scores, "RESAMPLES", 50)
        patch.setitem(study.ATTACKS, "pgd", partial(PGD, steps=2))
        tiny = replace(study.PRESETS["quick"], norms=NETS[:2], batches=(4,), sizes=(2,), epochs=2)
        patch.setitem(study.PRESETS, "quick", tiny)

    return Study(
        module=study,
        made_up=brains,
        shrink=shrink,
        measured=(study, "evaluate"),
        record="ppmi_quick",
        other=("--epochs", "3"),
        killed="small_cnn3d-stein_sampling-4-0",
        options="--norms stein_sampling --batches 4 --epochs 3",
        unmeasured={"evaluate": lambda net, part, cell: []},
    )


# --- adaptation ----------------------------------------------------------------------------------------------------


def trained(folder):
    """The images of CIFAR-10 and a network for them."""
    images(folder)
    torch.manual_seed(0)
    save_file(small().state_dict(), folder / "net.safetensors")


def adaptation():
    """Every strength of a blend on shifted images."""
    from benchmarks.adaptation import study

    def shrink(patch):
        patch.setattr(models, "resnet20", small)
        patch.setattr(study, "GROUPS", (1, 4))

    def arguments(folder, output):
        output.mkdir(exist_ok=True)
        files = {"--data": folder, "--weights": folder / "net.safetensors", "--cells": output / "cells.jsonl"}
        few = "--images 20 --corruptions contrast fog --severities 3 --batches 1 4 --strengths 0 16"
        return [*(str(part) for pair in files.items() for part in pair), *few.split()]

    return Study(
        module=study,
        made_up=trained,
        shrink=shrink,
        measured=(study, "measure"),
        record="adaptation",
        arguments=arguments,
        other=("--seed", "1"),
        undrawn=lambda result, name: None,
    )


TRAINING = {made.__name__: made for made in (cifar10, cityscapes, ppmi)}
STUDIES = {**TRAINING, "adaptation": adaptation}
