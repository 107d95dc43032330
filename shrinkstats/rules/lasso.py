"""Soft thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import namespace, positive_number
from shrinkstats.regularized import STRENGTH, lasso_statistics
from shrinkstats.rules.base import Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class Lasso(Estimator):
    """:func:`shrinkstats.soft_threshold` with N the observations per channel.

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
    label: ClassVar[str] = "lasso"

    strength: float = STRENGTH

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The soft-thresholded mean and variance."""
        xp = namespace(mean=moments.mean)
        return lasso_statistics(Statistics(moments.mean, moments.var()), moments.count, self.strength, xp)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The gradient passes where something is left above the threshold."""
        xp, n = namespace(mean=moments.mean), moments.count
        mean = xp.where(xp.abs(moments.mean) > self.strength / (2 * n), g.mean, xp.zeros_like(g.mean))
        var = xp.where(moments.var() > self.strength / 2, g.var, xp.zeros_like(g.var))
        return Cotangent(mean=mean, m2=var / n)
