"""What the tables and pictures of benchmarks.cifar10 share: its rows by setting, their mean over seeds, and names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cifar10.cells import BATCH
from benchmarks.lab.norms import norm_name
from benchmarks.lab.tables import OverSeeds, of_seeds

PUBLISHED = Path(__file__).parents[1] / "published"
Row = dict[str, Any]

NETS = {"resnet9": "ResNet-9", "resnet20": "ResNet-20"}
WITHOUT_STATISTICS = ("group_norm", "none")  # one mode is all there is


class Setting(NamedTuple):
    """What the seeds of one mean have in common."""

    net: str
    training: str
    norm: str
    mode: str

    @property
    def group(self) -> str:
        """What is trained, and how, in words."""
        return f"{NETS.get(self.net, self.net)}, {self.training} training"

    @property
    def label(self) -> str:
        """The norm and its statistics in evaluation, in words."""
        return norm_name(self.norm) + ("" if self.norm in WITHOUT_STATISTICS else f", {self.mode} statistics")


def settings(rows: Iterable[Row]) -> list[Setting]:
    """All there are: by network and training, then in the order of the rows."""
    found = dict.fromkeys(Setting(*(row[name] for name in Setting._fields)) for row in rows)
    groups = list(dict.fromkeys(setting[:2] for setting in found))
    norms = list(dict.fromkeys(setting.norm for setting in found))
    return sorted(found, key=lambda s: (groups.index(s[:2]), norms.index(s.norm), s.mode != "running"))


def chosen(
    rows: Iterable[Row], setting: Setting, attack: str, *, batch: int = BATCH, mates: str = "same"
) -> Iterator[Row]:
    """The rows of a setting under an attack, of all seeds and strengths."""
    wanted = {**setting._asdict(), "attack": attack, "batch": batch, "mates": mates}
    return (row for row in rows if all(row[name] == value for name, value in wanted.items()))


def accuracy(rows: Iterable[Row]) -> OverSeeds | None:
    """The mean over seeds of the accuracy, with Student's interval; None without rows."""
    values = [100 * row["right"] / row["images"] for row in rows]
    return of_seeds(values) if values else None


def published(paper: str) -> dict[str, Any]:
    """The tables of a paper, from published/."""
    content: dict[str, Any] = json.loads((PUBLISHED / f"{paper}.json").read_text())
    return content
