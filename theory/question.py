"""Whether a question about dominance is well posed."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from shrinkstats.estimators import BatchStatistics, Estimator, MinMaxNorm, RobustNorm
from shrinkstats.prior import as_prior
from shrinkstats.theory.known import is_known
from shrinkstats.theory.noise import Gaussian, Noise, WorstCase
from shrinkstats.theory.rules import SampleMean
from shrinkstats.theory.simulation import Problem, draws_observations, symmetric

LOSSES = ("squared", "scale-invariant", "entropy")
DIRECTIONS = ("axis", "diagonal", "random")
LARGEST = 2**22  # numbers in one sample


def ask(
    estimator: Any,
    baseline: Any,
    dim: int,
    n: int,
    noise: Noise | None,
    attack: Noise | WorstCase | None,
    statistic: str,
    loss: str | Sequence[float],
    known_variance: float | None,
    prior: Any,
    seed: int,
) -> Problem:
    """The problem that these arguments of `verify_dominance` pose."""
    dim, n, seed = operator.index(dim), operator.index(n), operator.index(seed)
    if statistic not in ("mean", "var"):
        raise ValueError(f'statistic must be "mean" or "var", got {statistic!r}')
    if baseline is None:
        baseline = SampleMean() if statistic == "mean" else BatchStatistics()
    for name, rule in (("estimator", estimator), ("baseline", baseline)):
        if isinstance(rule, type) or not callable(rule):
            raise TypeError(f"{name} must be a rule such as Stein(), or a callable; got {rule!r}")
        if statistic == "var" and isinstance(rule, (MinMaxNorm, RobustNorm)):
            raise ValueError(f"{name}: the second statistic of {type(rule).__name__} is a range, not a variance")
        if statistic == "var" and is_known(rule, SampleMean):
            raise ValueError(f'{name}: SampleMean estimates means; use BatchStatistics() with statistic="var"')
    if dim < 1 + (statistic == "var"):
        raise ValueError(f"dim must be at least {1 + (statistic == 'var')}, got {dim}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if known_variance is not None and not 0 < known_variance < math.inf:
        raise ValueError(f"known_variance must be positive and finite, got {known_variance}")
    estimates_variance = statistic == "var" or known_variance is None
    estimates_variance |= any(isinstance(rule, Estimator) for rule in (estimator, baseline))
    if n < 1 + estimates_variance:
        raise ValueError(
            f"n must be at least {1 + estimates_variance}, got {n}{': a variance is estimated' * estimates_variance}"
        )
    noise = Gaussian() if noise is None else noise
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a noise model such as Gaussian(), got {noise!r}")
    if attack is not None and not isinstance(attack, Noise | WorstCase):
        raise TypeError(f"attack must be a noise model, WorstCase(budget) or None, got {attack!r}")
    if isinstance(attack, WorstCase) and statistic == "var":
        raise ValueError("WorstCase moves the means of a sample and leaves its variances alone; compare means")
    problem = Problem(
        estimator,
        baseline,
        dim,
        n,
        noise,
        attack,
        statistic,
        _loss(loss, statistic, dim),
        None if known_variance is None else float(known_variance),
        None if prior is None else as_prior(prior),
        seed,
    )
    if dim * n > LARGEST and draws_observations(problem):
        raise ValueError(
            f"one sample of {n} observations of {dim} channels is too large to be drawn (at most {LARGEST} numbers). "
            "Take fewer; under this noise and attack, or for a rule that looks at minimum and maximum, there is no law "
            "that could be drawn from instead (a rule that does not look at them says uses_extremes = False)"
        )
    return problem


def _loss(loss: str | Sequence[float], statistic: str, dim: int) -> str | tuple[float, ...]:
    if isinstance(loss, str):
        if loss not in LOSSES or (loss == "entropy" and statistic == "mean"):
            raise ValueError(f"loss must be one of {LOSSES} (entropy is for variances) or {dim} weights, got {loss!r}")
        return loss
    weights = tuple(float(w) for w in loss)
    if len(weights) != dim or not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise ValueError(f"weights of the loss must be {dim} finite numbers, none negative, not all 0; got {loss!r}")
    return weights


def check_radii(radii: Iterable[float]) -> list[float]:
    """Finite and in order, each once."""
    found = sorted({float(r) for r in np.ravel(np.asarray(list(radii), dtype=np.float64))})
    if not found or found[0] < 0 or not all(map(math.isfinite, found)):
        raise ValueError(f"radii must be finite numbers, at least one and none negative; got {found}")
    return found


def check_directions(directions: Sequence[str] | None, problem: Problem) -> tuple[str, ...]:
    """Those asked for, or all that differ."""
    if directions is None:
        return DIRECTIONS[:1] if symmetric(problem) or problem.dim == 1 else DIRECTIONS
    names = tuple(dict.fromkeys([directions] if isinstance(directions, str) else directions))
    if not names or not set(names) <= set(DIRECTIONS):
        raise ValueError(f"directions must be some of {DIRECTIONS}, got {directions!r}")
    return names
