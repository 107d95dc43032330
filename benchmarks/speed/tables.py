"""Tables of benchmarks.moments and benchmarks.layers."""

from __future__ import annotations

from benchmarks.lab.record import load
from benchmarks.lab.tables import markdown, source
from benchmarks.speed.layers import ORDERS, geometric_mean, ratios
from benchmarks.speed.scale_tables import scale


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


TABLES = {"moments": moments, "layers": layers, "scale": scale}
