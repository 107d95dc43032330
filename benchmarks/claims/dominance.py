"""verify_dominance: how often its verdicts are wrong, how soon it decides, and how fast it simulates.

python -m benchmarks.dominance [--seeds 400] [--repeats 5]
"""

from __future__ import annotations

import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.lab.command import options
from benchmarks.lab.record import save, side_by_side
from shrinkstats.estimators import Stein
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.noise import Gaussian
from shrinkstats.theory.rules import JamesStein, SampleMean
from shrinkstats.theory.simulation import BLOCK, Point, Problem, simulate

CONFIDENCE = 0.95
BUDGET = 2**17
RADII = (0.0, 1.0, 2.0, 4.0, 8.0)
COUNT, DIM = 10**6, 64
CHUNK = 10_000  # replicates at once: straightforward NumPy as one writes it who knows about caches


def plain(constant: float, df: float | None = None) -> JamesStein:
    """James-Stein without the positive part; constants k and 2 - k have the same risk at every true mean."""
    return JamesStein(constant=constant, positive_part=False, df=df)


def in_numpy(mean: np.ndarray[Any, Any], noise: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The positive part, written otherwise than in the package."""
    return mean - np.minimum((mean.shape[1] - 2) * noise / np.sum(mean**2, axis=1, keepdims=True), 1) * mean


TIES: dict[str, dict[str, Any]] = {
    "James-Stein against itself": {"estimator": JamesStein(), "baseline": JamesStein(), "dim": 8},
    "James-Stein against itself, computed otherwise": {
        "estimator": in_numpy,
        "baseline": JamesStein(),
        "dim": 8,
        "budget": 2**14,
    },
    "twice the constant": {"estimator": plain(2.0), "dim": 8, "known_variance": 1.0},
    "twice the constant, 64 channels": {"estimator": plain(2.0), "dim": 64, "known_variance": 1.0},
    "twice the constant, 3 channels (infinite variance)": {"estimator": plain(2.0), "dim": 3, "known_variance": 1.0},
    "twice the constant, 5 channels (heavy tail)": {"estimator": plain(2.0), "dim": 5, "known_variance": 1.0},
    "twice the constant, variance estimated": {"estimator": plain(2.0, df=24.0), "dim": 8, "n": 4},
    "half the constant against 1.5 times": {
        "estimator": plain(0.5),
        "baseline": plain(1.5),
        "dim": 16,
        "known_variance": 1.0,
    },
}


def false_verdicts(seeds: int) -> list[dict[str, Any]]:
    """Verdicts about pairs that tie at every true mean."""
    rows = []
    for name, question in TIES.items():
        start = time.perf_counter()
        options = {"n": 16, "radii": RADII, "confidence": CONFIDENCE, "budget": BUDGET, "refine": 4, **question}
        verdicts = Counter(
            verify_dominance(seed=seed, certificate=False, progress=False, **options).verdict for seed in range(seeds)
        )
        wrong = seeds - verdicts["undecided"]
        at_most = float(beta.ppf(0.95, wrong + 1, seeds - wrong)) if wrong < seeds else 1.0  # Clopper & Pearson (1934)
        seconds = time.perf_counter() - start
        rows.append({"pair": name, "verdicts": dict(verdicts), "wrong": wrong, "at_most": at_most, "seconds": seconds})
        print(f"{name:<52} wrong {wrong:>3} of {seeds}, rate at most {at_most:.4f}   {seconds:.0f} s", flush=True)
    return rows


def power() -> list[dict[str, Any]]:
    """Seconds until James-Stein at 8 channels is decided over radii 0 to 10, without a proof and with."""
    rows = []
    cases: dict[str, dict[str, Any]] = {
        "JamesStein(), proof": {"estimator": JamesStein()},
        "JamesStein()": {"estimator": JamesStein(), "certificate": False},
        "JamesStein(positive_part=False)": {"estimator": plain(1.0), "certificate": False},
        "Stein()": {"estimator": Stein(), "certificate": False},
        "a NumPy function": {"estimator": in_numpy},
    }
    for name, question in cases.items():
        start = time.perf_counter()
        report = verify_dominance(dim=8, n=16, radii=range(11), progress=False, **question)
        seconds = time.perf_counter() - start
        replicates = sum(row.replicates for row in report.rows)
        rows.append({"rule": name, "verdict": report.verdict, "seconds": seconds, "replicates": replicates})
        print(f"{name:<35} {report.verdict:<10} {seconds:6.2f} s, {replicates:,} replicates", flush=True)
    return rows


def straightforward() -> list[float]:
    """Mean differences of positive-part James-Stein and the sample mean at 8 radii, as one writes it in NumPy."""
    rng = np.random.default_rng(0)
    sums = np.zeros((2, 8))
    for _ in range(COUNT // CHUNK):
        z = rng.standard_normal((CHUNK, DIM))
        for radius in range(8):
            theta = np.zeros(DIM)
            theta[0] = radius
            x = theta + z
            factor = np.maximum(1 - (DIM - 2) / np.sum(x**2, axis=1), 0)
            loss = np.sum((factor[:, None] * x - theta) ** 2, axis=1)
            difference = loss - np.sum((x - theta) ** 2, axis=1)
            sums[:, radius] += difference.sum(), (difference**2).sum()
    means: list[float] = (sums[0] / COUNT).tolist()
    return means


def ours(rule: Any, threads: int) -> list[float]:
    """The same: the rule is told the variance. `Stein()` looks at channels, so that its vectors are drawn."""
    problem = Problem(rule, SampleMean(), DIM, 16, Gaussian(), None, "mean", "squared", 1.0, None, 0)
    points = [Point(float(radius), "axis") for radius in range(8)]
    blocks = math.ceil(COUNT / BLOCK)
    with ThreadPoolExecutor(threads) as executor:
        tasks = [executor.submit(simulate, problem, points, b, min(b + 8, blocks)) for b in range(0, blocks, 8)]
        tallies = [block for task in tasks for block in task.result()]
    return [float(np.mean([block[i].difference for block in tallies])) for i in range(len(points))]


def speed(repeats: int) -> dict[str, Any]:
    """Seconds of a million replicates of 64 channels at 8 radii."""
    rivals = {
        "NumPy": straightforward,
        "vectors, 1 thread": lambda: ours(Stein(), 1),
        "vectors, 2 threads": lambda: ours(Stein(), 2),
        "two numbers, 1 thread": lambda: ours(JamesStein(), 1),
        "two numbers, 2 threads": lambda: ours(JamesStein(), 2),
    }
    found = [np.array(call()) for call in rivals.values()]
    apart = max(float(np.abs(f - found[0]).max()) for f in found)  # standard errors are near 0.01
    seconds = side_by_side(rivals, repeats=repeats)
    for name, value in seconds.items():
        print(f"{name:<25} {value:7.3f} s   {seconds['NumPy'] / value:6.1f} times as fast as NumPy")
    print(f"means at most {apart:.4f} apart")
    return {"replicates": COUNT, "dim": DIM, "radii": 8, "seconds": seconds, "largest_difference": apart}


def main() -> None:
    """Measure, print, record."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    result = {
        "confidence": CONFIDENCE,
        "seeds": arguments.seeds,
        "budget": BUDGET,
        "radii": RADII,
        "speed": speed(arguments.repeats),
        "power": power(),
        "false_verdicts": false_verdicts(arguments.seeds),
    }
    print(f"recorded in {save('dominance', result)}")


if __name__ == "__main__":
    main()
