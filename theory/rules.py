"""Shrinkage rules as theory looks at them: sample means and their noise in, an estimate out.

The rules that theorems speak of shrink the deviation d = mean - target by a factor that depends on it through
w = sum d^2 / noise alone: ``estimate = target + (1 - a(w) / w) d``. `amount` is a(w), the number that would stand
where James and Stein put c - 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkstats._arrays import positive_number
from shrinkstats.mean import channel_james_stein, james_stein
from shrinkstats.rules.base import CHANNEL, SAMPLE_MEAN
from shrinkstats.theory.arguments import number, real

Vector = NDArray[np.float64]


JAMES_STEIN = "towards the target by the factor of James and Stein, whose amount `level` gives"
SYMMETRIC = "towards the target by a factor of w, whose amount `amount` gives"


@dataclass(frozen=True)
class SampleMean:
    """The sample mean itself: the minimax rival of every other rule.

    Examples
    --------
    >>> from shrinkstats.theory import SampleMean
    >>> SampleMean()([1.0, 2.0], 0.5)
    array([1., 2.])
    """

    mean_is: ClassVar[str] = SAMPLE_MEAN

    def __call__(self, mean: ArrayLike, noise: ArrayLike) -> Vector:
        return real("mean", mean)


@dataclass(frozen=True)
class JamesStein:
    """James-Stein with any constant, with or without the positive part.

    Parameters
    ----------
    constant : float
        What c - 2 is multiplied by (c - 3 if the target is the grand mean). 1 is best without the positive part,
        2 ties with the sample mean.
    positive_part : bool
        Cut the factor off at zero.
    target : float or "mean"
        Where to shrink to: a number, or the grand mean.
    df : float, optional
        Multiply by df / (df + 2), for a noise estimated on as many degrees of freedom. Whether the noise is
        estimated is not for the rule to say: see `noise_df` of :func:`shrinkstats.theory.certify`.

    Raises
    ------
    ValueError
        If `constant` is negative, `df` not positive, one of them infinite, or `target` neither finite nor "mean".
    TypeError
        If one of them is no number.

    References
    ----------
    James & Stein (1961); Baranchik (1964); Lindley (1962), the grand mean; Bock (1975), unequal noise.

    Examples
    --------
    >>> from shrinkstats.theory import JamesStein
    >>> JamesStein()([1.0, -2.0, 0.5, 3.0], 0.8).round(3)
    array([ 0.888, -1.775,  0.444,  2.663])
    """

    mean_is: ClassVar[str] = JAMES_STEIN

    constant: float = 1.0
    positive_part: bool = True
    target: float | str = 0.0
    df: float | None = None

    def __post_init__(self) -> None:
        constant = number("constant", self.constant)
        if constant < 0:
            raise ValueError(f"constant must be a finite number, at least 0, got {constant:g}")
        _keep(self, "constant", constant)
        if not isinstance(self.target, str):
            _keep(self, "target", number("target", self.target))
        elif self.target != "mean":
            raise ValueError(f'target must be a finite number or "mean", got {self.target!r}')
        if self.df is not None:
            _keep(self, "df", positive_number("df", self.df))

    def __call__(self, mean: ArrayLike, noise: ArrayLike) -> Vector:
        """The estimate.

        Parameters
        ----------
        mean : array of shape (..., c)
            Sample means; leading axes are a stack of independent problems.
        noise : float or array of shape (..., 1) or (..., c)
            Sampling variance of each mean. Unequal entries give Bock's factor.

        Returns
        -------
        array of shape (..., c)
        """
        mean, scaled = real("mean", mean), self.constant * real("noise", noise)
        shrunk = james_stein(mean, scaled, target=self.target, df=self.df, positive_part=self.positive_part)
        return np.asarray(shrunk.estimate)

    def dimension(self, dim: int) -> int:
        """How many coordinates are shrunk: one less around the grand mean."""
        return dim - (self.target == "mean")

    def level(self, dim: int) -> Fraction:
        """The largest value of `amount`, as an exact fraction: 0 where there is nothing to borrow from."""
        gain = Fraction(1) if self.df is None else Fraction(self.df) / (Fraction(self.df) + 2)
        return Fraction(self.constant) * gain * max(self.dimension(dim) - 2, 0)

    def amount(self, w: Any, dim: int) -> Any:
        """a(w)."""
        level = to_float(self.level(dim))
        return np.minimum(w, level) if self.positive_part else level + 0 * w

    def without_positive_part(self) -> JamesStein:
        """The rule that this one is the positive part of."""
        return replace(self, positive_part=False)


@dataclass(frozen=True)
class ChannelJamesStein:
    """:func:`shrinkstats.channel_james_stein`, whose noise is the spread between channels: it ignores `noise`.

    Examples
    --------
    >>> from shrinkstats.theory import ChannelJamesStein
    >>> ChannelJamesStein()([0.3, -1.1, 2.0, 0.7, 1.4], 0.0).round(4)
    array([ 0.1922, -0.7046,  1.281 ,  0.4484,  0.8967])
    """

    mean_is: ClassVar[str] = CHANNEL

    def __call__(self, mean: ArrayLike, noise: ArrayLike) -> Vector:
        return np.asarray(channel_james_stein(real("mean", mean)).estimate)


@dataclass(frozen=True)
class SymmetricRule:
    """A rule of your own, given by its formula for a(w).

    Parameters
    ----------
    formula : callable
        a as a function of w > 0, written with arithmetic and NumPy's minimum, maximum, exp, expm1, log, log1p,
        sqrt, square, tanh and arctan. It is called with arrays to estimate, and with intervals to prove: no `if`,
        no `where`, nothing that needs to know a number.
    target : float
        Where to shrink to.

    Notes
    -----
    Nothing is multiplied to a: a rule for c channels has c - 2, or a number near it, in its formula.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.theory import SymmetricRule
    >>> smooth = SymmetricRule(lambda w: 8 * (1 - np.exp(-w / 8)))  # a smooth positive part in 10 dimensions
    >>> print(smooth(np.ones(10), 1.0).round(3)[0])
    0.429
    """

    mean_is: ClassVar[str] = SYMMETRIC

    formula: Callable[[Any], Any]
    target: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.formula):
            raise TypeError(f"formula must be callable, a(w), got {type(self.formula).__name__}")
        _keep(self, "target", number("target", self.target))

    def __call__(self, mean: ArrayLike, noise: ArrayLike) -> Vector:
        """The estimate, from means (..., c) and their common noise, a number or (..., 1)."""
        mean, noise = real("mean", mean), real("noise", noise)
        deviation = mean - self.target
        if noise.ndim and noise.shape[-1] != 1:
            raise ValueError(
                f"noise of shape {noise.shape} has a value for every channel; a symmetric rule takes one for all: "
                "a number, or a last axis of 1"
            )
        if not np.all(noise >= 0):
            raise ValueError(f"noise must not be negative, got {np.min(noise):g}")
        squares = np.sum(deviation**2, axis=-1, keepdims=True)
        noisy = noise > 0  # means without noise are right as they are
        w = squares / np.where(noisy, noise, 1.0)
        safe = np.where(noisy & (w > 0), w, 1.0)
        shrunk = self.target + (1 - self.formula(safe) / safe) * deviation
        return np.where(noisy, shrunk, mean)

    def amount(self, w: Any, dim: int) -> Any:
        """a(w)."""
        return self.formula(w)


def to_float(x: Fraction) -> float:
    """The nearest float, infinity included."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _keep(rule: Any, name: str, value: float) -> None:
    """The value of a field, if what was given is a number of another kind; Python's own are kept as they were given."""
    if not isinstance(getattr(rule, name), (int, float)):
        object.__setattr__(rule, name, value)
