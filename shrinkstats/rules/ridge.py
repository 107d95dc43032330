"""Ridge estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import positive_number
from shrinkstats.regularized import STRENGTH, ridge_statistics
from shrinkstats.rules.base import Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class Ridge(Estimator):
    """:func:`shrinkstats.ridge` with N the observations per channel.

    Parameters
    ----------
    strength : float
        lambda, at least 0.

    References
    ----------
    A baseline of arXiv 2507.08261.
    """

    uses_extremes: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False
    label: ClassVar[str] = "ridge"

    strength: float = STRENGTH

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The ridge estimates of mean and variance."""
        return ridge_statistics(Statistics(moments.mean, moments.var()), moments.count, self.strength)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives, which are two constant factors."""
        n = moments.count
        return Cotangent(mean=g.mean * (n / (n + self.strength)), m2=g.var / (n * (1 + self.strength)))
