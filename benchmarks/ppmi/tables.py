"""Tables of benchmarks.ppmi; each function takes the name of a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lab.norms import norm_name
from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, source

Row = dict[str, Any]
NETS = {
    "small_cnn3d": "small 3D CNN",
    "resnet10": "3D ResNet-10",
    "resnet18": "3D ResNet-18",
    "densenet121": "3D DenseNet-121",
}
ATTACKS = {"clean": "clean", "gaussian": "Gaussian noise, variance", "fgsm": "FGSM", "pgd": "PGD"}
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def attacked(name: str) -> str:
    """Balanced accuracy of every norm in every mode, clean, noisy and attacked."""
    result = load(name)
    rows = result["rows"]
    kinds = sorted({(row["attack"], row["eps"]) for row in rows}, key=lambda kind: (list(ATTACKS).index(kind[0]), kind))
    heads = [f"{ATTACKS[attack]} {eps:g}" if eps else ATTACKS[attack] for attack, eps in kinds]

    def cells(found: Sequence[Row]) -> list[str]:
        known = {(row["attack"], row["eps"]): row["balanced_accuracy"][0] for row in found}
        return [f"{100 * known[kind]:.1f}" if kind in known else "" for kind in kinds]

    lines: list[Sequence[str]] = []
    for group, ways in _groups(rows):
        lines.append((f"*{group}*", *[""] * len(kinds)))
        lines += [(way, *cells(found)) for way, found in ways.items()]
    lines += [(of, _percent(row["balanced_accuracy"][0]), *[""] * (len(kinds) - 1)) for of, row in _extents(result)]
    widest = max((high - low for row in rows for _, low, high in [row["balanced_accuracy"]]), default=0)
    text = f" 95% intervals go at most {50 * widest:.0f} points to each side."
    return markdown(("balanced accuracy, %", *heads), lines) + _legend(result) + text + source(result)


def scores(name: str) -> str:
    """All scores of clean volumes with running statistics, with intervals."""
    result = load(name)
    clean = [row for row in result["rows"] if (row["mode"], row["attack"]) == ("running", "clean")]

    def cells(row: Row) -> list[str]:
        return [f"{_percent(row[score][0])} ({' to '.join(map(_percent, row[score][1:]))})" for score in SCORES]

    lines: list[Sequence[str]] = []
    for group, ways in _groups(clean):
        lines.append((f"*{group}*", *[""] * (len(SCORES) + 1)))
        for way, (row,) in ways.items():
            each = ", ".join(f"{100 * value:.0f}" for value in row["balanced_accuracy_by_seed"].values())
            lines.append((way.removesuffix(", running statistics"), *cells(row), each))
    lines += [(of, *cells(row), "") for of, row in _extents(result)]
    head = ("clean volumes, % (95% interval)", *SCORES.values(), "balanced accuracy of each fold")
    return markdown(head, lines) + _legend(result) + source(result)


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, list[Row]]]]:
    """The rows of every network and training batch, by norm and mode, in words."""
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    ordered = sorted(rows, key=lambda row: (norms.index(row["norm"]), row["mode"] != "running", row["batch"]))
    for net, batch in dict.fromkeys((row["net"], row["train_batch"]) for row in rows):
        ways: dict[str, list[Row]] = {}
        for row in ordered:
            if (row["net"], row["train_batch"]) == (net, batch):
                of = "running statistics" if row["mode"] == "running" else f"batches of {row['batch']}"
                ways.setdefault(f"{norm_name(row['norm'])}, {of}", []).append(row)
        yield f"{NETS[net]}, trained in batches of {batch}", ways


def _extents(result: Row) -> list[tuple[str, Row]]:
    return list(result["extents"].items())


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _legend(result: Row) -> str:
    data, settings = result["data"], result["settings"]
    size = " x ".join(map(str, data["shape"]))
    tested, folds = max((row["volumes"] for row in result["rows"]), default=0), len(settings["seeds"])
    return (
        f"\n\n{data['volumes']} volumes of {data['subjects']} subjects, {data['positive']} in the group "
        f"{', '.join(settings['positive'])}; {size} voxels; {tested} tested, in {folds} of five folds. "
        "Extents are the millimetres that a scan covers, shown to a logistic regression: what it finds is no anatomy."
    )


TABLES = {"ppmi": lambda: attacked("ppmi_cpu"), "ppmi_scores": lambda: scores("ppmi_cpu")}
