"""Confidence that survives looking at the data, stopping early and looking again.

Blocks of replicates are reduced to tallies, which merge (Chan's formula); intervals come from an asymptotic
confidence sequence, valid at every number of replicates at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CONCENTRATED = 0.01  # a single replicate with a larger share of the squares speaks of a heavy tail
ROUNDING = 1e-12  # differences this small against the losses are arithmetic, not statistics


class Tally(NamedTuple):
    """What is kept of the replicates at a point: their number, means, sums of squared deviations, extremes.

    Attributes
    ----------
    replicates : int
    estimator, baseline, difference : float
        Mean losses, and the mean of their difference, replicate by replicate.
    estimator_m2, baseline_m2, difference_m2 : float
        Sums of squared deviations from these.
    smallest, largest : float
        Extremes of the difference.
    """

    replicates: int
    estimator: float
    baseline: float
    difference: float
    estimator_m2: float
    baseline_m2: float
    difference_m2: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, estimator: Vector, baseline: Vector, difference: Vector) -> Tally:
        """The tally of a block of losses and their differences, vectors over replicates."""
        (e, e2), (b, b2), (d, d2) = map(_mean_and_m2, (estimator, baseline, difference))
        return cls(len(difference), e, b, d, e2, b2, d2, float(np.min(difference)), float(np.max(difference)))

    def __add__(self, other: Any) -> Any:
        """The tally of both blocks together."""
        replicates = self.replicates + other.replicates
        (e, e2), (b, b2), (d, d2) = (_merge(self, other, i) for i in (1, 2, 3))
        smallest, largest = min(self.smallest, other.smallest), max(self.largest, other.largest)
        return Tally(replicates, e, b, d, e2, b2, d2, smallest, largest)

    @property
    def concentration(self) -> tuple[float, float]:
        """Shares of the smallest and of the largest difference in the squared deviations; 1 where there are none.

        Means of independent draws, over their estimated standard errors, are asymptotically normal exactly where these
        shares go to zero (O'Brien 1980; Giné, Götze & Mason 1997). They stay large under heavy tails, such as those of
        plain James-Stein near its target in few dimensions, and where the two estimates rarely differ.
        """
        if not self.difference_m2 > 0:
            return 1.0, 1.0
        below, above = self.difference - self.smallest, self.largest - self.difference
        return below * below / self.difference_m2, above * above / self.difference_m2


def confidence_sequence(sd: float, count: int, alpha: float, *, tightest: int = 2**16) -> float:
    r"""Half-width of an interval for a mean that covers it at every `count` simultaneously, with probability 1 - alpha.

    .. math:: s \sqrt{\frac{2 (t \rho^2 + 1)}{t^2 \rho^2} \log \frac{\sqrt{t \rho^2 + 1}}{\alpha}}

    Parameters
    ----------
    sd : float
        Standard deviation of one draw, estimated from the draws so far.
    count : int
        t, the number of draws so far.
    alpha : float
        Probability that the mean ever leaves its interval.
    tightest : int
        The count at which the interval is to be narrowest against its rivals; it must not depend on the data.

    Returns
    -------
    float

    Notes
    -----
    Asymptotic: like a confidence interval from the central limit theorem it presumes a finite variance and enough
    draws at the first look.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic
    confidence sequences"; Robbins (1970), "Statistical methods related to the law of the iterated logarithm".

    Examples
    --------
    >>> from shrinkstats.theory.sequential import confidence_sequence
    >>> print(f"{confidence_sequence(1.0, 10_000, 0.05):.4f}")
    0.0352
    """
    log = -2 * math.log(alpha)
    rho2 = (log + math.log(log + 1)) / tightest
    grown = count * rho2 + 1
    return sd * math.sqrt(2 * grown / (count * count * rho2) * (0.5 * math.log(grown) - math.log(alpha)))


def interval(tally: Tally, alpha: float) -> tuple[float, float]:
    """Bounds of the mean difference, beyond rounding errors.

    A bound is infinite where the tail on its own side is heavy: draws that are missing there would move the mean past
    it. A heavy tail on the other side widens it, no more.
    """
    if math.isinf(tally.difference):  # infinite losses were seen
        return tally.difference, tally.difference
    if tally.replicates < 2 or not tally.difference_m2 >= 0:
        return -math.inf, math.inf
    sd = math.sqrt(tally.difference_m2 / (tally.replicates - 1))
    half = confidence_sequence(sd, tally.replicates, alpha) + ROUNDING * (tally.estimator + tally.baseline)
    below, above = tally.concentration
    lower = tally.difference - half if below < CONCENTRATED else -math.inf
    return lower, tally.difference + half if above < CONCENTRATED else math.inf


def _mean_and_m2(x: Vector) -> tuple[float, float]:
    mean = float(np.mean(x))
    if not math.isfinite(mean):
        return mean, math.nan
    return mean, float(np.sum(np.square(x - mean)))


def _merge(a: Tally, b: Tally, i: int) -> tuple[float, float]:
    mean_a, mean_b, m2 = a[i], b[i], a[i + 3] + b[i + 3]
    if math.isinf(mean_a) or math.isinf(mean_b):
        return mean_a + mean_b, math.nan
    share = b.replicates / (a.replicates + b.replicates)
    step = mean_b - mean_a
    return mean_a + step * share, m2 + step * step * (a.replicates * share)
