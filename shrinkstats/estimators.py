"""The rules a normalization layer can use: Moments in, (center, scale) out.

Every rule is a frozen dataclass, called with ``(moments, prior=None, eps=1e-5)``. A rule of your own is a
subclass of :class:`Estimator` with a method :meth:`~Estimator.statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shrinkstats import kernels
from shrinkstats._arrays import Array, namespace, positive_number
from shrinkstats.mean import pull_by_channels, shrink, shrink_by_channels
from shrinkstats.prior import blend, shrunken_blend, stein_blend
from shrinkstats.regularized import STRENGTH, lasso_statistics, ridge_statistics
from shrinkstats.values import Cotangent, Moments, Prior, Statistics, as_prior
from shrinkstats.variance import shrink_variances

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


@dataclass(frozen=True)
class Estimator:
    """Base of all rules.

    Subclasses define :meth:`statistics`; those whose second statistic is not a variance also override
    :meth:`scale`, :meth:`scale_gradient` and :meth:`tracked`. A layer differentiates any rule by itself;
    :meth:`pullback` is there for rules that know a faster way.
    """

    uses_extremes: ClassVar[bool] = True
    """Whether `statistics` looks at minimum and maximum; a layer need not compute them if it does not."""
    uses_prior: ClassVar[bool] = True
    """Whether `statistics` looks at the prior."""

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """What the layer normalizes with and its running buffers follow: center, and variance or range."""
        raise NotImplementedError(f"{type(self).__name__} must define statistics(moments, prior)")

    def scale(self, spread: Array, eps: float) -> Array:
        """What the centered data are divided by: sqrt(variance + eps)."""
        return namespace(spread=spread).sqrt(spread + eps)

    def scale_gradient(self, spread: Array, scale: Array) -> Array:
        """The derivative of `scale`, itself at hand, with respect to the spread."""
        return 0.5 / scale

    def tracked(self, spread: Array, count: int) -> Array:
        """What running_var follows: the variance times count / (count - 1), as in PyTorch."""
        return spread * (count / (count - 1))

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent | None:
        """From the gradient of a loss with respect to `statistics` to that for the moments, if in closed form."""
        return None

    def __call__(self, moments: Moments, prior: Any = None, eps: float = 1e-5) -> tuple[Array, Array]:
        """Center and scale, vectors of shape (c,).

        Parameters
        ----------
        moments : Moments
            Of the batch.
        prior : Statistics, Prior or Moments, optional
            Training statistics, for the rules that blend with them.
        eps : float
            Added to the variance before the square root.

        Raises
        ------
        ValueError
            If nothing was counted, or the rule needs a prior and got none.
        """
        if not isinstance(moments, Moments):
            raise TypeError(
                f"{type(self).__name__} takes Moments (shrinkstats.moments(x)), got {type(moments).__name__}"
            )
        if not moments.count:
            raise ValueError("the moments are empty: there is nothing to estimate from")
        center, spread = self.statistics(moments, None if prior is None else as_prior(prior))
        return center, self.scale(spread, eps)


@dataclass(frozen=True)
class BatchStatistics(Estimator):
    """The sample mean and variance, as plain batch norm takes them (Ioffe & Szegedy 2015)."""

    uses_extremes: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The sample mean and variance (ddof=0)."""
        return Statistics(moments.mean, moments.var())

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of a mean and a variance."""
        return Cotangent(mean=g.mean, m2=g.var / moments.count)


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
        """Of the shrinkage factor and the geometric mean, compiled."""
        batch = (moments.mean, moments.m2, moments.noise, moments.count)
        mean, m2, noise = kernels.load("vectors").stein_pullback(*batch, *self.rules, g.mean, g.var)
        if self.mean != "sampling":
            return Cotangent(mean, m2)
        if moments.samples < 2:  # the noise is then var(ddof=1) / count
            return Cotangent(mean, m2 + noise / (moments.count - 1) / moments.count)
        return Cotangent(mean, m2, sample_m2=noise * moments.noise_scale)

    @property
    def rules(self) -> tuple[int, int]:
        """Which rules, as compiled code is told."""
        names = (None, "sampling", "channel", "gamma")
        return names.index(self.mean), names.index(self.var)


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

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The shrunken mean and variance."""
        xp = namespace(mean=moments.mean)
        return Statistics(*(shrink_by_channels(v, xp, correction=0).estimate for v in (moments.mean, moments.var())))

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of the two factors."""
        xp = namespace(mean=moments.mean)
        mean = pull_by_channels(moments.mean, g.mean, xp, correction=0)
        var = pull_by_channels(moments.var(), g.var, xp, correction=0)
        return Cotangent(mean=mean, m2=var / moments.count)


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

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The minimum and the range."""
        return Statistics(moments.minimum, moments.maximum - moments.minimum)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of a minimum and a range."""
        return Cotangent(minimum=g.mean - g.var, maximum=g.var)

    def scale(self, spread: Array, eps: float) -> Array:
        """Range + eps."""
        return spread + eps

    def scale_gradient(self, spread: Array, scale: Array) -> Array:
        """One."""
        return namespace(spread=spread).ones_like(spread)

    def tracked(self, spread: Array, count: int) -> Array:
        """The range itself."""
        return spread


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

    power: float = 0.2

    def __post_init__(self) -> None:
        positive_number("power", self.power)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The sample mean and the range."""
        return Statistics(moments.mean, moments.maximum - moments.minimum)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of a mean and a range."""
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

    strength: float = STRENGTH

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The ridge estimates of mean and variance."""
        return ridge_statistics(Statistics(moments.mean, moments.var()), moments.count, self.strength)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of two constant factors."""
        n = moments.count
        return Cotangent(mean=g.mean * (n / (n + self.strength)), m2=g.var / (n * (1 + self.strength)))


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

    strength: float = STRENGTH

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The soft-thresholded mean and variance."""
        xp = namespace(mean=moments.mean)
        return lasso_statistics(Statistics(moments.mean, moments.var()), moments.count, self.strength, xp)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of two soft thresholds."""
        xp, n = namespace(mean=moments.mean), moments.count
        mean = xp.where(xp.abs(moments.mean) > self.strength / (2 * n), g.mean, xp.zeros_like(g.mean))
        var = xp.where(moments.var() > self.strength / 2, g.var, xp.zeros_like(g.var))
        return Cotangent(mean=mean, m2=var / n)


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

    strength: float

    def __post_init__(self) -> None:
        positive_number("strength", self.strength, infinite=True, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The blend of both."""
        source = _required(self, prior)
        return blend(Statistics(source.mean, source.var), moments, n=moments.samples, strength=self.strength)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """Of the batch's weight n / (N + n)."""
        weight = moments.samples / (self.strength + moments.samples)
        return Cotangent(mean=g.mean * weight, m2=g.var * (weight / moments.count))


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
    its weight back. Found on images (`benchmarks/blend_rules.py`).
    """

    uses_extremes: ClassVar[bool] = False

    kappa: float = 1.0

    def __post_init__(self) -> None:
        positive_number("kappa", self.kappa, zero=True)

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The blend of both."""
        source = _required(self, prior)
        trained = Statistics(source.mean, source.var)
        if source.noise is not None:
            return shrunken_blend(trained, moments, source.noise, self.kappa, moments.samples)
        if moments.count == 1:
            raise ValueError("one observation per channel says nothing of its own noise: calibrate the prior first")
        return stein_blend(trained, moments, noise=moments.noise, kappa=self.kappa)


def _required(estimator: Estimator, prior: Prior | None) -> Prior:
    if prior is None:
        raise ValueError(
            f"{estimator} blends with training statistics: pass prior=Statistics(mean, var) "
            "(a layer needs track_running_stats=True)"
        )
    return prior


def _is_one_of(x: object, *names: str) -> bool:
    """Asked of anything; arrays compare to arrays."""
    return isinstance(x, str) and x in names
