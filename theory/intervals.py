"""Interval arithmetic with derivatives: what a formula and its slope are sure to lie between.

`enclose` evaluates a formula on whole intervals at once. Every operation rounds outwards, so the true range is
inside what comes out, whatever the formula; where it cannot be narrowed the bounds are wide, never wrong.
Derivatives go along by the chain rule (forward mode), kinks included: there the slope is between those of the sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LIBRARY_ULPS = 4  # elementary functions of NumPy are not correctly rounded, but are within this


@dataclass(frozen=True)
class Interval:
    """Closed intervals [low, high], one an entry; infinite ends are allowed and are not attained."""

    low: Vector
    high: Vector

    @property
    def bounded(self) -> NDArray[np.bool_]:
        return np.isfinite(self.low) & np.isfinite(self.high)

    @staticmethod
    def point(x: float) -> Interval:
        value = np.asarray(x, dtype=np.float64)
        return Interval(value, value)

    def __add__(self, other: Interval) -> Interval:
        with np.errstate(invalid="ignore", over="ignore"):
            return _outward(self.low + other.low, self.high + other.high)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Interval) -> Interval:
        return self + (-other)

    def __mul__(self, other: Interval) -> Interval:
        lows, highs = [], []
        for a in (self.low, self.high):
            for b in (other.low, other.high):
                sign = np.sign(a) * np.sign(b)
                with np.errstate(invalid="ignore", over="ignore", under="ignore"):
                    product = np.where(sign == 0, 0.0, a * b)  # an infinite end is not attained: times 0 it is 0
                # Rounded outwards, but never past 0, which the sign is sure of even where the product underflows.
                low, high = _down(product), _up(product)
                lows.append(np.where(sign >= 0, np.maximum(low, 0.0), low))
                highs.append(np.where(sign <= 0, np.minimum(high, 0.0), high))
        return Interval(np.minimum.reduce(lows), np.maximum.reduce(highs))

    def reciprocal(self) -> Interval:
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            low, high = _down(1 / self.high), _up(1 / self.low)
        low, high = np.where(np.isinf(self.high), 0.0, low), np.where(np.isinf(self.low), 0.0, high)
        positive, negative = self.low >= 0, self.high <= 0
        low = np.where(negative & (self.high == 0), -np.inf, low)
        high = np.where(positive & (self.low == 0), np.inf, high)
        known = (positive | negative) & ~((self.low == 0) & (self.high == 0))
        return Interval(np.where(known, low, -np.inf), np.where(known, high, np.inf))

    def hull(self, other: Interval) -> Interval:
        return Interval(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def increasing(self, function: Callable[[Vector], Vector]) -> Interval:
        """The image under an increasing function of NumPy's."""
        with np.errstate(all="ignore"):
            low, high = function(self.low), function(self.high)
        for _ in range(LIBRARY_ULPS):  # what is 0 at 0 is so exactly; 0 elsewhere is an underflow
            low = np.where((low == 0) & (self.low == 0), low, _down(low))
            high = np.where((high == 0) & (self.high == 0), high, _up(high))
        return Interval(low, high)


def _down(x: Vector) -> Vector:
    with np.errstate(over="ignore", under="ignore"):
        return np.nextafter(x, -np.inf)


def _up(x: Vector) -> Vector:
    with np.errstate(over="ignore", under="ignore"):
        return np.nextafter(x, np.inf)


def _outward(low: Vector, high: Vector) -> Interval:
    """Sums rounded outwards: 0 is exact. NaN, which is what infinity minus infinity gives, is no bound at all."""
    low = np.where(low == 0, low, _down(low))
    high = np.where(high == 0, high, _up(high))
    return Interval(np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high))


@dataclass(frozen=True, eq=False)
class Enclosure:
    """A value and its derivative, both known to lie between bounds. Formulas compute with it as with an array."""

    value: Interval
    slope: Interval

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Enclosure:
        operation = _UFUNCS.get(ufunc.__name__)
        if operation is None or method != "__call__" or options:
            raise TypeError(
                f"a rule that is to be proved cannot use numpy.{ufunc.__name__}; there are {', '.join(sorted(_UFUNCS))}"
            )
        result: Enclosure = operation(*map(_enclosure, inputs))
        return result

    def __add__(self, other: Any) -> Enclosure:
        other = _enclosure(other)
        return Enclosure(self.value + other.value, self.slope + other.slope)

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.value, -self.slope)

    def __sub__(self, other: Any) -> Enclosure:
        return self + (-_enclosure(other))

    def __mul__(self, other: Any) -> Enclosure:
        other = _enclosure(other)
        return Enclosure(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def __truediv__(self, other: Any) -> Enclosure:
        other = _enclosure(other)
        inverse = other.value.reciprocal()
        return self * Enclosure(inverse, -(other.slope * inverse * inverse))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Enclosure:
        return _enclosure(other) - self

    def __rtruediv__(self, other: Any) -> Enclosure:
        return _enclosure(other) / self

    def __pow__(self, power: int) -> Enclosure:
        if not isinstance(power, int) or power < 1:
            raise TypeError(f"powers must be whole numbers above 0, got {power!r}; write others with exp and log")
        result = self
        for _ in range(power - 1):
            result = result * self
        return result

    def __bool__(self) -> bool:
        raise TypeError("a rule that is to be proved cannot branch on a number: use minimum and maximum")

    def __lt__(self, other: Any) -> bool:
        return bool(self)  # raises: an interval is neither below nor above

    __le__ = __gt__ = __ge__ = __lt__


def enclose(formula: Callable[[Any], Any], low: Vector, high: Vector) -> Enclosure:
    """Bounds of formula(w) and of its derivative for w in [low, high], entry by entry.

    Raises
    ------
    TypeError
        If the formula uses what has no interval version.
    """
    one = Interval.point(1.0)
    result = _enclosure(formula(Enclosure(Interval(low, high), one)))
    shape = np.shape(low)
    bounds = (result.value.low, result.value.high, result.slope.low, result.slope.high)
    a, b, c, d = (np.broadcast_to(x, shape) for x in bounds)
    return Enclosure(Interval(a, b), Interval(c, d))


def _enclosure(x: Any) -> Enclosure:
    if isinstance(x, Enclosure):
        return x
    if isinstance(x, (int, float, np.integer, np.floating)) and math.isfinite(x):
        if float(x) != x:
            raise TypeError(f"{x!r} is not exactly a float")
        return Enclosure(Interval.point(float(x)), Interval.point(0.0))
    raise TypeError(f"a rule that is to be proved computes with finite numbers alone, got {type(x).__name__}")


def _chosen(left: Enclosure, right: Enclosure, *, larger: bool) -> Enclosure:
    """The maximum or minimum: where it is not clear whose it is, the slope is between both."""
    pick = np.maximum if larger else np.minimum
    a, b = left.value, right.value
    left_wins, right_wins = (a.low > b.high, b.low > a.high) if larger else (a.high < b.low, b.high < a.low)
    both = left.slope.hull(right.slope)

    def slope(end: str) -> Vector:
        ours, theirs, unclear = (getattr(x, end) for x in (left.slope, right.slope, both))
        chosen: Vector = np.where(left_wins, ours, np.where(right_wins, theirs, unclear))
        return chosen

    return Enclosure(Interval(pick(a.low, b.low), pick(a.high, b.high)), Interval(slope("low"), slope("high")))


def _exp(x: Enclosure) -> Enclosure:
    value = _at_least(x.value.increasing(np.exp), 0.0)
    # exp(0) is 1 exactly, which rounding outwards would lose.
    low = np.where(x.value.low >= 0, np.maximum(value.low, 1.0), value.low)
    high = np.where(x.value.high <= 0, np.minimum(value.high, 1.0), value.high)
    value = Interval(low, high)
    return Enclosure(value, x.slope * value)


def _expm1(x: Enclosure) -> Enclosure:
    return Enclosure(_at_least(x.value.increasing(np.expm1), -1.0), x.slope * _exp(x).value)


def _log(x: Enclosure) -> Enclosure:
    _check(x.value.low >= 0, "log of a negative number")
    return Enclosure(x.value.increasing(np.log), x.slope * x.value.reciprocal())


def _log1p(x: Enclosure) -> Enclosure:
    _check(x.value.low >= -1, "log1p of a number below -1")
    return Enclosure(x.value.increasing(np.log1p), x.slope * (x.value + Interval.point(1.0)).reciprocal())


def _sqrt(x: Enclosure) -> Enclosure:
    _check(x.value.low >= 0, "sqrt of a negative number")
    root = _at_least(x.value.increasing(np.sqrt), 0.0)
    return Enclosure(root, x.slope * (root + root).reciprocal())


def _tanh(x: Enclosure) -> Enclosure:
    value = x.value.increasing(np.tanh)
    ends = Interval.point(1.0) - value * value
    return Enclosure(value, x.slope * Interval(np.clip(ends.low, 0.0, 1.0), np.clip(ends.high, 0.0, 1.0)))


def _arctan(x: Enclosure) -> Enclosure:
    square = x.value * x.value
    return Enclosure(
        x.value.increasing(np.arctan), x.slope * (_at_least(square, 0.0) + Interval.point(1.0)).reciprocal()
    )


def _at_least(x: Interval, bound: float) -> Interval:
    return Interval(np.maximum(x.low, bound), np.maximum(x.high, bound))


def _check(fine: NDArray[np.bool_], what: str) -> None:
    if not np.all(fine):
        raise ValueError(f"{what} may occur in the formula")


_UFUNCS: dict[str, Callable[..., Enclosure]] = {
    "add": Enclosure.__add__,
    "subtract": Enclosure.__sub__,
    "multiply": Enclosure.__mul__,
    "divide": Enclosure.__truediv__,
    "negative": Enclosure.__neg__,
    "square": lambda x: x * x,
    "minimum": lambda x, y: _chosen(x, y, larger=False),
    "maximum": lambda x, y: _chosen(x, y, larger=True),
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "sqrt": _sqrt,
    "tanh": _tanh,
    "arctan": _arctan,
}
