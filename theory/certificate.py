r"""Proofs that one estimate of a normal mean is better than another wherever the true mean is.

For :math:`X \sim N(\theta, v I_c)` and rules ``target + (1 - a(w) / w) (X - target)`` with
:math:`w = \|X - t\|^2 / v`, Stein's unbiased risk estimate of the rule a less that of the rule b is N(w)/w times v,

.. math:: N = (a - b) \left[(1 + \tfrac{2}{m})(a + b) - 2 (c - 2)\right]
          - 4 w \left[a' (1 + \tfrac{a}{m}) - b' (1 + \tfrac{b}{m})\right],

where m is infinite if v is known, and the degrees of freedom if w holds an independent estimate of v in its place
(Efron & Morris 1976). Both rules being bounded and without jumps, N <= 0 for every w > 0 proves that the risk of a
is nowhere above that of b, and it is below everywhere if N < 0 on some interval.

How N <= 0 is shown depends on the rules. Of the James-Stein family N is a quadratic on each of at most three pieces,
the last one of which is constant and reaches to infinity: its maximum is found in exact fractions. For a rule given
by a formula, interval arithmetic bounds N on cells that cover all of [0, infinity) (:mod:`.intervals`), which are
split until every bound is at most 0; the bound on a cell holds between its points, and the last cell is the tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats._arrays import positive_number
from shrinkstats.rules.base import BOCK as BOCK_FACTOR
from shrinkstats.rules.base import SAMPLE_MEAN, said
from shrinkstats.theory.arguments import at_least, check_rules
from shrinkstats.theory.intervals import Enclosure, Interval, enclose
from shrinkstats.theory.risk import check_dimension
from shrinkstats.theory.rules import JAMES_STEIN, SYMMETRIC, JamesStein, to_float

Vector = NDArray[np.float64]
Formula = Callable[[Any], Any]  # a(w), of arrays or of enclosures

STEIN = "Stein (1981), unbiased risk estimate"
EFRON_MORRIS = "Efron & Morris (1976), unbiased risk estimate with estimated variance"
BARANCHIK = "Baranchik (1964), positive part; "
BOCK = "James & Stein (1961) and Baranchik (1964), conditional on the noise; the amount of Bock (1975)"

ROUNDS = 80  # of splitting cells
MOST_CELLS = 100_000  # at a time, undecided

NO_SHRINKAGE = JamesStein(constant=0.0, positive_part=False)  # the sample mean as a member of the family


@dataclass(frozen=True)
class Certificate:
    """Whether dominance is proved, and by what.

    Attributes
    ----------
    proved : bool
        The estimator's risk is nowhere above the baseline's and somewhere below, under independent Gaussian noise
        of one variance. False says that no proof was found, not that there is none.
    reason : str
        What was checked, or what is missing.
    source : str
        The theorem that the proof rests on; empty without a proof.
    margin : float or None
        How far inside its condition the proof is, in the condition's own units: minus the largest value of N, or a
        bound of it. 0 is still a proof if it is proved: N vanishes at w = 0 for every rule with a positive part.
        None where nothing was checked.
    """

    proved: bool
    reason: str
    source: str = ""
    margin: float | None = None


def certify(
    estimator: Any, baseline: Any, *, dim: int, n: int | None = None, noise_df: float | None = None
) -> Certificate:
    r"""Try to prove that an estimator of a normal mean dominates another.

    Squared error, independent Gaussian noise of the same variance in every channel, any true mean.

    Parameters
    ----------
    estimator, baseline : rule or estimator
        Rules such as :class:`~shrinkstats.theory.JamesStein`, or those of :mod:`shrinkstats.estimators`, of which the
        means are compared. Of a class derived from one of these, which overrides anything, nothing is proved.
    dim : int
        c, the number of channels.
    n : int, optional
        Independent observations per channel, which an estimator of :mod:`shrinkstats.estimators` takes its noise from.
    noise_df : float, optional
        For rules: degrees of freedom of the noise they are given, if that is an estimate: independent of the means,
        common to all channels and chi-square distributed. Infinity says that it is the true one, and so does None
        unless a rule has a `df`, which is then taken.

    Returns
    -------
    Certificate
        `proved` or not, and why.

    Raises
    ------
    ValueError
        If `dim` or `n` is below 1, `noise_df` not positive, None where two rules differ in `df`, or given for an
        estimator that finds its noise itself, or if a formula does not give what its bounds say.
    TypeError
        If a rule is none (but a class, or a name), `dim` or `n` is no whole number, `noise_df` no number, or a formula
        uses what has no bounds (see :class:`SymmetricRule`).

    Notes
    -----
    Where N <= 0 fails for a positive part, the rule without it may still be proved to be as good: the positive part
    is better than that at every true mean (Baranchik 1964: where the factor is negative, 0 makes the estimate
    shorter, and the part of the true mean along it no smaller on average).

    ``Stein(mean="sampling")`` shrinks by :math:`A / \|m\|^2` with :math:`A = (\sum_i v_i - 2 \max_i v_i)_+` of the
    estimated noises, independent of the means. Given A it is James-Stein, whose risk less cv is
    :math:`(A^2 - 2 (c-2) v A)\,E\|m\|^{-2}`, so it dominates if :math:`E A^2 \le 2 (c-2) v\, E A`. With
    T the sum of the :math:`v_i` and :math:`g = (1 - 2 \max_i v_i / T)_+ \le (c-2)/c`, which is independent of T,

    .. math:: \frac{E A^2}{E A} = \frac{E T^2}{E T} \frac{E g^2}{E g}
              \le v \left(c + \frac{2}{n - 1}\right) \frac{c - 2}{c},

    which is below 2 (c - 2) v for c >= 3 and n >= 2. Its positive part is better still. True variances that differ
    between channels are outside this argument.

    References
    ----------
    Stein (1981), "Estimation of the mean of a multivariate normal distribution". Efron & Morris (1976), "Families of
    minimax estimators of the mean of a multivariate normal distribution". Baranchik (1964), "Multiple regression and
    estimation of the mean of a multivariate normal distribution"; (1970), "A family of minimax estimators", whose
    class (a nondecreasing, 0 <= a <= 2(c-2)) has N <= 0.

    Examples
    --------
    >>> from shrinkstats.theory.certificate import certify
    >>> from shrinkstats.theory import JamesStein, SampleMean
    >>> certify(JamesStein(), SampleMean(), dim=3).proved
    True
    >>> print(certify(JamesStein(constant=2.0, positive_part=False), SampleMean(), dim=3).reason)
    the risks are equal everywhere
    """
    dim = check_dimension(dim)
    n = None if n is None else at_least("n", 1, n)
    check_rules(estimator=estimator, baseline=baseline)
    left, right = _as_rule(estimator), _as_rule(baseline)
    if said(left, "mean_is") == BOCK_FACTOR and _is_james_stein(right) and not right.level(dim):
        if noise_df is not None:
            raise ValueError(f"{left} estimates its own noise, from n observations: leave noise_df out")
        return _sampling_noise(dim, n)
    noise_df = _noise_df(noise_df, left, right)
    for rule in (left, right):
        if said(rule, "mean_is") not in (JAMES_STEIN, SYMMETRIC):
            return Certificate(False, f"no theorem here covers {getattr(rule, '__qualname__', repr(rule))}")
    targets = {rule.target for rule in (left, right) if not (_is_james_stein(rule) and rule.level(dim) == 0)}
    if not targets:
        return Certificate(False, "both are the sample mean: the risks are equal everywhere", margin=0.0)
    if len(targets) > 1:
        return Certificate(False, "the targets differ, and which rule is better depends on the true mean")
    model = _Model(dim - (targets == {"mean"}), noise_df)
    if _is_james_stein(left) and _is_james_stein(right):
        return _exact(model, *(_Family(rule.level(dim), rule.positive_part) for rule in (left, right)))
    if model.dim < 3:
        return Certificate(False, f"Stein's identity needs 3 dimensions for rules of this kind, got {model.dim}")
    if any(_is_james_stein(rule) and math.isinf(to_float(rule.level(dim))) for rule in (left, right)):
        return Certificate(False, "the constant leaves the range of floating-point numbers")
    return _by_intervals(model, *(partial(rule.amount, dim=dim) for rule in (left, right)))


def _as_rule(estimator: Any) -> Any:
    """The sample mean, under whatever name, as a member of the James-Stein family; others as they are."""
    return NO_SHRINKAGE if said(estimator, "mean_is") == SAMPLE_MEAN else estimator


def _is_james_stein(rule: Any) -> bool:
    return bool(said(rule, "mean_is") == JAMES_STEIN)


def _sampling_noise(dim: int, n: int | None) -> Certificate:
    if dim < 3:
        return Certificate(False, "below 3 channels it is the sample mean: the risks are equal everywhere", margin=0.0)
    if n is None or n < 2:
        return Certificate(False, f"the noise needs at least 2 observations per channel, got n={n}")
    margin = 2 * (dim - 2) - (dim + 2 / (n - 1)) * (dim - 2) / dim
    reason = f"E A^2 / E A of the amount of shrinkage A is below 2 (c - 2) v by at least {margin:g} v"
    return Certificate(True, reason, BOCK, margin)


def _noise_df(noise_df: float | None, *rules: Any) -> float:
    if noise_df is not None:
        return positive_number("noise_df", noise_df, infinite=True)
    stated = {rule.df for rule in rules if _is_james_stein(rule) and rule.df is not None}
    if len(stated) > 1:
        raise ValueError(f"the rules have different df, {sorted(stated)}: say with noise_df what the noise has")
    return float(stated.pop()) if stated else math.inf


class _Model(NamedTuple):
    """Dimension and degrees of freedom (infinite if the noise is known) that N depends on."""

    dim: int
    noise_df: float

    @property
    def source(self) -> str:
        return STEIN if math.isinf(self.noise_df) else EFRON_MORRIS


class _Family(NamedTuple):
    """James-Stein: a(w) is the level, or min(w, level) for the positive part."""

    level: Fraction
    positive_part: bool


def _exact(model: _Model, left: _Family, right: _Family) -> Certificate:
    """Decide between two of the James-Stein family, in fractions."""
    largest, differ = _largest(model, left, right)
    if largest <= 0 and differ:
        return Certificate(True, "N(w) <= 0 for every w > 0, in exact arithmetic", model.source, to_float(-largest))
    if left.positive_part and left.level > 0:
        plain, _ = _largest(model, left._replace(positive_part=False), right)
        if plain <= 0:
            reason = "better than the same rule without the positive part, which has N(w) <= 0 for every w > 0"
            return Certificate(True, reason, BARANCHIK + model.source, to_float(-plain))
    if largest == 0:
        return Certificate(False, "the risks are equal everywhere", margin=0.0)
    margin = to_float(-largest)
    return Certificate(False, f"N(w) is not <= 0 for every w: it reaches {-margin:g}", margin=margin)


def _largest(model: _Model, left: _Family, right: _Family) -> tuple[Fraction, bool]:
    """The supremum of N(w), and whether N is other than 0 somewhere: negative, if that is the supremum."""
    per_df = Fraction(0) if math.isinf(model.noise_df) else 1 / Fraction(model.noise_df)
    shrink = 2 * (model.dim - 2)
    starts = sorted({Fraction(0), *(rule.level for rule in (left, right) if rule.positive_part)})
    values: list[Fraction] = []
    differ = False
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        n0 = n1 = n2 = Fraction(0)  # N = n0 + n1 w + n2 w^2 on this piece: a's part less b's
        for sign, (level, positive_part) in ((1, left), (-1, right)):
            if positive_part and start < level:  # a = w
                n1 -= sign * (shrink + 4)
                n2 += sign * (1 - 2 * per_df)
            else:
                n0 += sign * level * ((1 + 2 * per_df) * level - shrink)
        at = [start] if end is None else [start, end]  # beyond the last kink N is constant
        if end is not None and n2 != 0 and start < (top := -n1 / (2 * n2)) < end:
            at.append(top)
        values += [n0 + n1 * w + n2 * w * w for w in at]
        differ = differ or any((n0, n1, n2))
    return max(values), differ


def _by_intervals(model: _Model, left: Formula, right: Formula) -> Certificate:
    """Bound N of two formulas on cells that cover [0, infinity), split until every bound is at most 0."""
    edges = np.concatenate([[0.0], 4.0 ** np.arange(-10, 21), [np.inf]])
    _check_formulas(edges[1:-1], left, right)
    low, high = edges[:-1], edges[1:]
    largest, negative = -math.inf, False
    for _ in range(ROUNDS):
        a, b = enclose(left, low, high), enclose(right, low, high)
        bound = _bound(model, a, b, low, high)
        # An unbounded rule has no finite risk to speak of; Stein's identity is for bounded ones, without jumps. A jump
        # is where a divisor changes its sign: within a cell it leaves no bound, and between two each sees one side.
        settled = (bound <= 0) & a.value.bounded & b.value.bounded & _smooth(high, left, right)
        largest = max([largest, *bound[settled].tolist()])
        negative = negative or bool(np.any(bound[settled] < 0))
        low, high = low[~settled], high[~settled]
        if not low.size:
            if negative:
                return Certificate(True, "N(w) <= 0 on cells that cover every w", model.source, 0.0 - largest)
            return Certificate(False, "N(w) may be 0 everywhere: the risks may be equal", margin=0.0 - largest)
        middle = _middle(low, high)
        value = _at(model, left, right, middle)
        if np.any(value > 0):
            worst = int(np.argmax(value))
            return Certificate(False, f"N(w) is {value[worst]:g} at w = {middle[worst]:g}", margin=-float(value[worst]))
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        if low.size > MOST_CELLS:
            break
    if np.isinf(high).any():
        where = (
            "the tail, where a must be bounded and not fall (k / (1 + s / w) is seen to do so, k w / (w + s) is not)"
        )
    else:
        where = f"w between {np.min(low):g} and {np.max(high):g}"
    return Certificate(False, f"no bound of N(w) could be had for {where}")


def _check_formulas(w: Vector, *formulas: Formula) -> None:
    """Whether formulas do to numbers what they do to intervals."""
    for formula in formulas:
        with np.errstate(all="ignore"):  # a formula may be infinite somewhere on its way to a number
            bounds, value = enclose(formula, w, w).value, np.broadcast_to(formula(w), w.shape)
        slack = 1e-9 * (1 + np.abs(value))
        outside = ~((bounds.low - slack <= value) & (value <= bounds.high + slack))
        if outside.any():
            i = int(np.argmax(outside))
            raise ValueError(
                f"the formula gives {value[i]:g} at w = {w[i]:g}, outside of its bounds "
                f"[{bounds.low[i]:g}, {bounds.high[i]:g}]; it must depend on w alone, the same way whatever w is"
            )


def _at(model: _Model, left: Formula, right: Formula, w: Vector) -> Vector:
    """A lower bound of N at points."""
    return -_bound(model, enclose(right, w, w), enclose(left, w, w), w, w)


def _bound(model: _Model, a: Enclosure, b: Enclosure, low: Vector, high: Vector) -> Vector:
    """An upper bound of N on each cell."""
    one, per_df = Interval.point(1.0), Interval.point(model.noise_df).reciprocal()
    bracket = (one + per_df + per_df) * (a.value + b.value) - Interval.point(2.0 * (model.dim - 2))
    bias = (a.value - b.value) * bracket
    slopes = a.slope * (one + a.value * per_df) - b.slope * (one + b.value * per_df)
    return (bias - Interval.point(4.0) * Interval(low, high) * slopes).high


def _smooth(w: Vector, *formulas: Formula) -> NDArray[np.bool_]:
    """Whether slopes are bounded at w, where two cells meet; infinity is the end of the last one."""
    inside = np.where(np.isinf(w), 1.0, w)
    bounded = np.logical_and.reduce([enclose(f, inside, inside).slope.bounded for f in formulas])
    return np.asarray(np.isinf(w) | bounded)


def _middle(low: Vector, high: Vector) -> Vector:
    """Where to split: far out and near 0 by ratios."""
    with np.errstate(invalid="ignore", over="ignore"):
        middle = np.where(high > 4 * low, np.sqrt(low) * np.sqrt(high), (low + high) / 2)
    return np.where(low == 0, high / 16, np.where(np.isinf(high), 16 * low, middle))
