"""The rules a normalization layer can use: Moments in, (center, scale) out.

Every rule is a frozen dataclass, called with ``(moments, prior=None, eps=1e-5)``. A rule of your own is a
subclass of :class:`Estimator` with a method :meth:`~Estimator.statistics`.
"""

from __future__ import annotations

from shrinkstats.rules.base import Estimator
from shrinkstats.rules.batch_statistics import BatchStatistics
from shrinkstats.rules.js_norm import JSNorm
from shrinkstats.rules.lasso import Lasso
from shrinkstats.rules.min_max_norm import MinMaxNorm
from shrinkstats.rules.prior_blend import PriorBlend
from shrinkstats.rules.ridge import Ridge
from shrinkstats.rules.robust_norm import RobustNorm
from shrinkstats.rules.stein import Stein
from shrinkstats.rules.stein_blend import SteinBlend
from shrinkstats.values import Cotangent as Cotangent  # what a pullback returns

__all__ = [
    "BatchStatistics",
    "Estimator",
    "JSNorm",
    "Lasso",
    "MinMaxNorm",
    "PriorBlend",
    "Ridge",
    "RobustNorm",
    "Stein",
    "SteinBlend",
]
