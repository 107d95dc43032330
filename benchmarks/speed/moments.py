"""`shrinkstats.moments` on a NumPy array against x.mean and x.var, with the speed of a copy beside them."""

from __future__ import annotations

import numpy as np

import shrinkstats
from benchmarks.lab.command import options
from benchmarks.lab.record import save, side_by_side

SHAPES = [(64, 64, 32, 32), (128, 16, 32, 32), (32, 256, 14, 14), (16, 3, 224, 224), (4, 64, 128, 256)]


def measure(shape: tuple[int, ...], order: str, repeats: int) -> dict[str, object]:
    """Median seconds for one shape; channels are axis 1 in either memory order."""
    x = np.random.default_rng(0).normal(1.0, 2.0, size=shape).astype(np.float32)
    if order == "channels-last":
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    others = tuple(i for i in range(x.ndim) if i != 1)
    out = np.empty_like(x)
    seconds = side_by_side(
        {
            "moments": lambda: shrinkstats.moments(x),
            "numpy": lambda: (x.mean(axis=others), x.var(axis=others)),
            "copy": lambda: np.copyto(out, x),
        },
        repeats=repeats,
    )
    return {"shape": list(shape), "order": order, "megabytes": x.nbytes / 1e6, "seconds": seconds}


def main() -> None:
    """Measure, print, record."""
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    repeats = parser.parse_args().repeats
    rows = [measure(shape, order, repeats) for shape in SHAPES for order in ("contiguous", "channels-last")]
    print(f"{'shape':>20} {'order':>14} {'moments':>10} {'NumPy':>10} {'ratio':>7} {'copy':>10}")
    for row in rows:
        s = row["seconds"]
        shape = "x".join(map(str, row["shape"]))
        ratio = s["numpy"] / s["moments"]
        times = " ".join(f"{1e3 * s[k]:7.3f} ms" for k in ("moments", "numpy"))
        print(f"{shape:>20} {row['order']:>14} {times} {ratio:6.1f}x {1e3 * s['copy']:7.3f} ms")
    print(f"recorded in {save('moments', {'dtype': 'float32', 'repeats': repeats, 'rows': rows})}")


if __name__ == "__main__":
    main()
