"""Whether a question about dominance is well posed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

import numpy as np

from shrinkstats.estimators import BatchStatistics, Estimator
from shrinkstats.rules.base import RANGE, SAMPLE_MEAN, VARIANCE, said
from shrinkstats.theory.arguments import at_least, check_rules, number, real
from shrinkstats.theory.noise import Gaussian, Noise, WorstCase
from shrinkstats.theory.rules import SampleMean
from shrinkstats.theory.simulation import Problem, draws_observations, symmetric
from shrinkstats.values import Prior, SamplingNoise, Statistics, as_prior

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
    dim, n, seed = at_least("dim", 1, dim), at_least("n", 1, n), at_least("seed", 0, seed)
    if not isinstance(statistic, str) or statistic not in ("mean", "var"):
        raise ValueError(f'statistic must be "mean" or "var", got {statistic!r}')
    if baseline is None:
        baseline = SampleMean() if statistic == "mean" else BatchStatistics()
    check_rules(estimator=estimator, baseline=baseline)
    for name, rule in (("estimator", estimator), ("baseline", baseline)):
        if statistic == "var" and isinstance(rule, Estimator) and (spread := said(rule, "spread_is")) != VARIANCE:
            what = (
                "is a range, not a variance" if spread == RANGE else 'is unknown: say spread_is = "variance" if it is'
            )
            raise ValueError(f"{name}: the second statistic of {type(rule).__name__} {what}")
        if statistic == "var" and said(rule, "mean_is") == SAMPLE_MEAN and not isinstance(rule, Estimator):
            raise ValueError(f'{name}: SampleMean estimates means; use BatchStatistics() with statistic="var"')
    if dim < 1 + (statistic == "var"):
        raise ValueError(f"dim must be at least {1 + (statistic == 'var')}, got {dim}")
    if known_variance is not None:
        known_variance = number("known_variance", known_variance)
        if known_variance <= 0:
            raise ValueError(f"known_variance must be positive and finite, got {known_variance:g}")
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
        known_variance,
        None if prior is None else _prior(prior, dim),
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
    weights = tuple(real("loss", loss).ravel().tolist())
    if len(weights) != dim or not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise ValueError(f"weights of the loss must be {dim} finite numbers, none negative, not all 0; got {loss!r}")
    return weights


def _prior(prior: Any, dim: int) -> Prior:
    """A prior for so many channels, in NumPy's numbers."""
    checked = as_prior(prior)
    as_prior(Statistics(checked.mean, checked.var))  # a Prior is made without looking
    parts = {"mean": checked.mean, "var": checked.var}
    if isinstance(checked.noise, SamplingNoise):
        parts |= {f"noise.{name}": value for name, value in checked.noise._asdict().items()}
    elif checked.noise is not None:
        parts["noise"] = checked.noise
    vectors = {name: real(f"prior.{name}", value) for name, value in parts.items()}
    for name, vector in vectors.items():
        if vector.shape not in ((), (dim,)) or not np.isfinite(vector).all():
            raise ValueError(
                f"prior.{name} must be dim={dim} finite numbers, got {np.array2string(vector, threshold=8)}"
            )
    return checked


def check_radii(radii: Iterable[float]) -> list[float]:
    """Finite and in order, each once."""
    found: list[float] = np.unique(real("radii", list(radii) if isinstance(radii, Iterator | Set) else radii)).tolist()
    if not found or found[0] < 0 or not all(map(math.isfinite, found)):
        raise ValueError(f"radii must be finite numbers, at least one and none negative; got {found}")
    return found


def check_directions(directions: Sequence[str] | None, problem: Problem) -> tuple[str, ...]:
    """Those asked for, or all that differ."""
    if directions is None:
        return DIRECTIONS[:1] if symmetric(problem) or problem.dim == 1 else DIRECTIONS
    try:
        names = tuple(dict.fromkeys([directions] if isinstance(directions, str) else directions))
    except (TypeError, ValueError):  # no sequence, or one of what is not text
        names = ()
    if not names or not all(isinstance(name, str) and name in DIRECTIONS for name in names):
        raise ValueError(f"directions must be some of {DIRECTIONS}, got {directions!r}")
    return names
