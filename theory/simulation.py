"""Losses of two estimates on the same draws, block by block.

A block's draws come from a generator seeded by the seed and the block's number: results do not depend on how blocks
are dealt out to tasks, threads, processes or machines. Every point (radius and direction) sees the same draws.

Rules that shrink the deviation from the target by one factor need only a few sums of a drawn vector, whatever its
length, and the sums of one vector serve every radius. Under Gaussian noise two numbers with known laws stand for them:
the vector is then never drawn. All other rules compute their estimates from means and variances, in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats import Moments, Prior
from shrinkstats.estimators import Estimator
from shrinkstats.kernels.compiled import REORDER, jit
from shrinkstats.rules.base import BOCK, CHANNEL, SAMPLE_MEAN, said
from shrinkstats.theory.attack import scaled, searched_loss, worst_symmetric_loss
from shrinkstats.theory.noise import ClippedCauchy, Noise, WorstCase, is_gaussian
from shrinkstats.theory.rules import JAMES_STEIN, SYMMETRIC
from shrinkstats.theory.sequential import Tally

Array = NDArray[np.float64]

BLOCK = 4096  # replicates
CHUNK = 2**17  # numbers held at once of each kind


class Point(NamedTuple):
    """Where the truth lies: its distance from the target in standard errors, and a direction by name."""

    radius: float
    direction: str


@dataclass(frozen=True)
class Problem:
    """Two rules, what they estimate, and the law of the data; see `verify_dominance` for the fields."""

    estimator: Any
    baseline: Any
    dim: int
    n: int
    noise: Noise
    attack: Noise | WorstCase | None
    statistic: str
    loss: str | tuple[float, ...]
    known_variance: float | None
    prior: Prior | None
    seed: int

    @property
    def sd(self) -> float:
        """Standard deviation of one observation, without the attack."""
        return math.sqrt(self.noise.variance)

    @property
    def target(self) -> Any:
        """Where the estimator shrinks to, or else the baseline."""
        if self.prior is not None:
            return np.asarray(self.prior.mean, dtype=np.float64)
        targets = (getattr(rule, "target", None) for rule in (self.estimator, self.baseline))
        return next((t for t in targets if isinstance(t, int | float)), 0.0)


def simulate(problem: Problem, points: Sequence[Point], first: int, last: int) -> list[list[Tally]]:
    """Tallies of the blocks from `first` up to `last`, at every point. Picklable, for executors."""
    losses = _by_sums(problem) if by_sums(problem) else _by_estimates(problem)
    return [losses(points, block) for block in range(first, last)]


def generator(seed: int, *key: int) -> np.random.Generator:
    """Independent for every key."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def direction(problem: Problem, name: str) -> Array:
    """A unit vector; for variances, whose common scale is no deviation, its entries sum to zero."""
    c = problem.dim
    if name == "axis":
        u = np.eye(c)[0]
    elif name == "diagonal":
        u = np.ones(c)
        if problem.statistic == "var":
            u[c // 2 :] = -1
    else:
        u = generator(problem.seed, 2**32 - 1).standard_normal(c)
    if problem.statistic == "var":
        u = u - u.mean()
    return np.asarray(u / np.linalg.norm(u))


# Rules that remove a share of the deviation.


class Sums(NamedTuple):
    """What a factor may depend on, in units of the standard error of one mean: vectors over replicates.

    `squares` is that of the errors and `along` their part along each direction; `total` sums them. `noise` is the
    (estimated) variance of a mean, common to all channels; `bock` is sum v - 2 max v of the channels' own.
    """

    squares: Array
    along: dict[str, Array]
    total: Array
    noise: Array
    bock: Array


def uses_channels(rule: Any) -> bool:
    """Whether a factor needs more than the length of the deviation and the common noise."""
    return said(rule, "mean_is") in (BOCK, CHANNEL)


def _factor_rule(rule: Any) -> bool:
    found = said(rule, "mean_is")
    known = found in (SAMPLE_MEAN, BOCK, CHANNEL, JAMES_STEIN, SYMMETRIC)
    return known and not (found == JAMES_STEIN and isinstance(rule.target, str))


def _adds(attack: Noise | WorstCase | None) -> bool:
    """Whether what an attack does to a sample is the same wherever the sample lies."""
    return not isinstance(attack, Noise) or type(attack).perturb is Noise.perturb


def by_sums(problem: Problem) -> bool:
    """Whether both rules are of this kind and the loss and the attack leave it at that."""
    rules = (problem.estimator, problem.baseline)
    if not all(map(_factor_rule, rules)) or by_extremes(problem):
        return False
    targets = {getattr(rule, "target", 0.0) for rule in rules if not _is_mean(rule)}
    if isinstance(problem.attack, WorstCase):
        attack_fits = problem.attack.norm == "l2" and not any(map(_by_channels, rules))
    else:
        attack_fits = _adds(problem.attack)
    return len(targets) <= 1 and attack_fits and problem.statistic == "mean" and isinstance(problem.loss, str)


def symmetric(problem: Problem) -> bool:
    """Whether one direction stands for all, and two numbers for a vector."""
    return (
        by_sums(problem) and _gaussian(problem) and not any(map(uses_channels, (problem.estimator, problem.baseline)))
    )


def adversary_is_exact(problem: Problem, rule: Any) -> bool:
    """Whether the worst case against this rule is found, not only sought."""
    if not isinstance(problem.attack, WorstCase) or by_sums(problem):
        return True
    return _is_mean(rule) and (isinstance(problem.loss, str) or problem.attack.norm == "linf")


def _by_channels(rule: Any) -> bool:
    """Whether the factor depends on the spread between the channels' means."""
    return bool(said(rule, "mean_is") == CHANNEL)


def _is_mean(rule: Any) -> bool:
    return bool(said(rule, "mean_is") == SAMPLE_MEAN)


def _ignores_noise(rule: Any) -> bool:
    """Whether it takes means alone, and gives them back."""
    return _is_mean(rule) and not isinstance(rule, Estimator)


def _gaussian(problem: Problem) -> bool:
    """Whether means and variances have their normal-theory laws, attack included."""
    attack = problem.attack
    return is_gaussian(problem.noise) and (attack is None or isinstance(attack, WorstCase) or is_gaussian(attack))


def by_extremes(problem: Problem) -> bool:
    """Whether a rule looks at the smallest and largest observations, whose law has no simple form."""
    return any(isinstance(rule, Estimator) and rule.uses_extremes for rule in (problem.estimator, problem.baseline))


def draws_observations(problem: Problem) -> bool:
    """Whether samples are drawn one observation at a time."""
    return not _gaussian(problem) or by_extremes(problem)


def _removed(rule: Any, sums: Sums, total: Array, dim: int) -> Callable[[Array], Array]:
    """The share of the deviation that a rule removes, as a function of the deviation's sum of squares."""
    if _is_mean(rule):
        return np.zeros_like
    if _by_channels(rule):
        spread = (dim - 2) / (dim + 1) if dim > 2 else 0.0
        return lambda squares: spread * (1 - total * total / (dim * np.where(squares > 0, squares, np.inf)))
    if said(rule, "mean_is") == BOCK:
        amount = np.maximum(sums.bock, 0.0)
        return lambda squares: np.minimum(amount, squares) / np.where(squares > 0, squares, 1.0)
    return lambda squares: _from_amount(rule, squares, sums.noise, dim)


def _from_amount(rule: Any, squares: Array, noise: Array, dim: int) -> Array:
    if squares.min() > 0 and noise.min() > 0:
        w = squares / noise
        return np.asarray(rule.amount(w, dim) / w)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        w = squares / noise
        share = rule.amount(w, dim) / w
    # Without noise nothing is removed; of no deviation, whatever one likes.
    return np.where(noise > 0, np.where(squares > 0, share, 1.0), 0.0)


def _by_sums(problem: Problem) -> Callable[[Sequence[Point], int], list[Tally]]:
    rules, c = (problem.estimator, problem.baseline), problem.dim
    budget = 0.0
    if isinstance(problem.attack, WorstCase):
        budget = problem.attack.budget * math.sqrt(problem.n) / problem.sd

    def losses(points: Sequence[Point], block: int) -> list[Tally]:
        names = sorted({p.direction for p in points})
        directions = {name: direction(problem, name) for name in names}
        sums = _draw_sums(problem, block, names) if symmetric(problem) else _sum_up(problem, block, directions)
        return [one(point, sums, directions[point.direction]) for point in points]

    def one(point: Point, sums: Sums, u: Array) -> Tally:
        r, along = point.radius, sums.along[point.direction]
        cross = r * along + sums.squares  # of deviation and error
        squares = np.maximum(r * r + r * along + cross, 0.0)
        total = r * float(u.sum()) + sums.total
        removed = [_removed(rule, sums, total, c) for rule in rules]
        if budget:
            worst = [worst_symmetric_loss(g, squares, r + along, r, budget) for g in removed]
            if is_gaussian(problem.noise):
                # From near the target a factor without bound sends the loss beyond all bounds, and wherever the truth
                # is, some samples come near it, if too rarely to be drawn: the risk is infinite.
                near = [worst_symmetric_loss(g, 0 * squares, 0 * along, r, budget) for g in removed]
                worst = [
                    np.full_like(w, np.inf) if np.isinf(at).any() else w for w, at in zip(worst, near, strict=True)
                ]
            with np.errstate(invalid="ignore"):
                return Tally.of(worst[0], worst[1], worst[0] - worst[1])
        g, h = (share(squares) for share in removed)
        numbers = _paired(sums.squares, cross, squares, g, h)
        if math.isfinite(numbers[-1]):
            return Tally(len(g), *numbers[:-1])
        estimator, baseline = (sums.squares + k * (k * squares - 2 * cross) for k in (g, h))
        return Tally.of(estimator, baseline, estimator - baseline)

    return losses


@jit(fastmath=REORDER)
def _paired(noise, cross, squares, g, h):  # type: ignore[no-untyped-def]
    """What a tally keeps of |error - g deviation|^2 and the same with h, and a number that is finite if all are.

    Their difference is computed without cancellation. Sums are of deviations from the first replicate's losses.
    """
    count = noise.size
    a0 = noise[0] + g[0] * (g[0] * squares[0] - 2 * cross[0])
    b0 = noise[0] + h[0] * (h[0] * squares[0] - 2 * cross[0])
    d0 = (g[0] - h[0]) * ((g[0] + h[0]) * squares[0] - 2 * cross[0])
    a1, a2, b1, b2, d1, d2, smallest, largest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, d0, d0
    for i in range(count):
        a = noise[i] + g[i] * (g[i] * squares[i] - 2 * cross[i]) - a0
        b = noise[i] + h[i] * (h[i] * squares[i] - 2 * cross[i]) - b0
        difference = (g[i] - h[i]) * ((g[i] + h[i]) * squares[i] - 2 * cross[i])
        d = difference - d0
        a1 += a
        a2 += a * a
        b1 += b
        b2 += b * b
        d1 += d
        d2 += d * d
        smallest = min(smallest, difference)
        largest = max(largest, difference)
    a, b, d = a1 / count, b1 / count, d1 / count
    a2, b2, d2 = max(a2 - a1 * a, 0.0), max(b2 - b1 * b, 0.0), max(d2 - d1 * d, 0.0)
    return a0 + a, b0 + b, d0 + d, a2, b2, d2, smallest, largest, a1 + a2 + b1 + b2 + d1 + d2


def _draw_sums(problem: Problem, block: int, names: list[str]) -> Sums:
    """Draw them from their laws: an error along the true deviation is normal, the rest of its square chi-square."""
    c, n, count = problem.dim, problem.n, BLOCK
    rng = generator(problem.seed, block)
    of_mean, of_one = _inflation(problem)
    along = math.sqrt(of_mean) * rng.standard_normal(count)
    rest = of_mean * rng.chisquare(c - 1, count) if c > 1 else 0.0
    if problem.known_variance is not None:
        noise = np.full(count, problem.known_variance / problem.noise.variance)
    elif _is_mean(problem.estimator) and _is_mean(problem.baseline):
        noise = np.ones(count)
    else:
        noise = of_one / (c * (n - 1)) * rng.chisquare(c * (n - 1), count)
    return Sums(along * along + rest, dict.fromkeys(names, along), np.zeros(count), noise, noise)


def _inflation(problem: Problem) -> tuple[float, float]:
    """The factors of a Gaussian attack on the variance of a mean, and on that of one observation around the mean."""
    if problem.attack is None or isinstance(problem.attack, WorstCase):
        return 1.0, 1.0
    added = problem.attack.variance / problem.noise.variance
    return (1 + problem.n * added, 1.0) if problem.attack.common else (1 + added, 1 + added)


def _sum_up(problem: Problem, block: int, directions: dict[str, Array]) -> Sums:
    """The sums of drawn vectors."""
    c = problem.dim
    squares, total, noise, bock = (np.empty(BLOCK) for _ in range(4))
    along = {name: np.empty(BLOCK) for name in directions}
    unit = math.sqrt(problem.n) / problem.sd
    begin = 0
    for draws in _draws(problem, block):
        errors, variances, _ = draws.location(problem)
        part = slice(begin, begin := begin + len(errors))
        errors = unit * errors
        _square_sums(errors, squares[part], total[part])
        for name, u in directions.items():
            along[name][part] = errors @ u
        if problem.known_variance is not None:
            noise[part] = problem.known_variance / problem.noise.variance
            bock[part] = (c - 2) * noise[part]
        elif variances is not None:
            v = variances / problem.noise.variance
            noise[part] = v.mean(axis=1)
            bock[part] = c * noise[part] - 2 * v.max(axis=1)
    return Sums(squares, along, total, noise, bock)


@jit(fastmath=REORDER)
def _square_sums(x, squares, total):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        s, t = 0.0, 0.0
        for j in range(x.shape[1]):
            s += x[i, j] * x[i, j]
            t += x[i, j]
        squares[i], total[i] = s, t


# Draws.


class Sample(NamedTuple):
    """Means and variances (ddof=1) of samples, of shape (replicates, c), and how far from the means their ends lie."""

    mean: Array
    var: Array | None
    ends: tuple[Array, Array] | None = None


class Draws(NamedTuple):
    """Some replicates before the truth enters: either sufficient statistics or observations.

    `errors` has shape (replicates, c) (of the means, in units of their standard error) or (replicates, n, c) (in the
    units of the data); `variances` (replicates, c) in units of the true ones; `attack` broadcasts to observations.
    """

    errors: Array
    variances: Array | None
    attack: Array | None

    def location(self, problem: Problem) -> Sample:
        """Errors of the sample means and sample variances (ddof=1), whatever the truth is."""
        return self.at(problem, 0.0, 1.0)

    def at(self, problem: Problem, mean: Any, spread: Any) -> Sample:
        """What samples show around true means, with true deviations `spread` times the noise's."""
        if self.errors.ndim == 2:
            of_mean, of_one = _inflation(problem)
            variance = problem.noise.variance
            scale = np.sqrt(variance / problem.n * (of_mean - 1 + spread**2))
            s2 = None if self.variances is None else variance * (of_one - 1 + spread**2) * self.variances
            return Sample(mean + scale * self.errors, s2)
        x = mean + spread * self.errors
        if self.attack is not None:
            x = problem.attack.perturb(x, self.attack)  # type: ignore[union-attr]
        middle = x.mean(axis=1)
        ends = (x.min(axis=1) - middle, x.max(axis=1) - middle) if by_extremes(problem) else None
        return Sample(middle, x.var(axis=1, ddof=1) if problem.n > 1 else None, ends)


def _draws(problem: Problem, block: int) -> Iterator[Draws]:
    """Those of one block, in chunks; variances and attacks have streams of their own."""
    c, n, attack = problem.dim, problem.n, problem.attack
    rng, other = generator(problem.seed, block), generator(problem.seed, block, 1)
    sufficient = not draws_observations(problem)
    size = max(1, CHUNK // (c if sufficient else c * n))
    for begin in range(0, BLOCK, size):
        count = min(size, BLOCK - begin)
        if sufficient:
            variances = other.chisquare(n - 1, (count, c)) / (n - 1) if _needs_variances(problem) else None
            yield Draws(rng.standard_normal((count, c)), variances, None)
            continue
        added = None
        if isinstance(attack, Noise):
            draw = attack.draw
            if isinstance(attack, ClippedCauchy) and type(attack).draw is ClippedCauchy.draw:
                draw = attack.raw  # the clip is for `perturb`
            added = draw(other, (count, 1 if attack.common else n, c))
        yield Draws(problem.noise.draw(rng, (count, n, c)), None, added)


def _needs_variances(problem: Problem) -> bool:
    if problem.n == 1:
        return False
    if problem.statistic == "var":
        return True
    rules = (problem.estimator, problem.baseline)
    if by_sums(problem):
        return problem.known_variance is None and not all(_is_mean(r) or _by_channels(r) for r in rules)
    return not all(_ignores_noise(r) for r in rules)


# Any other rule.


def _by_estimates(problem: Problem) -> Callable[[Sequence[Point], int], list[Tally]]:
    rules, n = (problem.estimator, problem.baseline), problem.n
    movable = _adds(problem.attack)
    weights = np.asarray(problem.loss) if isinstance(problem.loss, tuple) else None

    def losses(points: Sequence[Point], block: int) -> list[Tally]:
        tallies: list[Tally | None] = [None] * len(points)
        for chunk, draws in enumerate(_draws(problem, block)):
            still = draws.location(problem) if movable and problem.statistic == "mean" else None
            for i, point in enumerate(points):
                found = [loss(rule, point, draws, still, (block, chunk)) for rule in rules]
                with np.errstate(invalid="ignore"):
                    tally = Tally.of(found[0], found[1], found[0] - found[1])
                before = tallies[i]
                tallies[i] = tally if before is None else before + tally
        return [t for t in tallies if t is not None]

    def loss(rule: Any, point: Point, draws: Draws, still: Any, key: tuple[int, int]) -> Array:
        u = direction(problem, point.direction)
        if problem.statistic == "var":
            true = true_variances(problem, point)
            sample = draws.at(problem, 0.0, np.sqrt(true / problem.noise.variance))
            return variance_loss(estimate(problem, rule, *sample), true, problem.loss, weights)
        true = problem.target + point.radius * problem.sd / math.sqrt(n) * u
        sample = draws.at(problem, true, 1.0) if still is None else still._replace(mean=true + still.mean)
        mean = sample.mean

        def of(mean: Array) -> Array:
            error = estimate(problem, rule, mean, sample.var, sample.ends) - true
            squares = error * error if weights is None else weights * error * error
            return np.asarray(squares.sum(axis=1) * (n / problem.noise.variance))

        attack = problem.attack
        if not isinstance(attack, WorstCase):
            return of(mean)
        if adversary_is_exact(problem, rule):  # against the sample mean: straight away from the truth
            return of(mean + scaled(mean - true, attack.budget, attack.norm))
        return searched_loss(of, mean, true, attack.budget, attack.norm, generator(problem.seed, *key, 2))

    return losses


def true_variances(problem: Problem, point: Point) -> Array:
    """Their logarithms lie `radius` standard errors sqrt(2 / (n - 1)) from equal ones."""
    logs = point.radius * math.sqrt(2 / (problem.n - 1)) * direction(problem, point.direction)
    return np.asarray(problem.noise.variance * np.exp(logs))


def variance_loss(found: Array, true: Array, loss: str | tuple[float, ...], weights: Array | None) -> Array:
    """The loss of estimated variances (replicates, c), summed over channels."""
    ratio = found / true
    if loss == "scale-invariant":
        each = (ratio - 1) ** 2
    elif loss == "entropy":
        with np.errstate(divide="ignore"):
            each = ratio - np.log(ratio) - 1
    else:
        each = (found - true) ** 2 if weights is None else weights * (found - true) ** 2
    return np.asarray(each.sum(axis=1))


def estimate(
    problem: Problem, rule: Any, mean: Array, var: Array | None, ends: tuple[Array, Array] | None = None
) -> Array:
    """A rule's estimate, from sample means and variances (ddof=1) of shape (replicates, c); see `Sample`."""
    n = problem.n
    known = problem.known_variance
    if isinstance(rule, Estimator):
        var = np.zeros_like(mean) if var is None else var
        own = var / n if known is None else np.broadcast_to(known / n, mean.shape)
        unknown = np.full_like(mean, np.nan)  # so that a rule is found out that says it does not look at them, and does
        low, high = (unknown, unknown) if ends is None else (mean + ends[0], mean + ends[1])
        squares, between = var * (n - 1), own * (n * (n - 1))
        moments = Moments.of_equal_samples(
            count=n, samples=n, mean=mean, m2=squares, minimum=low, maximum=high, sample_m2=between
        )
        statistics = rule.statistics(moments, _prior(problem))
        found = statistics.mean if problem.statistic == "mean" else statistics.var
        if ends is None and np.isnan(found).any():
            raise ValueError(
                f"{rule!r} returned NaN; a rule that looks at minimum or maximum says uses_extremes = True"
            )
    elif problem.statistic == "var":
        found = rule(var * ((n - 1) / n), n) if var is not None else None
    elif _ignores_noise(rule):
        return mean
    else:
        one = np.full((len(mean), 1), known) if var is None or known else var.mean(axis=1, keepdims=True)
        found = rule(mean, one / n)
    found = np.asarray(found, dtype=np.float64)
    if found.shape != mean.shape:
        raise ValueError(
            f"{rule!r} returned an array of shape {found.shape}, expected {mean.shape}: one row for every replicate"
        )
    return found


def _prior(problem: Problem) -> Prior:
    """The one given, or one that sits on the target."""
    if problem.prior is not None:
        return problem.prior
    c = problem.dim
    return Prior(np.zeros(c) + problem.target, np.full(c, problem.noise.variance))
