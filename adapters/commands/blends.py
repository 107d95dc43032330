"""Bounds on the distance between blended statistics and the truth, for one strength after another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.statistics_files import Vector, statistics
from shrinkstats.values import Statistics
from shrinkstats.wasserstein import best_strength, wasserstein_bounds


@dataclass(frozen=True)
class Bounds:
    """Prop. 1 at some strengths (rows) for every channel (columns), and the strengths that make it lowest.

    `best` is each channel's; `common` the one strength for all of them that makes the mean of the bound lowest.
    """

    names: list[str]
    n: int
    alpha: float
    normalized: bool
    source: Statistics
    target: Statistics
    strength: Vector
    lower: Vector
    upper: Vector
    best: dict[str, Vector]
    best_lower: dict[str, Vector]
    best_upper: dict[str, Vector]
    common: dict[str, float]

    def means(self, strength: float) -> dict[str, float]:
        """Both bounds at one strength, averaged over the channels."""
        values = wasserstein_bounds(self.source, self.target, n=self.n, strength=strength, alpha=self.alpha)
        unit = self.source.var if self.normalized else 1.0
        return {by: float((v / unit).mean()) for by, v in zip(("lower", "upper"), values, strict=True)}

    def content(self) -> dict[str, Any]:
        """What a JSON file holds of them; an infinite strength is the text "inf"."""
        return {
            "n": self.n,
            "alpha": self.alpha,
            "normalized": self.normalized,
            "channel": self.names,
            **{
                f"{side}_{name}": vector.tolist()
                for side in ("source", "target")
                for name, vector in getattr(self, side)._asdict().items()
            },
            "strength": _json(self.strength),
            "lower": _json(self.lower),
            "upper": _json(self.upper),
            "best": {
                by: {
                    "strength": _json(self.best[by]),
                    "lower": _json(self.best_lower[by]),
                    "upper": _json(self.best_upper[by]),
                    "common_strength": _number(self.common[by]),
                }
                for by in self.best
            },
        }


def bounds(
    source: str, target: str, *, n: int, strengths: list[float], alpha: float, normalized: bool = False
) -> Bounds:
    """Both bounds from what the user said source and target are."""
    source_names, a = statistics("--source", source)
    target_names, b = statistics("--target", target)
    names = source_names or target_names or ["0"]
    if source_names and target_names and source_names != target_names:
        raise ValueError(
            f"{source} and {target} are of different channels: {_some(source_names)} and {_some(target_names)}"
        )
    a, b = (Statistics(*np.broadcast_arrays(*pair, np.empty(len(names)))[:2]) for pair in (a, b))
    if normalized and not np.all(a.var > 0):
        raise ValueError(f"{source}: --normalized divides by the source's variance, which is 0 in a channel")
    unit = a.var if normalized else np.ones_like(a.var)

    def at(strength: Any) -> tuple[Vector, Vector]:
        lower, upper = wasserstein_bounds(a, b, n=n, strength=strength, alpha=alpha)
        return lower / unit, upper / unit

    with np.errstate(over="ignore"):
        rows = [at(value) for value in strengths]
        if not np.isfinite(rows).all():
            if all(np.isfinite(lower).all() for lower, _ in rows):
                raise UsageError(f"--alpha {alpha:g} is so small that the upper bound overflows; take a larger one")
            raise ValueError(f"the squared distance between {source} and {target} overflows; use a larger unit")
    best = {by: best_strength(a, b, n=n, bound=by, alpha=alpha) for by in ("lower", "upper")}
    reached = {by: at(value) for by, value in best.items()}
    result = Bounds(
        names=names,
        n=n,
        alpha=alpha,
        normalized=normalized,
        source=a,
        target=b,
        strength=np.array(strengths),
        lower=np.array([lower for lower, _ in rows]),
        upper=np.array([upper for _, upper in rows]),
        best=best,
        best_lower={by: value[0] for by, value in reached.items()},
        best_upper={by: value[1] for by, value in reached.items()},
        common={by: float(value[0]) for by, value in best.items()},
    )
    return result if len(names) == 1 else replace(result, common={by: _common(result, by) for by in best})


def _common(result: Bounds, by: str) -> float:
    """Where the mean over the channels is lowest: on a grid over log(N/n), then between its points."""
    from scipy.optimize import minimize_scalar

    def value(log: float) -> float:
        return result.means(result.n * math.exp(log))[by]

    grid = np.linspace(-28, 28, 281)
    near = float(grid[np.argmin([value(log) for log in grid])])
    found = minimize_scalar(value, bounds=(near - 0.2, near + 0.2), method="bounded", options={"xatol": 1e-9})
    candidates = {strength: result.means(strength)[by] for strength in (0.0, result.n * math.exp(found.x), math.inf)}
    return min(candidates, key=lambda strength: candidates[strength])


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _json(values: Vector) -> Any:
    """Nested lists of numbers."""
    return [_json(v) if np.ndim(v) else _number(v) for v in values]


def _number(value: float) -> float | str:
    """Infinity as the text "inf": JSON has no number for it."""
    return "inf" if np.isinf(value) else float(value)
