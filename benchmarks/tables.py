"""Write the tables of README.md and docs/ from the recorded results.

    python -m benchmarks.tables [--check]

A table stands between the lines <!-- table: NAME --> and <!-- end -->; NAME is the function below that makes it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.layers import ORDERS, geometric_mean, ratios
from benchmarks.record import load

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(result: dict[str, Any]) -> str:
    """Where a table comes from."""
    m = result["machine"]
    return (
        f"\n\n<sub>`{result['command']}`, {result['date']}, {m['processor']}, {m['cores']} cores, "
        f"Python {m['python']}, NumPy {m['numpy']}, torch {m['torch']}</sub>"
    )


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


def cifar_noise() -> str:
    """Accuracy of a CIFAR-10 network by rule, shift and batch size."""
    result = load("cifar_noise")
    rules = list(result["rows"][0]["accuracy"])
    rows = [
        (f"{r['shift']}, batch {r['batch']}", *(f"{100 * r['accuracy'][rule]:.1f}%" for rule in rules))
        for r in result["rows"]
    ]
    error = 100 * 0.5 / result["images"] ** 0.5
    head = f"{result['images']} images, seed {result['seed']}, standard error at most {error:.1f} points"
    return markdown((head, *rules), rows) + source(result)


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


TABLES: dict[str, Callable[[], str]] = {"moments": moments, "cifar_noise": cifar_noise, "layers": layers}


def filled(text: str) -> str:
    """The text with every table in it made anew."""
    return MARK.sub(lambda m: f"<!-- table: {m[1]} -->\n{TABLES[m[1]]()}\n<!-- end -->", text)


def main() -> None:
    """Write the tables, or check that they are as the results say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        if (new := filled(text)) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new)
    for path in stale:
        print(f"{path}: {'out of date; run python -m benchmarks.tables' if check else 'written'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
