"""Tables of benchmarks.cifar10, alone and beside the published ones; each function takes the name of a result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.cifar10.cells import EPS, SPREAD
from benchmarks.cifar10.results import Row, Setting, accuracy, chosen, published, settings
from benchmarks.lab.norms import norm_name
from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, of_seeds, source
from shrinkstats.adapters.attacks import stronger_is_worse

COLUMNS = {  # attack and strength -> head of its column
    ("clean", 0.0): "clean",
    ("gaussian", 0.25): "Gaussian noise",
    ("cauchy", 0.1): "clipped Cauchy",
    ("gradient", EPS): "gradient",
    ("fgsm", EPS): "FGSM",
    ("bim_5", 5 / 255): "BIM, 5 steps of 1/255",
    ("bim", EPS): "BIM",
    ("pgd", EPS): "PGD",
    ("pgd_restarts", EPS): "PGD, 3 restarts",
    ("pgd_l2", EPS): "PGD, l2",
    ("occlusion", 7.0): "occlusion, 7 x 7 pixels",
}
PAPER_COLUMNS = {key: head for key, head in COLUMNS.items() if key[0] in ("clean", "gaussian", "fgsm", "bim", "pgd")}
STANDARDIZED = {  # the same, for a paper that measures them in standard deviations of the pixels
    (attack, eps * (SPREAD**2 if attack == "gaussian" else SPREAD)): head
    for (attack, eps), head in PAPER_COLUMNS.items()
}
BY_GRADIENTS = ("gradient", "fgsm", "bim", "bim_5", "pgd", "pgd_restarts", "pgd_l2")  # what the guards speak of
MARKS = {"stronger is worse": "s", "falls to chance": "c", "black box no better": "b", "other mates": "m"}
TEST_IMAGES = 10_000  # of CIFAR-10 and CIFAR-100


def attacked(name: str) -> str:
    """Accuracy of every norm in both modes under every attack."""
    result = load(name)
    rows = result["rows"]
    columns = {
        (attack, eps): head
        for (attack, eps), head in COLUMNS.items()
        if any((row["attack"], row["eps"]) == (attack, eps) for row in rows)
    }
    lines = _grouped(
        settings(rows),
        lambda setting: [_cell(result, setting, *key) for key in columns],
        len(columns),
    )
    return markdown(("accuracy, %", *columns.values()), lines) + _legend(result) + source(result)


def beside_published(name: str) -> str:
    """Ours, with strengths in units of either kind, and what the RobustNorm paper printed for the same setting."""
    result, paper = load(name), published("robustnorm")

    def lines_of(setting: Setting) -> list[tuple[str, ...]]:
        lines = [
            (f"**{setting.label}**; {unit}", *(_cell(result, setting, *key) for key in columns))
            for unit, columns in (("range of a pixel", PAPER_COLUMNS), ("standard deviation", STANDARDIZED))
        ]
        for table in paper["tables"]:
            for row in table["rows"]:
                if table["dataset"] == "cifar10" and Setting(*(row[n] for n in Setting._fields)) == setting:
                    cells = (_printed(row, attack) for attack, _ in PAPER_COLUMNS)
                    lines.append((f"{paper['name']}, table {table['table']}: {row['printed']}", *cells))
        return lines

    rows: list[tuple[str, ...]] = []
    group = ""
    for setting in settings(result["rows"]):
        lines = lines_of(setting)
        if len(lines) == 2:
            continue
        if setting.group != group:
            group = setting.group
            rows.append((f"*{group}*", *[""] * len(PAPER_COLUMNS)))
        rows += lines
    head = ("accuracy, %", *PAPER_COLUMNS.values())
    return markdown(head, rows) + _legend(result) + f" The paper: {paper['setup']}" + source(result)


def mates(name: str) -> str:
    """Batch statistics under PGD: among the mates of the attack, among others, and where the attack knew of them.

    And under an attack that was made on the same weights with running statistics.
    """
    result = load(name)
    found = [s for s in settings(result["rows"]) if s.mode == "batch"]
    kinds = {"same": "same mates", "other": "other mates", "known": "other mates, known before"}

    def cells(setting: Setting) -> list[str]:
        other_mode = [row for row in chosen(result["rows"], setting, "transfer") if row["source"] == setting.norm]
        among = [_cell(result, setting, "pgd", EPS, mates=kind) for kind in kinds]
        return [*among, str(accuracy(other_mode) or "")]

    head = ("accuracy under PGD, %", *kinds.values(), "made with running statistics")
    return markdown(head, _grouped(found, cells, len(head) - 1)) + _legend(result) + source(result)


def transferred(name: str) -> str:
    """Images attacked on one norm's network, shown to another's; the diagonal is the attack on the network itself."""
    result = load(name)
    rows = result["rows"]
    made = {row["source"] for row in rows if row["attack"] == "transfer"}
    sources = list(dict.fromkeys(row["norm"] for row in rows if row["norm"] in made))
    if not sources:
        return "Not measured." + source(result)

    def cells(setting: Setting) -> list[str]:
        found = []
        for norm in sources:
            if norm == setting.norm:
                found.append(f"*{_cell(result, setting, 'pgd', EPS)}*")
            else:
                at = accuracy(row for row in chosen(rows, setting, "transfer") if row["source"] == norm)
                found.append("" if at is None else str(at))
        return found

    lines = _grouped(settings(rows), cells, len(sources))
    head = ("accuracy, %; attacked by PGD on", *(norm_name(norm) for norm in sources))
    text = " In italics: the attack on the network itself, in the mode of its row."
    return markdown(head, lines) + _legend(result) + text + source(result)


def guarded(name: str) -> str:
    """What the guards say: how many seeds passed, and the first failure in numbers."""
    result = load(name)
    names = list(dict.fromkeys(guard["name"] for guard in result["guards"]))

    def cells(setting: Setting) -> list[str]:
        return [_verdict([g for g in _guards(result, setting) if g["name"] == guard]) for guard in names]

    lines = _grouped(settings(result["guards"]), cells, len(names))
    return markdown(("guards passed", *names), lines) + source(result)


def trained(name: str) -> str:
    """How the networks were trained, and what their best weights reached in validation."""
    result = load(name)
    rows = [{**row, "mode": "running"} for row in result["trainings"]]

    def cells(setting: Setting) -> list[str]:
        found = [row for row in rows if Setting(*(row[n] for n in Setting._fields)) == setting]
        histories = [row["history"] for row in found if "failed" not in row]
        broken = f"{len(found) - len(histories)} of {len(found)}" if len(histories) < len(found) else ""
        if not histories:
            return ["", "", "", "", broken]
        by = next(iter(histories[0][0]["scores"]))  # what the best weights were chosen by
        best = [max(history, key=lambda epoch: epoch["scores"][by])["scores"] for history in histories]
        scores = [
            str(of_seeds([100 * scores[mode] for scores in best])) if mode in best[0] else ""
            for mode in ("running", "batch")
        ]
        passes = {(sum(e["forward"] for e in h), sum(e["backward"] for e in h)) for h in histories}
        forward, backward = max(passes)
        epochs = f"{max(map(len, histories))}"
        return [epochs, f"{forward:,} + {backward:,}", *scores, broken]

    head = (
        "trained",
        "epochs",
        "forward + backward passes",
        "validation, running statistics, %",
        "validation, batch statistics, %",
        "broke down",
    )
    return markdown(head, _grouped(settings(rows), cells, len(head) - 1, bare=True)) + source(result)


def published_guarded() -> str:
    """Published rows in which many steps left more accuracy than one step of the same size did."""
    paper = published("robustnorm")
    rows, tried = [], 0
    for table in paper["tables"]:
        for row in table["rows"]:
            if not {"fgsm", "bim", "pgd"} <= row["accuracy"].keys():
                continue
            tried += 1
            right = {a: round(row["accuracy"][a] / 100 * TEST_IMAGES) for a in ("fgsm", "bim", "pgd")}
            failed = [
                COLUMNS[a, EPS]
                for a in ("bim", "pgd")
                if not stronger_is_worse({"fgsm": right["fgsm"], a: right[a]}, TEST_IMAGES).passed
            ]
            if failed:
                dataset = table["dataset"].upper().replace("CIFAR", "CIFAR-")
                where = f"table {table['table']}, {dataset}, {row['net']}, {row['training']}: {row['printed']}"
                rows.append((where, *(f"{row['accuracy'][a]:.2f}" for a in right), ", ".join(failed)))
    text = (
        f"\n\n{len(rows)} of {tried} rows of the {paper['name']}; 3 binomial standard errors of {TEST_IMAGES:,} images."
    )
    return markdown(("accuracy, %", "FGSM", "BIM", "PGD", "more than FGSM left"), rows) + text


def published_abnn() -> str:
    """The tables of the ABNN slides."""
    paper = published("abnn")
    rows = []
    for table in paper["tables"]:
        dataset = table["dataset"].upper().replace("CIFAR", "CIFAR-").replace("UCF", "UCF-")
        for row in table["rows"]:
            ((attack, left),) = ((a, v) for a, v in row["accuracy"].items() if a != "clean")
            name = {"pgd": "PGD", "occlusion": "occlusion"}[attack]
            rows.append(
                (f"{dataset}: {row['printed']}", f"{row['accuracy']['clean']:.1f}", f"{name} {left:.1f}", row["cost"])
            )
    return markdown(("accuracy, %", "clean", "attacked", "passes of a training step"), rows) + f"\n\n{paper['setup']}"


def _grouped(found: list[Setting], cells: Any, width: int, *, bare: bool = False) -> list[tuple[str, ...]]:
    """A line for every setting, under a line for its network and training; `bare` names the norm alone."""
    lines: list[tuple[str, ...]] = []
    group = ""
    for setting in found:
        if setting.group != group:
            group = setting.group
            lines.append((f"*{group}*", *[""] * width))
        lines.append((norm_name(setting.norm) if bare else setting.label, *cells(setting)))
    return lines


def _cell(result: dict[str, Any], setting: Setting, attack: str, eps: float, *, mates: str = "same") -> str:
    """The mean over seeds, with the marks of the guards that failed; empty where nothing was measured."""
    found = accuracy(row for row in chosen(result["rows"], setting, attack, mates=mates) if row["eps"] == eps)
    if found is None:
        return ""
    failed = {MARKS[g["name"]] for g in _guards(result, setting) if g["passed"] is False}
    marks = ",".join(sorted(failed)) if attack in BY_GRADIENTS else ""
    return f"{found}<sup>{marks}</sup>" if marks else str(found)


def _printed(row: Row, attack: str) -> str:
    """A published accuracy with its interval, to the digits of the paper."""
    if attack not in row["accuracy"]:
        return ""
    half = row.get("interval", {}).get(attack)
    return f"{row['accuracy'][attack]:.2f}" + ("" if half is None else f" ± {half:.2f}")


def _guards(result: dict[str, Any], setting: Setting) -> list[Row]:
    """What the guards said of a setting, all seeds."""
    wanted = setting._asdict()
    return [g for g in result["guards"] if all(g[name] == value for name, value in wanted.items())]


def _verdict(guards: list[Row]) -> str:
    judged = [guard for guard in guards if guard["passed"] is not None]
    if not judged:
        return ""
    failed = [guard for guard in judged if not guard["passed"]]
    return f"{len(judged) - len(failed)} of {len(judged)}" + (f"; {failed[0]['detail']}" if failed else "")


def _legend(result: dict[str, Any]) -> str:
    """How to read a cell: images, seeds, intervals, and the marks that occur."""
    seeds = sorted({row["seed"] for row in result["rows"]})
    images = max((row["images"] for row in result["rows"]), default=0)
    text = f"\n\n{images:,} test images"
    text += f", {len(seeds)} seeds, ± half a 95% interval over them (Student's t)." if len(seeds) > 1 else ", one seed."
    text += f" That other images might have been drawn adds up to ± {98 / math.sqrt(max(images, 1)):.1f}."
    failed = {guard["name"] for guard in result["guards"] if guard["passed"] is False}
    if failed:
        said = ", ".join(f"{mark} {name}" for name, mark in MARKS.items() if name in failed)
        text += f" Raised letters: a guard failed in some seed, so that the attack may be too weak ({said})."
    return text


def tables(name: str) -> dict[str, Callable[[], str]]:
    """The functions above for one recorded result, by the names that the pages know them by."""
    makers = (attacked, beside_published, mates, transferred, guarded, trained)
    return {f"{name}_{maker.__name__}": lambda maker=maker: maker(name) for maker in makers}


TABLES = {
    **tables("cifar10_cpu"),
    "published_guarded": published_guarded,
    "published_abnn": published_abnn,
}
