"""Min-max rescaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import Array, namespace
from shrinkstats.rules.base import RANGE, Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class MinMaxNorm(Estimator):
    """Min-max rescaling to [0, 1]: (x - min) / (max - min + eps).

    Where :class:`RobustNorm` came from: equation 11 of its paper. Running statistics are those of minimum and range.

    References
    ----------
    ICLR 2020 submission "Towards an adversarially robust normalization approach".

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats.estimators import MinMaxNorm
    >>> print(shrinkstats.normalize(np.array([[3.0], [5.0], [11.0]]), MinMaxNorm(), eps=0.0).ravel())
    [0.   0.25 1.  ]
    """

    uses_prior: ClassVar[bool] = False
    label: ClassVar[str] = "min-max norm"
    spread_is: ClassVar[str] = RANGE

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The minimum and the range."""
        return Statistics(moments.minimum, moments.maximum - moments.minimum)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives of a minimum and a range."""
        return Cotangent(minimum=g.mean - g.var, maximum=g.var)

    def scale(self, spread: Array, eps: float) -> Array:
        """Range + eps."""
        return spread + eps

    def scale_gradient(self, spread: Array, scale: Array) -> Array:
        """The derivative of range + eps, which is 1."""
        return namespace(spread=spread).ones_like(spread)

    def tracked(self, spread: Array, count: int) -> Array:
        """The range itself."""
        return spread
