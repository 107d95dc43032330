"""Tables of what theory says, simulated."""

from __future__ import annotations

import math

from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, source


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
    """Count the cells of the phase diagrams where a rule is worse than the sample mean, and say how much at most."""
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


TABLES = {
    made.__name__: made for made in (risk_table, phase_diagram, dominance, dominance_time, lipschitz, wasserstein)
}
