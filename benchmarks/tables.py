"""Write the tables of README.md and docs/ from the recorded results.

    python -m benchmarks.tables [--check]

A table stands between the lines <!-- table: NAME --> and <!-- end -->; NAME is the function below that makes it.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks import cifar_tables, cityscapes_tables, ppmi_tables, scale_tables
from benchmarks.adaptation import accuracies
from benchmarks.layers import ORDERS, geometric_mean, ratios
from benchmarks.markdown import markdown, source
from benchmarks.record import load
from shrinkstats._files import whole

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def moments() -> str:
    """Times of `moments`, NumPy and a copy."""
    result = load("moments")
    rows = [
        (
            f"{'x'.join(map(str, r['shape']))} {r['order']}",
            *(f"{1e3 * r['seconds'][k]:.2f} ms" for k in ("moments", "numpy")),
            f"{r['seconds']['numpy'] / r['seconds']['moments']:.1f}",
            f"{1e3 * r['seconds']['copy']:.2f} ms",
        )
        for r in result["rows"]
    ]
    return markdown(("float32 array", "`moments`", "`x.mean`, `x.var`", "ratio", "copy"), rows) + source(result)


def layers() -> str:
    """Training steps of the layer, of nn.BatchNorm, and of the same rule in plain operations."""
    result = load("layers")
    names = ("ours", "nn.BatchNorm", "plain operations")
    rows = []
    for r in result["rows"]:
        s, e = r["seconds"]["training step"], r["seconds"]["evaluation"]
        rows.append(
            (
                f"{'x'.join(map(str, r['shape']))} {r['order']}",
                *(f"{1e3 * s[n]:.2f} ms" for n in names),
                f"{s['ours'] / s['nn.BatchNorm']:.2f}",
                f"{e['ours'] / e['nn.BatchNorm']:.2f}",
            )
        )
    for order in ORDERS:
        means = [
            geometric_mean(ratios(result["rows"], what, order, "nn.BatchNorm"))
            for what in ("training step", "evaluation")
        ]
        rows.append((f"geometric mean, {order}", "", "", "", *(f"**{m:.2f}**" for m in means)))
    head = ("training step", "`ShrinkBatchNorm`", "`nn.BatchNorm`", "plain operations", "ratio", "ratio in evaluation")
    return markdown(head, rows) + source(result)


def risk_table() -> str:
    """Risks of shrunken means over the sample mean's: noise between channels against sampling noise."""
    result = load("risk_table")
    rows = []
    for r in result["rows"]:
        published, plain, cut = (r["ratio"][k] for k in ("channel_james_stein", "james_stein, plain", "james_stein"))
        rows.append(
            (
                f"c {r['channels']}, n {r['n']}, spread {r['spread']:g}",
                _with_error(published),
                f"{r['kept'][0]:.2g} to {r['kept'][1]:.3g}",
                _with_error(plain),
                _with_error(cut),
            )
        )
    head = (
        "risk over the sample mean's",
        "`channel_james_stein`",
        f"the same, one draw of the means ({result['kept_draws']} tried)",
        "`james_stein` without positive part",
        "`james_stein`",
    )
    return markdown(head, rows) + source(result)


def _with_error(value: tuple[float, float]) -> str:
    """A ratio to the digits that its standard error leaves."""
    mean, error = value
    digits = max(0, -math.floor(math.log10(error)))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def phase_diagram() -> str:
    """In how many cells of the phase diagrams a rule is worse than the sample mean, and how much at most."""
    result = load("phase_diagram")
    kinds = list(dict.fromkeys((p["model"], p["common"]) for p in result["panels"]))
    rules = list(dict.fromkeys(p["rule"] for p in result["panels"]))
    rows = []
    for model, common in sorted(kinds, key=lambda kind: kind[1]):
        cells = []
        for rule in rules:
            found = [p for p in result["panels"] if (p["model"], p["common"], p["rule"]) == (model, common, rule)]
            signs = "".join("".join(p["sign"]) for p in found)
            still = f", {signs.count('0')} open" if "0" in signs else ""
            largest = max(ratio for p in found for row in p["ratio"] for ratio in row)
            cells.append(f"{signs.count('+')} of {len(signs)}{still}; {largest:.4g}")
        rows.append((f"{model}, {'the batch' if common else 'every observation'}", *cells))
    names = ("James-Stein, noise of the attacked sample", "James-Stein, noise of a clean sample", "published rule")
    return markdown(("worse at; largest ratio of risks", *names), rows) + source(result)


def dominance() -> str:
    """How often `verify_dominance` decides between rules that tie."""
    result = load("dominance")
    rows = [
        (r["pair"], f"{r['wrong']} of {result['seeds']}", f"{100 * r['at_most']:.1f}%")
        for r in result["false_verdicts"]
    ]
    head = (
        f"two rules of the same risk, confidence {result['confidence']:g}",
        "wrong verdicts",
        "rate at most (95% bound)",
    )
    return markdown(head, rows) + source(result)


def dominance_time() -> str:
    """How long `verify_dominance` takes to decide, and to simulate."""
    result = load("dominance")
    speed = result["speed"]
    rows = [
        (f"{r['rule']}: {r['verdict']}", f"{r['seconds']:.3f} s", f"{r['replicates']:,}", "") for r in result["power"]
    ]
    for name, seconds in speed["seconds"].items():
        what = f"{speed['dim']} channels, {speed['radii']} radii, {name}"
        faster = speed["seconds"]["NumPy"] / seconds
        rows.append((what, f"{seconds:.2f} s", f"{speed['replicates']:,} a radius", f"{faster:.1f}"))
    head = ("8 channels, radii 0 to 10, until decided", "time", "replicates", "times as fast as NumPy")
    return markdown(head, rows) + source(result)


def lipschitz() -> str:
    """Lipschitz constants of two layers, statistics frozen and moving."""
    result = load("lipschitz")
    rules = list(next(iter(result["layers"].values()))["rows"][0]["rules"])
    rows = [
        (
            f"{name}, batch {r['batch']}",
            *(f"{r['rules'][rule]['frozen'][0]:.2f} / {r['rules'][rule]['through'][0]:.2f}" for rule in rules),
        )
        for name, layer in result["layers"].items()
        for r in layer["rows"]
        if r["batch"] in (1, 8, 128)
    ]
    head = (f"frozen / through, mean of {result['batches']} batches", *rules)
    return markdown(head, rows) + source(result)


def wasserstein() -> str:
    """Simulated distances of a blend between their bounds."""
    result = load("wasserstein")
    rows, settings = [], 0
    for r in result["rows"]:
        lower, mean, error, upper = ([float(v) for v in r[k]] for k in ("lower", "mean", "error", "upper"))
        settings += len(mean)
        low = [m / b for m, b in zip(mean, lower, strict=True)]
        high = [b / m for m, b in zip(mean, upper, strict=True)]
        outside = max(max(b - m, m - t) / e for b, m, e, t in zip(lower, mean, error, upper, strict=True))
        rows.append(
            (
                f"n = {r['n']}, N = {r['strength']}",
                f"{min(low):.3f} to {max(low):.3f}",
                f"{min(high):.3f} to {max(high):.3f}",
                f"{max(outside, 0):.1f} standard errors",
            )
        )
    held = "within" if result["held"] else "NOT within"
    head = (
        f"{settings} settings, {result['replicates']:,} batches each: {held} the bounds at every one",
        "simulated over lower",
        "upper over simulated",
        "outside by at most",
    )
    return markdown(head, rows) + source(result)


RULE_NAMES = {"N=0": "batch statistics (N = 0)", "N=inf": "trained statistics (N = ∞)", "SteinBlend": "Stein blend"}


def _rule(name: str) -> str:
    return RULE_NAMES.get(name, name.replace("=", " = "))


def _cell(shift: str, severity: int, size: int) -> str:
    return f"{shift.replace('_', ' ')} {severity}, n = {size}" if severity else f"no shift, n = {size}"


def adaptation(name: str = "adaptation") -> str:
    """The grid: mean accuracy, regret and worst cell of every rule."""
    result = load(name)
    found = result["summary"]
    rows = []
    for rule, accuracy in found["mean_accuracy"].items():
        worst = found["worst_regret"][rule]
        regret = found["mean_regret"][rule]
        row = (_rule(rule), f"{accuracy:.2f}%", f"{regret:.2f}", f"{worst['points']:.1f}", _cell(*worst["cell"]))
        rows.append([f"**{c}**" for c in row] if rule == "SteinBlend" else row)
    rows.append(("the best N of each cell, in hindsight", f"{found['hindsight']:.2f}%", "0", "", ""))
    text = (
        f"\n\n{found['cells']} cells of {result['images']} images. Regret: points of accuracy below the best N of the "
        "cell, known only in hindsight."
    )
    head = ("rule", "mean accuracy", "mean regret", "worst regret", "in the cell")
    return markdown(head, rows) + text + source(result)


def adaptation_cost() -> str:
    """What adaptation adds to a forward pass, and what batch size 1 does."""
    result = load("adaptation")
    trained, adapted = result["overhead"].values()
    (small, one), (large, many) = result["groups"].items()
    rows = [
        ("a batch of 64, as trained", f"{1e3 * trained:.1f} ms", "1"),
        ("the same, adapted", f"{1e3 * adapted:.1f} ms", f"{adapted / trained:.2f}"),
        (f"1,024 images, adapted, n = {large}", f"{1e3 * many:.1f} ms", "1"),
        (f"the same, n = {small}", f"{1e3 * one:.1f} ms", f"{one / many:.2f}"),
    ]
    return markdown(("evaluation of the ResNet-20, 2 threads", "time", "ratio"), rows) + source(result)


def adaptation_shifts() -> str:
    """Accuracy under every corruption, averaged over its severities."""
    result = load("adaptation")
    table = accuracies(result["rows"])
    sizes = [n for n in (1, 16, 128) if n in result["batches"]]
    rules = [("N=0", n) for n in sizes[1:]] + [("SteinBlend", n) for n in sizes]
    rows = []
    for shift in dict.fromkeys(name for name, *_ in table):

        def mean(rule: str, n: int, shift: str = shift) -> float:
            found = [v[rule] for (name, _, size), v in table.items() if (name, size) == (shift, n)]
            return 100 * sum(found) / len(found)

        values = [mean("N=inf", sizes[0]), *(mean(*rule) for rule in rules)]
        rows.append((shift.replace("_", " ").replace("none", "no shift"), *(f"{v:.1f}%" for v in values)))
    head = ("shift", "trained statistics", *(f"{_rule(rule).split(' (')[0]}, n = {n}" for rule, n in rules))
    return markdown(head, rows) + source(result)


def adaptation_losses() -> str:
    """The cells where the Stein blend loses most."""
    result = load("adaptation")
    rows = []
    for cell, found in accuracies(result["rows"]).items():
        best = max((rule for rule in found if rule != "SteinBlend"), key=lambda rule: found[rule])
        rows.append((found[best] - found["SteinBlend"], cell, best, found))
    rows.sort(key=lambda row: -row[0])
    head = ("cell", "trained statistics", "best N of the cell", "its accuracy", "Stein blend", "regret")
    lines = [
        (
            _cell(*cell),
            f"{100 * found['N=inf']:.1f}%",
            _rule(best),
            f"{100 * found[best]:.1f}%",
            f"{100 * found['SteinBlend']:.1f}%",
            f"{100 * regret:.1f}",
        )
        for regret, cell, best, found in rows[:8]
    ]
    worst = result["summary"]["worst_loss_to_trained"]
    below, above = sum(regret > 0.01 for regret, *_ in rows), sum(regret < 0 for regret, *_ in rows)
    text = (
        f"\n\nBelow the trained network by at most {worst['points']:.1f} points ({_cell(*worst['cell'])}). Below "
        f"the best N by more than a point in {below} of {len(rows)} cells, above it in {above}."
    )
    return markdown(head, lines) + text + source(result)


def mixed_set() -> str:
    """The control: the same images in batches of one shift, and shuffled."""
    result = load("mixed_set")
    found = {(r["order"], r["rule"], r["batch"]): r for r in result["rows"]}
    rules = list(dict.fromkeys(rule for _, rule, _ in found))
    rows = [
        (
            f"{'a batch of one shift' if order == 'apart' else 'all shifts shuffled'}, n = {n}",
            f"{100 * found[order, rules[0], n]['accuracy']:.1f}%",
            *(
                f"{100 * r['accuracy']:.1f}% ({100 * r['above']:+.1f} ± {100 * r['standard_error']:.1f})"
                for r in (found[order, rule, n] for rule in rules[1:])
            ),
        )
        for order, n in dict.fromkeys((order, n) for order, _, n in found)
    ]
    text = (
        f"\n\n{result['sets']} shifts (corruptions at severities 1 to 5) of {result['images']} images each. "
        "In brackets the points above the trained statistics on the same images, ± one standard error over batches."
    )
    return markdown(("batches", *map(_rule, rules)), rows) + text + source(result)


def streams() -> str:
    """Memory of a stream of small batches."""
    result = load("streams")
    rows = [
        (
            str(r["batch"]),
            {0: "trained statistics", None: "every batch alone"}.get(r["memory"], f"memory {r['memory']}"),
            f"{100 * r['accuracy']:.1f}%",
            f"{100 * r['early']:.1f}%",
        )
        for r in result["rows"]
    ]
    shifts = ", ".join(
        f"{name.replace('_', ' ')} {severity}" if severity else name for name, severity in result["shifts"]
    )
    head = ("images in a batch", "statistics", "all images", f"the first {result['early']} after a change")
    text = f"\n\nOne after the other, {result['images']} images each: {shifts}."
    return markdown(head, rows) + text + source(result)


def blend_rules() -> str:
    """What was tried for the Stein blend."""
    result = load("blend_rules")
    stein, *others = result["rules"]
    parts = list(result["rules"][stein])
    right: dict[str, dict[tuple[str, int, int], int]] = defaultdict(dict)
    for r in result["rows"]:
        right[r["rule"]][r["shift"], r["severity"], r["batch"]] = sum(r["right"])

    def lost(rule: str) -> str:
        """Points below the trained network, in the worst cell."""
        worst = max(trained - right[rule][cell] for cell, trained in right["trained statistics"].items())
        return f"{100 * worst / result['images']:.1f}"

    best = result["rules"][stein]
    rows = [(f"**{stein}**, accuracy", *(f"{best[part]['accuracy']:.2f}%" for part in parts), lost(stein))]
    rows += [
        (
            name,
            *(f"{c['above']:+.2f} ± {c['standard_error']:.2f}" for c in map(result["rules"][name].get, parts)),
            lost(name),
        )
        for name in others
    ]
    text = (
        f"\n\nPoints of accuracy above the Stein blend's, ± one standard error; {result['images']} images a cell. Last "
        "column: points below the trained network in the worst cell."
    )
    return markdown(("rule", *parts, "worst loss"), rows) + text + source(result)


def shift() -> str:
    """How far the error predicted from the distance is off."""
    result = load("shift")
    rows = [
        (kind, f"{line['slope']:.2f}", f"{100 * line['fitted']:.1f}", f"{100 * line['held_out']:.1f}")
        for kind, line in result["predictors"].items()
    ]
    head = ("held out", "slope of the line", "off where it was fitted, points", "off on what was held out, points")
    text = f"\n\n{result['images']} images a shift, severities {', '.join(map(str, result['severities']))}."
    return markdown(head, rows) + text + source(result)


TABLES: dict[str, Callable[[], str]] = {
    "moments": moments,
    "layers": layers,
    "risk_table": risk_table,
    "phase_diagram": phase_diagram,
    "dominance": dominance,
    "dominance_time": dominance_time,
    "lipschitz": lipschitz,
    "wasserstein": wasserstein,
    "adaptation": adaptation,
    "adaptation_cost": adaptation_cost,
    "adaptation_vgg16": lambda: adaptation("adaptation_vgg16"),
    "adaptation_shifts": adaptation_shifts,
    "adaptation_losses": adaptation_losses,
    "mixed_set": mixed_set,
    "streams": streams,
    "blend_rules": blend_rules,
    "shift": shift,
    "scale": scale_tables.scale,
    **cifar_tables.tables("cifar10_cpu"),
    "published_guarded": cifar_tables.published_guarded,
    "published_abnn": cifar_tables.published_abnn,
    "ppmi": lambda: ppmi_tables.attacked("ppmi_cpu"),
    "ppmi_scores": lambda: ppmi_tables.scores("ppmi_cpu"),
    "cityscapes": lambda: cityscapes_tables.conditions("cityscapes_cpu"),
    "cityscapes_scores": lambda: cityscapes_tables.scores("cityscapes_cpu"),
    "cityscapes_classes": lambda: cityscapes_tables.classes("cityscapes_cpu"),
}


def filled(text: str, missing: list[str]) -> str:
    """The text with every table in it made anew; one without a recorded result stays as it is, and is named."""

    def made(mark: re.Match[str]) -> str:
        try:
            return f"<!-- table: {mark[1]} -->\n{TABLES[mark[1]]()}\n<!-- end -->"
        except FileNotFoundError:
            missing.append(mark[1])
            return mark[0]

    return MARK.sub(made, text)


def main() -> None:
    """Write the tables, or check that they are as the results say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    check = parser.parse_args().check
    stale: list[Path] = []
    missing: list[str] = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        if (new := filled(text, missing)) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                with whole(path) as temporary:
                    temporary.write_text(new)
    for path in stale:
        print(f"{path}: {'out of date; run python -m benchmarks.tables' if check else 'written'}")
    for name in missing:
        print(f"{name}: not recorded yet; run its benchmark")
    sys.exit(1 if missing or (check and stale) else 0)


if __name__ == "__main__":
    main()
