"""RobustNorm, which divides by a power of the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import Array, namespace, positive_number
from shrinkstats.rules.base import RANGE, SAMPLE_MEAN, Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class RobustNorm(Estimator):
    """Center by the mean, divide by a power of the range: (x - mean) / ((max - min)^power + eps).

    Parameters
    ----------
    power : float
        Above 0; 0.2 as published (equation 14 of the paper), 1 is its equation 12. By Popoviciu's inequality the range
        is at least twice the standard deviation.

    References
    ----------
    ICLR 2020 submission "Towards an adversarially robust normalization approach".
    """

    uses_prior: ClassVar[bool] = False
    mean_is: ClassVar[str] = SAMPLE_MEAN
    spread_is: ClassVar[str] = RANGE

    power: float = 0.2

    @property
    def label(self) -> str:
        """The name in words, with a power that is not the published one."""
        return "RobustNorm" if self.power == type(self).power else f"RobustNorm, p = {self.power:g}"

    def __post_init__(self) -> None:
        positive_number("power", self.power)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The sample mean and the range."""
        return Statistics(moments.mean, moments.maximum - moments.minimum)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives of a mean and a range."""
        return Cotangent(mean=g.mean, minimum=-g.var, maximum=g.var)

    def scale(self, spread: Array, eps: float) -> Array:
        """range^power + eps."""
        xp = namespace(spread=spread)
        constant = spread == 0
        return xp.where(constant, 0 * spread, xp.where(constant, xp.ones_like(spread), spread) ** self.power) + eps

    def scale_gradient(self, spread: Array, scale: Array) -> Array:
        """power range^(power - 1); 0 at 0, where it may be infinite: a constant channel has no direction to widen."""
        xp = namespace(spread=spread)
        constant = spread == 0
        slope = self.power * xp.where(constant, xp.ones_like(spread), spread) ** (self.power - 1)
        return xp.where(constant, xp.zeros_like(spread), slope)

    def tracked(self, spread: Array, count: int) -> Array:
        """The range itself."""
        return spread
