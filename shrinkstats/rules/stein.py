"""Stein-shrunken means and variances, the layers' default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shrinkstats import kernels
from shrinkstats._arrays import namespace
from shrinkstats.mean import shrink, shrink_by_channels
from shrinkstats.rules.base import BOCK, CHANNEL, SAMPLE_MEAN, Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics
from shrinkstats.variance import shrink_variances


@dataclass(frozen=True)
class Stein(Estimator):
    """Stein-shrunken mean and variance.

    Parameters
    ----------
    mean : {"sampling", "channel", None}
        :func:`shrinkstats.james_stein` towards zero with the sampling variance of each mean (Bock's factor),
        :func:`shrinkstats.channel_james_stein`, or the sample mean.
    var : {"gamma", "channel", None}
        :func:`shrinkstats.gamma_stein` of the observations per channel, the formula of
        :func:`shrinkstats.channel_james_stein` applied to the variances, or the sample variance.

    References
    ----------
    James & Stein (1961); Bock (1975); DasGupta (1986); arXiv 2507.08261 for their use in batch norm.
    """

    uses_extremes: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False

    mean: str | None = "sampling"
    var: str | None = "gamma"

    @property
    def label(self) -> str:
        """The name in words."""
        means = {"sampling": "sampling noise", "channel": "as published", None: "sample mean"}[self.mean]
        return f"Stein, {means}" + {"gamma": "", "channel": ", variances by channel", None: ", mean only"}[self.var]

    @property
    def mean_is(self) -> str:
        """The sample mean or a factor on it."""
        return {"sampling": BOCK, "channel": CHANNEL, None: SAMPLE_MEAN}[self.mean]

    def __post_init__(self) -> None:
        if self.mean is not None and not _is_one_of(self.mean, "sampling", "channel"):
            raise ValueError(f'mean must be "sampling", "channel" or None, got {self.mean!r}')
        if self.var is not None and not _is_one_of(self.var, "gamma", "channel"):
            raise ValueError(f'var must be "gamma", "channel" or None, got {self.var!r}')

    @classmethod
    def published(cls) -> Stein:
        """The formulas of arXiv 2507.08261: noise of the means from the spread between channels."""
        return cls(mean="channel", var="gamma")

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The shrunken mean and variance."""
        mean, var = moments.mean, moments.var()
        xp = namespace(mean=mean)
        if self.mean == "sampling":
            mean = shrink(mean, moments.noise, xp).estimate
        elif self.mean == "channel":
            mean = shrink_by_channels(mean, xp).estimate
        if self.var == "gamma":
            var = shrink_variances(var, moments.count, xp)
        elif self.var == "channel":
            var = shrink_by_channels(var, xp).estimate
        return Statistics(mean, var)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives through the shrinkage factor and the geometric mean, compiled."""
        mean, m2, noise = kernels.load("vectors").stein_pullback(*_vectors(moments), *self.rules, g.mean, g.var)
        if self.mean != "sampling":
            return Cotangent(mean, m2)
        if moments.samples < 2:  # the noise is then var(ddof=1) / count
            return Cotangent(mean, m2 + noise / (moments.count - 1) / moments.count)
        return Cotangent(mean, m2, sample_m2=noise * moments.noise_scale)

    def compiled(self, moments: Moments) -> Statistics:
        """`statistics` of vectors of float64, compiled."""
        return Statistics(*kernels.load("vectors").stein(*_vectors(moments), *self.rules))

    @property
    def rules(self) -> tuple[int, int]:
        """The numbers by which compiled code and `stein.cu` know the two rules."""
        names = (None, "sampling", "channel", "gamma")
        return names.index(self.mean), names.index(self.var)


def _vectors(moments: Moments) -> tuple[Any, Any, Any, int]:
    """What compiled code takes."""
    return moments.mean, moments.m2, moments.noise, moments.count


def _is_one_of(x: object, *names: str) -> bool:
    """Asked of anything; arrays compare to arrays."""
    return isinstance(x, str) and x in names
