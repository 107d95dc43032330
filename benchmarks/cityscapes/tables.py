"""Tables of benchmarks.cityscapes; each function takes the name of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.lab.norms import norm_name
from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, of_seeds, source

Row = dict[str, Any]
CONDITIONS = {
    "clean": "clean",
    "other_drive": "other drives",
    "fog": "fog",
    "night": "night",
    "noise": "noise",
    "fgsm": "FGSM",
    "pgd": "PGD",
}
STATISTICS = {"running": "running statistics", "batch": "batches of", "stein_blend": "Stein blend, batches of"}
SCORES = {
    "mean IoU": lambda row: row["miou"],
    "pixel accuracy": lambda row: row["pixel_accuracy"],
    "precision": lambda row: row["precision"],
    "sensitivity": lambda row: row["sensitivity"],
    "F1": lambda row: row["f1"],
    "Jaccard*": lambda row: row["counting_void"]["jaccard"],
    "precision*": lambda row: row["counting_void"]["precision"],
    "sensitivity*": lambda row: row["counting_void"]["sensitivity"],
    "F1*": lambda row: row["counting_void"]["f1"],
}


def conditions(name: str) -> str:
    """Mean IoU of every norm in every mode: clean, in other places and weather, attacked."""
    result = load(name)
    rows = result["rows"]
    heads = {key: head for key, head in CONDITIONS.items() if any(row["condition"] == key for row in rows)}
    lines = [
        (way, *(_mean((row for row in found if row["condition"] == key), lambda row: row["miou"]) for key in heads))
        for way, found in _ways(rows).items()
    ]
    return markdown(("mean IoU, %", *heads.values()), lines) + _legend(result) + source(result)


def scores(name: str) -> str:
    """All scores of clean scenes; those in the way of the Stein paper's code too."""
    result = load(name)
    clean = [row for row in result["rows"] if row["condition"] == "clean"]
    lines = [(way, *(_mean(found, of) for of in SCORES.values())) for way, found in _ways(clean).items()]
    text = (
        " Scores with * are computed as the code of arXiv 2507.08261 does, which counts void pixels as wrong, means "
        "over classes that do not occur, and takes precision for sensitivity: see "
        "`benchmarks.lab.segmentation.scores_counting_void`."
    )
    return markdown(("clean scenes, %", *SCORES), lines) + _legend(result) + text + source(result)


def classes(name: str) -> str:
    """IoU of every class on clean scenes with running statistics."""
    result = load(name)
    clean = [row for row in result["rows"] if (row["condition"], row["mode"]) == ("clean", "running")]
    norms = list(dict.fromkeys(row["norm"] for row in clean))
    pixels = {of: known["pixels"] for row in clean for of, known in row["classes"].items()}
    lines = [
        (
            of,
            f"{100 * count / sum(pixels.values()):.1f}",
            *(
                _mean((row for row in clean if row["norm"] == norm), lambda row, of=of: row["classes"][of]["iou"])
                for norm in norms
            ),
        )
        for of, count in pixels.items()
    ]
    lines.append(("mean", "", *(_mean((r for r in clean if r["norm"] == n), lambda row: row["miou"]) for n in norms)))
    return markdown(("IoU, %", "of the pixels", *map(norm_name, norms)), lines) + _legend(result) + source(result)


def _ways(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by norm and mode, in words."""
    rows = list(rows)
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (norms.index(r["norm"]), list(STATISTICS).index(r["mode"]), r["batch"])):
        size = "" if row["mode"] == "running" else f" {row['batch']}"
        found.setdefault(f"{norm_name(row['norm'])}, {STATISTICS[row['mode']]}{size}", []).append(row)
    return found


def _mean(rows: Iterable[Row], of: Callable[[Row], float]) -> str:
    values = [100 * of(row) for row in rows]
    return str(of_seeds(values)) if values else ""


def _legend(result: Row) -> str:
    scenes, settings = result["scenes"], result["settings"]
    height, width = settings["size"]
    seeds = len(settings["seeds"])
    other = f", {scenes['other']} of other drives" if scenes["other"] else ""
    return (
        f"\n\n{settings['net']}, {height} x {width} pixels, {settings['epochs']} epochs of {scenes['train']} scenes in "
        f"batches of {settings['train_batch']}, {seeds} seed{'s' * (seeds > 1)}; {scenes['validation']} scenes choose "
        f"the best weights, {scenes['test']} are tested{other}."
    )


TABLES = {
    "cityscapes": lambda: conditions("cityscapes_cpu"),
    "cityscapes_scores": lambda: scores("cityscapes_cpu"),
    "cityscapes_classes": lambda: classes("cityscapes_cpu"),
}
