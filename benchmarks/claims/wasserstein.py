"""Prop. 1's bounds on the expected squared W2 of a blend against simulation, at 225 settings.

    python -m benchmarks.wasserstein [--replicates 200000]

Every mean shift and ratio of variances below, in units of the source's statistics, at every batch size and strength.
"""

from __future__ import annotations

import warnings

import numpy as np
from rich.progress import track

from benchmarks.lab.command import options
from benchmarks.lab.record import save
from shrinkstats import Statistics, wasserstein_bounds
from shrinkstats.theory.blend_distance import simulate_blend_distance

SHIFTS = [0.0, 0.25, 0.5, 1.0, 2.0]
RATIOS = [0.25, 0.5, 1.0, 2.0, 4.0]
SIZES = [2, 8, 64]
STRENGTHS = [1, 16, 256]
ERRORS = 4  # standard errors that a simulated mean may lie outside of a bound


def main() -> None:
    """Simulate, compare, record; exit with 1 if a bound does not hold."""
    parser = options(__doc__)
    parser.add_argument("--replicates", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shift, ratio = (v.ravel() for v in np.meshgrid(SHIFTS, RATIOS))
    source, target = Statistics(np.zeros_like(shift), np.ones_like(shift)), Statistics(shift, ratio)
    rows, held = [], True
    for i, (n, strength) in track(list(enumerate((n, s) for n in SIZES for s in STRENGTHS)), "settings"):
        lower, upper = wasserstein_bounds(source, target, n=n, strength=strength)
        mean, error = simulate_blend_distance(
            source, target, n=n, strength=strength, replicates=args.replicates, seed=args.seed + i
        )
        below, above = (lower - mean) / error, (mean - upper) / error
        held &= bool(np.all(np.maximum(below, above) <= ERRORS))
        columns = {"lower": lower, "mean": mean, "error": error, "upper": upper}
        rows.append({"n": n, "strength": strength, **{k: v.tolist() for k, v in columns.items()}})
        print(
            f"n {n:3d}  N {strength:3d}  "
            f"simulated over lower {np.min(mean / lower):.4f} to {np.max(mean / lower):.4f}, "
            f"upper over simulated {np.min(upper / mean):.4f} to {np.max(upper / mean):.4f}, "
            f"outside by at most {max(np.max(below), np.max(above)):.1f} standard errors"
        )
    settings = {"replicates": args.replicates, "seed": args.seed, "shift": shift.tolist(), "ratio": ratio.tolist()}
    print(f"{len(rows) * len(shift)} settings: the bounds {'hold at every one' if held else 'DO NOT HOLD'}")
    print(f"recorded in {save('wasserstein', {**settings, 'held': held, 'rows': rows})}")
    raise SystemExit(not held)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
