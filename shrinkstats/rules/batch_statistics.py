"""The sample mean and variance, as in plain batch norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats.rules.base import SAMPLE_MEAN, Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class BatchStatistics(Estimator):
    """The sample mean and variance, as plain batch norm takes them (Ioffe & Szegedy 2015)."""

    uses_extremes: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False
    label: ClassVar[str] = "batch norm"
    mean_is: ClassVar[str] = SAMPLE_MEAN

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The sample mean and variance (ddof=0)."""
        return Statistics(moments.mean, moments.var())

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives of a mean and a variance."""
        return Cotangent(mean=g.mean, m2=g.var / moments.count)
