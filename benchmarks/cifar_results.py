"""What the tables and pictures of benchmarks.cifar10 share: its rows by setting, their mean over seeds, and names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from benchmarks.cifar10_cells import BATCH
from shrinkstats.rules.base import label_of
from shrinkstats.rules.registry import RULES

PUBLISHED = Path(__file__).parent / "published"
Row = dict[str, Any]

NAMES = {
    **{name: label_of(rule) for name, rule in RULES.items()},
    "group_norm": "group norm",
    "none": "none (Fixup)",
    "abnn": "ABNN",
}
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
        """In words: what is trained, and how."""
        return f"{NETS.get(self.net, self.net)}, {self.training} training"

    @property
    def label(self) -> str:
        """In words: the norm and its statistics in evaluation."""
        return norm_name(self.norm) + ("" if self.norm in WITHOUT_STATISTICS else f", {self.mode} statistics")


class Share(NamedTuple):
    """A mean over seeds in percent, and half its 95% interval; none for a single seed."""

    mean: float
    half: float | None
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.half is None else f"{self.mean:.1f} ± {self.half:.1f}"


def norm_name(norm: str) -> str:
    """As tables and legends call it."""
    return NAMES.get(norm, norm)


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


def share(rows: Iterable[Row]) -> Share | None:
    """The mean over seeds of the accuracy, with Student's interval; None without rows."""
    values = [100 * row["right"] / row["images"] for row in rows]
    return of_seeds(values) if values else None


def of_seeds(values: list[float]) -> Share:
    """The mean of one value a seed, with Student's interval."""
    k = len(values)
    mean = sum(values) / k
    if k == 1:
        return Share(mean, None, tuple(values))
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (k - 1))
    return Share(mean, float(stats.t.ppf(0.975, k - 1)) * deviation / math.sqrt(k), tuple(values))


def published(paper: str) -> dict[str, Any]:
    """The tables of a paper, from published/."""
    content: dict[str, Any] = json.loads((PUBLISHED / f"{paper}.json").read_text())
    return content
