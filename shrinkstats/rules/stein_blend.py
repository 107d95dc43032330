"""A blend with the training statistics, whose weights are found from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shrinkstats import kernels
from shrinkstats._arrays import positive_number
from shrinkstats.prior import shrunken_blend, stein_blend
from shrinkstats.rules.base import Estimator, required
from shrinkstats.values import Moments, Prior, Statistics


@dataclass(frozen=True)
class SteinBlend(Estimator):
    """:func:`shrinkstats.stein_blend` with the training statistics: no strength to choose.

    The noise is the prior's, where it was calibrated (:class:`shrinkstats.Prior`), and the training data then count
    as one sample at least: for a batch of n, Stein's weights are multiplied by n/(n + 1). Without calibration the
    noise is the batch's own estimate, which is poor for two samples and too small for one.

    Parameters
    ----------
    kappa : float
        Factor on the noise; 1 is Stein's.

    Notes
    -----
    Chance moves all channels of a layer together, so that a single image often looks like a shift; n/(n + 1) holds
    its weight back. Found on images (`benchmarks/adaptation/blend_rules.py`).
    """

    uses_extremes: ClassVar[bool] = False
    uses_noise: ClassVar[bool] = True
    label: ClassVar[str] = "Stein blend"

    kappa: float = 1.0

    def __post_init__(self) -> None:
        positive_number("kappa", self.kappa, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The blend of both."""
        source = required(self, prior)
        trained = Statistics(source.mean, source.var)
        if source.noise is not None:
            return shrunken_blend(trained, moments, source.noise, self.kappa, moments.samples)
        if moments.count == 1:
            raise ValueError("one observation per channel says nothing of its own noise: calibrate the prior first")
        return stein_blend(trained, moments, noise=moments.noise, kappa=self.kappa)

    def adapted_lines(self, groups: Any, size: int, samples: int, eps: float, *vectors: Any) -> bool:
        """Turn moments of groups of images into the vectors of the affine pass, compiled; False if it is not easy."""
        easy: bool = kernels.load("blend").adapted_lines(groups, size, samples, self.kappa, eps, *vectors)
        return easy
