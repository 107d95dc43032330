"""Tables in Markdown, where they come from, and what stands in their cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from scipy import stats


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


class OverSeeds(NamedTuple):
    """A mean over seeds in percent, and half its 95% interval; none for a single seed."""

    mean: float
    half: float | None
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.half is None else f"{self.mean:.1f} ± {self.half:.1f}"


def of_seeds(values: list[float]) -> OverSeeds:
    """The mean of one value a seed, with Student's interval."""
    k = len(values)
    mean = sum(values) / k
    if k == 1:
        return OverSeeds(mean, None, tuple(values))
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (k - 1))
    return OverSeeds(mean, float(stats.t.ppf(0.975, k - 1)) * deviation / math.sqrt(k), tuple(values))
