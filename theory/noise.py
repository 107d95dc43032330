"""Noise models: the errors of a sample, or what an attacker adds to it.

Each is a frozen dataclass that draws, and states its variance and its optimal variance proxy: the smallest s2 with
log E exp(t X) <= s2 t^2 / 2 for every t. All but WorstCase are symmetric around zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, logsumexp, ndtr, roots_legendre

from shrinkstats._arrays import positive_number
from shrinkstats.rules.base import said
from shrinkstats.theory.arguments import number, real

Array = NDArray[np.float64]
Size = int | tuple[int, ...]


@dataclass(frozen=True)
class Noise:
    """Base of the noise models.

    Parameters
    ----------
    scale : float
        Standard deviation of one draw, in the units of the data, unless the model says otherwise.
    common : bool
        As an attack: False perturbs every observation by a draw of its own, True a whole batch by one vector,
        which averaging does not wash out.

    Raises
    ------
    ValueError
        If `scale` is not positive and finite.
    """

    scale: float = 1.0
    common: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        positive_number("scale", self.scale)

    @property
    def variance(self) -> float:
        """Variance of one draw."""
        return self.scale**2

    @property
    def variance_proxy(self) -> float:
        """The optimal variance proxy; here the variance itself ("strictly sub-Gaussian")."""
        return self.variance

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Independent draws, an array of shape `size`."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(rng, size)")

    def log_mgf(self, t: ArrayLike) -> Array:
        """log E exp(t X), of the shape of t; for checking the proxy."""
        raise NotImplementedError(f"{type(self).__name__} must define log_mgf(t)")

    def perturb(self, sample: Array, draws: Array) -> Array:
        """The sample after an attack that drew these numbers."""
        return sample + draws


@dataclass(frozen=True)
class Gaussian(Noise):
    """Normal noise.

    Examples
    --------
    >>> from shrinkstats.theory import Gaussian
    >>> Gaussian(2.0).variance_proxy
    4.0
    """

    law: ClassVar[str] = "normal"

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Normal draws."""
        return self.scale * rng.standard_normal(size)

    def log_mgf(self, t: ArrayLike) -> Array:
        """t^2 scale^2 / 2."""
        return (real("t", t) * self.scale) ** 2 / 2


def is_gaussian(noise: Any) -> bool:
    """Whether what is known of the normal law holds for it."""
    return bool(said(noise, "law") == "normal")


@dataclass(frozen=True)
class Rademacher(Noise):
    """Plus or minus `scale`, with equal probability: a sign attack.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.theory import Rademacher
    >>> set(Rademacher(0.5).draw(np.random.default_rng(0), 9).tolist()) == {-0.5, 0.5}
    True
    """

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Signs times `scale`."""
        return np.asarray(self.scale * (2.0 * rng.integers(0, 2, size, dtype=np.int8) - 1.0))

    def log_mgf(self, t: ArrayLike) -> Array:
        """log cosh(t scale)."""
        return _log_cosh(real("t", t) * self.scale)


@dataclass(frozen=True)
class Uniform(Noise):
    """Uniform on plus or minus sqrt(3) `scale`.

    Its proxy is its variance: Arbel, Marchal & Nguyen (2020), "On strict sub-Gaussianity, optimal proxy variance
    and symmetry for bounded random variables".

    Examples
    --------
    >>> from shrinkstats.theory import Uniform
    >>> Uniform(3.0).variance_proxy
    9.0
    """

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Uniform draws."""
        width = math.sqrt(3) * self.scale
        return rng.uniform(-width, width, size)

    def log_mgf(self, t: ArrayLike) -> Array:
        """log(sinh(u) / u) with u = sqrt(3) scale t."""
        u = np.abs(real("t", t)) * (math.sqrt(3) * self.scale)
        large = np.maximum(u, 1e-2)
        return np.where(u < 1e-2, u * u / 6 - u**4 / 180, large + np.log(-np.expm1(-2 * large) / (2 * large)))


@dataclass(frozen=True)
class TruncatedGaussian(Noise):
    """Normal noise without its tails, of standard deviation `scale` after the cut.

    Its proxy is taken to be its variance, as holds for a symmetric cut; the moment bound is checked numerically.

    Parameters
    ----------
    limit : float
        Where the tails are cut off, in standard deviations of the normal distribution before the cut.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.theory import TruncatedGaussian
    >>> x = TruncatedGaussian(1.0, limit=1.5).draw(np.random.default_rng(0), 100_000)
    >>> print(x.std().round(2), np.abs(x).max().round(2))
    1.0 2.02
    """

    limit: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_number("limit", self.limit)

    @property
    def parent(self) -> float:
        """Standard deviation before the cut."""
        density = math.exp(-(self.limit**2) / 2) / math.sqrt(2 * math.pi)
        return float(self.scale / math.sqrt(1 - 2 * self.limit * density / (2 * ndtr(self.limit) - 1)))

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Normal draws, drawn again where they fall into the tails."""
        z = rng.standard_normal(size)
        while (outside := np.abs(z) > self.limit).any():
            z[outside] = rng.standard_normal(int(outside.sum()))
        return self.parent * z

    def log_mgf(self, t: ArrayLike) -> Array:
        """The log moment generating function in closed form, from the normal distribution function."""
        u = np.abs(real("t", t)) * self.parent
        upper, lower = log_ndtr(self.limit - u), log_ndtr(-self.limit - u)
        return np.asarray(u * u / 2 + upper + np.log1p(-np.exp(lower - upper)) - math.log(2 * ndtr(self.limit) - 1))


@dataclass(frozen=True)
class ClippedCauchy(Noise):
    """The noise of the published experiments: a Cauchy draw, sub-Gaussian only because of the clip that follows.

    The reference code of arXiv 2507.08261 adds ``-scale / sqrt(2) * tan(pi U)``, U uniform, and clips the result
    to [0, 1]. As an attack it therefore depends on the data: :meth:`perturb` adds and clips, and what reaches the
    data has neither mean zero nor a law of its own. Wherever the law of a draw is asked for (`draw`, `variance`,
    `variance_proxy`, `log_mgf`), it is that of the perturbation of a value in the middle of the range.

    Parameters
    ----------
    scale : float
        sigma of the published code: sqrt(2) times the scale parameter of the Cauchy distribution, which has no
        standard deviation.
    low, high : float
        The range the data are clipped to, in the units of the data; [0, 1] for images.

    Examples
    --------
    >>> from shrinkstats.theory import ClippedCauchy
    >>> noise = ClippedCauchy(0.1)
    >>> print(f"{noise.variance:.4f} {noise.variance_proxy:.4f}")  # of a middle gray
    0.0403 0.0460
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not number("low", self.low) < number("high", self.high):
            raise ValueError(f"low must be below high, both finite; got {self.low} and {self.high}")

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2

    @property
    def variance(self) -> float:
        """The variance of the perturbation of a value in the middle."""
        a, h = self.scale / math.sqrt(2), self._half
        inside = 2 / math.pi * math.atan(h / a)
        return 2 / math.pi * a * h - a * a * inside + h * h * (1 - inside)

    @property
    def variance_proxy(self) -> float:
        """Optimal for a value in the middle; for no value is it above Hoeffding's (high - low)^2 / 4."""
        return _smallest_proxy(self)

    def raw(self, rng: np.random.Generator, size: Size) -> Array:
        """Cauchy draws, before any clip."""
        return -self.scale / math.sqrt(2) * np.tan(math.pi * rng.random(size))

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """What the clip leaves of the draws at a value in the middle."""
        return np.clip(self.raw(rng, size), -self._half, self._half)

    def perturb(self, sample: Array, draws: Array) -> Array:
        """Add and clip."""
        return np.clip(sample + draws, self.low, self.high)

    def log_mgf(self, t: ArrayLike) -> Array:
        """The log moment generating function: Gauss-Legendre quadrature over the angle, and two atoms at the ends."""
        t = real("t", t)
        a, h = self.scale / math.sqrt(2), self._half
        angle = math.atan(h / a)
        x, weight = roots_legendre(400)
        values = _log_cosh(t[..., None] * (a * np.tan(angle * x)))
        inside = logsumexp(values, axis=-1, b=weight * angle / math.pi)
        return np.asarray(np.logaddexp(inside, math.log1p(-2 * angle / math.pi) + _log_cosh(t * h)))


@dataclass(frozen=True)
class Sparse(Noise):
    """Mostly nothing, rarely a jump of either sign: plus or minus scale / sqrt(probability).

    Above a probability of 1/3 the proxy is the variance (Arbel, Marchal & Nguyen 2020); below, rare large jumps
    make it larger, and it is found numerically.

    Parameters
    ----------
    probability : float
        Of a jump.

    Examples
    --------
    >>> from shrinkstats.theory import Sparse
    >>> print(f"{Sparse(1.0, probability=0.5).variance_proxy:.3f} {Sparse(1.0, probability=0.01).variance_proxy:.3f}")
    1.000 9.446
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if positive_number("probability", self.probability) > 1:
            raise ValueError(f"probability must lie above 0 and at most at 1, got {self.probability}")

    @property
    def variance_proxy(self) -> float:
        """At least the variance."""
        return self.variance if self.probability >= 1 / 3 else _smallest_proxy(self)

    def draw(self, rng: np.random.Generator, size: Size) -> Array:
        """Jumps and zeros."""
        u = rng.random(size)
        jump = self.scale / math.sqrt(self.probability)
        return np.where(u < self.probability / 2, -jump, np.where(u < self.probability, jump, 0.0))

    def log_mgf(self, t: ArrayLike) -> Array:
        """log(1 - p + p cosh(t jump))."""
        p = self.probability
        jump = _log_cosh(real("t", t) * (self.scale / math.sqrt(p)))
        return np.logaddexp(math.log1p(-p) if p < 1 else -math.inf, math.log(p) + jump)


@dataclass(frozen=True)
class WorstCase:
    """An adversary who sees the whole sample and moves it so that the estimator's loss is as large as it can be.

    All observations of a batch move by one vector within a ball: that moves the sample means by as much, the most
    that such a budget for every observation allows, and leaves the sample variances alone. Each estimator is
    attacked by its own adversary.

    Parameters
    ----------
    budget : float
        Radius of the ball, in the units of the data.
    norm : {"l2", "linf"}
        The norm that measures the vector over the channels.

    Raises
    ------
    ValueError
        If the budget is not positive and finite, or the norm is neither.

    Examples
    --------
    >>> from shrinkstats.theory import WorstCase
    >>> WorstCase(0.5).variance_proxy
    0.25
    """

    budget: float
    norm: str = "l2"

    def __post_init__(self) -> None:
        positive_number("budget", self.budget)
        if not isinstance(self.norm, str) or self.norm not in ("l2", "linf"):
            raise ValueError(f'norm must be "l2" or "linf", got {self.norm!r}')

    @property
    def variance_proxy(self) -> float:
        """The proxy of any channel's shift, which lies within plus or minus the budget (Hoeffding's lemma)."""
        return self.budget**2


def _log_cosh(x: Array) -> Array:
    x = np.abs(x)
    return x + np.log1p(np.exp(-2 * x)) - math.log(2)


@lru_cache(maxsize=256)
def _smallest_proxy(noise: Noise) -> float:
    """The supremum of 2 log E exp(t X) / t^2; towards 0 it is the variance, for large t a bounded X takes it to 0."""
    grid = np.geomspace(1e-2, 1e3, 400) / math.sqrt(noise.variance)
    ratio = 2 * noise.log_mgf(grid) / grid**2
    best = int(np.argmax(ratio))
    bounds = np.log(grid[[max(best - 1, 0), min(best + 1, grid.size - 1)]])
    found = minimize_scalar(
        lambda s: -2 * float(noise.log_mgf(math.exp(s))) / math.exp(2 * s), bounds=bounds, method="bounded"
    )
    return max(noise.variance, float(ratio[best]), -float(found.fun))
