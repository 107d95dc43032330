"""Risk of estimated means over the sample mean's: which noise term is right (python -m benchmarks.risk_table).

True means are N(0, spread^2), drawn anew in every repetition; the observations' variance within a channel is 1. For the
published rule the table also has single draws of the true means, kept in every repetition: the ratio depends on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.lab.command import options
from benchmarks.lab.record import save
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein

SETTINGS = [(16, 4, 0.1), (16, 4, 1.0), (64, 32, 1.0), (16, 256, 1.0)]
CHUNK = 2_000
KEPT = 40  # single draws of the true means


def rules(channels: int, n: int) -> dict[str, Any]:
    """The rules with the variance pooled over channels; the first takes it from the spread between them instead."""
    df = channels * (n - 1)
    return {
        "channel_james_stein": ChannelJamesStein(),
        "james_stein, plain": JamesStein(positive_part=False),
        "james_stein, plain, df/(df+2)": JamesStein(positive_part=False, df=df),
        "james_stein": JamesStein(),
    }


def losses(
    channels: int, n: int, count: int, rng: np.random.Generator, means: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """Squared errors around true means of shape (count, channels) or (channels,)."""
    error = rng.standard_normal((count, channels)) / np.sqrt(n)
    df = channels * (n - 1)
    noise = rng.chisquare(df, (count, 1)) / df / n
    found = {
        name: np.sum((rule(means + error, noise) - means) ** 2, axis=1) for name, rule in rules(channels, n).items()
    }
    return {"sample mean": np.sum(error**2, axis=1), **found}


def ratio(loss: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The ratio of means, and its standard error by the delta method."""
    value = loss.mean() / base.mean()
    error = np.std(loss - value * base) / np.sqrt(len(loss)) / base.mean()
    return float(value), float(error)


def measure(channels: int, n: int, spread: float, repetitions: int, seed: int) -> dict[str, Any]:
    """A row of the table."""
    rng = np.random.default_rng(seed)
    parts = [
        losses(channels, n, CHUNK, rng, spread * rng.standard_normal((CHUNK, channels)))
        for _ in range(repetitions // CHUNK)
    ]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    base = together.pop("sample mean")
    kept = []
    for _ in range(KEPT):
        one = losses(channels, n, CHUNK, rng, spread * rng.standard_normal(channels))
        kept.append(ratio(one["channel_james_stein"], one["sample mean"])[0])
    return {
        "channels": channels,
        "n": n,
        "spread": spread,
        "ratio": {name: ratio(loss, base) for name, loss in together.items()},
        "kept": [min(kept), max(kept)],
    }


def main() -> None:
    """Measure, print, record."""
    parser = options(__doc__)
    parser.add_argument("--repetitions", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = [measure(*setting, arguments.repetitions, arguments.seed) for setting in SETTINGS]
    for row in rows:
        cells = ", ".join(f"{name} {value:.4g} ± {error:.1g}" for name, (value, error) in row["ratio"].items())
        print(f"c {row['channels']}, n {row['n']}, spread {row['spread']}: {cells}; kept means {row['kept']}")
    print(f"recorded in {save('risk_table', {**vars(arguments), 'kept_draws': KEPT, 'rows': rows})}")


if __name__ == "__main__":
    main()
