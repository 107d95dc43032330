"""JSNorm, whose noise is the spread between the channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shrinkstats._arrays import namespace
from shrinkstats.mean import pull_by_channels, shrink_by_channels
from shrinkstats.rules.base import Estimator
from shrinkstats.values import Cotangent, Moments, Prior, Statistics


@dataclass(frozen=True)
class JSNorm(Estimator):
    r"""JSNorm: means and variances, each shrunken by the spread between the channels.

    The factor is :math:`1 - (c-2) \operatorname{Var}_{channels}(m) / \sum_i m_i^2`, the variance biased (ddof=0), and
    the same with the variances for m. Both lie in [2/c, 1]. With fewer than 3 channels they are 1.

    ``Stein(mean="channel", var="channel")`` multiplies the noise by c/(c+1). What
    :func:`shrinkstats.channel_james_stein` says of such a noise holds here too: the estimates are not consistent.

    References
    ----------
    Khoshsirat & Kambhamettu (WACV 2024), "Improving normalization with the James-Stein estimator".

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats.estimators import JSNorm
    >>> batch = shrinkstats.moments(np.array([[1.0, -1.0, 2.0, 0.0], [3.0, 1.0, 4.0, 2.0]]))
    >>> center, scale = JSNorm()(batch)
    >>> print(batch.mean, center.round(3))
    [2. 0. 3. 1.] [1.643 0.    2.464 0.821]
    """

    uses_extremes: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False
    label: ClassVar[str] = "JSNorm"

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The shrunken mean and variance."""
        xp = namespace(mean=moments.mean)
        return Statistics(*(shrink_by_channels(v, xp, correction=0).estimate for v in (moments.mean, moments.var())))

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """The derivatives of both estimates, through their factors."""
        xp = namespace(mean=moments.mean)
        mean = pull_by_channels(moments.mean, g.mean, xp, correction=0)
        var = pull_by_channels(moments.var(), g.var, xp, correction=0)
        return Cotangent(mean=mean, m2=var / moments.count)
