"""A blend with the training statistics, of a strength that the user chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import positive_number
from shrinkstats.prior import blend
from shrinkstats.rules.base import Estimator, required
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class PriorBlend(Estimator):
    """:func:`shrinkstats.blend` with the training statistics; n is the number of samples in the batch.

    Parameters
    ----------
    strength : float
        N, the pseudo sample size of the training statistics, from 0 to infinity.

    References
    ----------
    Schneider, Rusak et al. (2020), eq. 3.
    """

    uses_extremes: ClassVar[bool] = False
    label: ClassVar[str] = "prior blend"

    strength: float

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, infinite=True, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The blend of both."""
        source = required(self, prior)
        return blend(Statistics(source.mean, source.var), moments, n=moments.samples, strength=self.strength)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The batch's weight n / (N + n) on its statistics' gradients."""
        weight = moments.samples / (self.strength + moments.samples)
        return Cotangent(mean=g.mean * weight, m2=g.var * (weight / moments.count))
