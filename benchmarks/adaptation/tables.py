"""Tables of benchmarks.adaptation and of the smaller studies around it."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.adaptation.study import accuracies
from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, source

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


TABLES = {
    made.__name__: made
    for made in (
        adaptation,
        adaptation_cost,
        adaptation_shifts,
        adaptation_losses,
        mixed_set,
        streams,
        blend_rules,
        shift,
    )
} | {"adaptation_vgg16": lambda: adaptation("adaptation_vgg16")}
