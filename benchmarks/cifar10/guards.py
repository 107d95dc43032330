"""The guards of shrinkstats.adapters.attacks, applied to the rows of benchmarks.cifar10."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.cifar10.cells import BATCH, EPS
from shrinkstats.adapters.attacks import Guard, black_box_no_better, falls_to_chance, other_mates, stronger_is_worse

Row = dict[str, Any]
SUBJECT = ("net", "norm", "seed", "training", "mode")
CLASSES = 10


def guards(rows: list[Row]) -> list[Row]:
    """What the guards say of every network in every mode it was evaluated in."""
    by_subject: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_subject[tuple(row[name] for name in SUBJECT)].append(row)
    return [
        {**dict(zip(SUBJECT, subject, strict=True)), **guard._asdict()}
        for subject, found in by_subject.items()
        for guard in _judge(found)
    ]


def _judge(rows: list[Row]) -> Iterator[Guard]:
    """Judge one network in one mode."""
    images = rows[0]["images"]
    rows = [row for row in rows if row["batch"] == BATCH]

    def right(attack: str, eps: float | None = None, mates: str = "same") -> dict[float, int]:
        return {
            row["eps"]: row["right"]
            for row in sorted(rows, key=lambda row: float(row["eps"]))
            if row["attack"] == attack and row["mates"] == mates and eps in (None, row["eps"])
        }

    clean, curve, white = right("clean"), right("pgd"), right("pgd", EPS).get(EPS)
    yield stronger_is_worse({f"eps {eps:g}": count for eps, count in {**clean, **curve}.items()}, images)
    same_ball = {name: right(name, EPS).get(EPS) for name in ("fgsm", "pgd", "pgd_restarts")}
    yield stronger_is_worse({name: count for name, count in same_ball.items() if count is not None}, images)
    if curve and max(curve) > EPS:
        yield falls_to_chance(curve[max(curve)], images, classes=CLASSES)
    transferred = [row["right"] for row in rows if row["attack"] == "transfer"]
    if transferred and white is not None:
        yield black_box_no_better(white, min(transferred), images)
    if rows and rows[0]["mode"] == "batch":
        other, known = (right("pgd", EPS, mates).get(EPS) for mates in ("other", "known"))
        yield other_mates(white, other, known, images)
