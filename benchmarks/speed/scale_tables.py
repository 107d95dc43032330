"""The table and the picture of benchmarks.scale: ``python -m benchmarks.scale_tables`` draws the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, source

Row = dict[str, Any]
LOOKS = {  # rival -> colour and marker
    "moments": ("#d55e00", "D"),
    "moments of Dask": ("#e69f00", "^"),
    "NumPy": ("#0072b2", "o"),
    "Dask": ("#56b4e9", "v"),
    "StandardScaler": ("#6b6b6b", "s"),
}
CALLS = {
    "moments": "`moments`",
    "moments of Dask": "`moments` of a Dask array",
    "NumPy": "NumPy's `mean`, `var`",
    "Dask": "Dask's `mean`, `var`",
    "StandardScaler": "`StandardScaler`",
}


def scale() -> str:
    """Time and memory of every rival at every size."""
    result = load("scale")
    found = {(row["size"], row["rival"]): row for row in result["rows"]}
    sizes = sorted({size for size, _ in found})
    lines = []
    for size in sizes:
        ours = found[size, "moments"]
        speed = 4 * size / ours["seconds"] / result["copy_bandwidth"]
        where = ", a file" if ours["where"] == "file" else ""
        lines.append((_count(size) + where, *(_cell(found[size, rival]) for rival in CALLS), f"{100 * speed:.0f}%"))
    head = ("elements", *CALLS.values(), "`moments`, of a copy")
    text = (
        f"\n\nTime; memory. Last column: bytes that `moments` reads in a second, as a share of those that a copy of "
        f"{_count(result['copied'])} elements on {result['threads']} threads reads and writes "
        f"({result['copy_bandwidth'] / 1e9:.0f} GB/s). Dask {result['versions']['dask']}, "
        f"scikit-learn {result['versions']['scikit-learn']}."
    )
    return markdown(head, lines) + text + source(result)


def picture() -> Path:
    """Time and memory against size."""
    import matplotlib.pyplot as plt

    from benchmarks.lab.plots import quiet, written

    result = load("scale")
    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True, constrained_layout=True)
    for rival, (color, mark) in LOOKS.items():
        rows = sorted((r for r in result["rows"] if r["rival"] == rival and r["seconds"]), key=lambda r: r["size"])
        sizes = [r["size"] for r in rows]
        for axis, key in ((time, "seconds"), (memory, "memory")):
            axis.loglog(sizes, [r[key] for r in rows], mark + "-", color=color, label=rival, markersize=5)
    sizes = sorted({r["size"] for r in result["rows"]})
    time.loglog(sizes, [4 * n / result["copy_bandwidth"] for n in sizes], "k:", label="at the speed of a copy")
    memory.loglog(sizes, [4 * n for n in sizes], "k--", label="the data themselves")
    time.set(title="time, s", xlabel="float32 elements, in 100 channels")
    memory.set(title="memory beside the data, bytes", xlabel="float32 elements, in 100 channels")
    for axis in (time, memory):
        quiet(axis)
        axis.legend(frameon=False, fontsize=8)
    return written(figure, "scale.svg")


def _count(size: int) -> str:
    return f"{size:.0e}".replace("e+0", "e")


def _cell(row: Row) -> str:
    if row["seconds"] is None:
        return "would not fit"
    return f"{_short(row['seconds'], {'s': 1, 'ms': 1e-3})}; {_short(row['memory'], {'GB': 1e9, 'MB': 1e6, 'KB': 1e3})}"


def _short(value: float, units: dict[str, float]) -> str:
    """The value in the first unit of which there is one at least, else in the last."""
    unit, size = next(((u, s) for u, s in units.items() if value >= s), list(units.items())[-1])
    return f"{value / size:.3g} {unit}"


if __name__ == "__main__":
    print(f"written: {picture()}")
