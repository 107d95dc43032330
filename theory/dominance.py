"""Does one estimator dominate another? Verified by simulation that can be stopped at any time, or proved."""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from shrinkstats._arrays import positive_number
from shrinkstats.estimators import Estimator
from shrinkstats.kernels.threads import get_num_threads
from shrinkstats.rules.base import BOCK, SAMPLE_MEAN, said
from shrinkstats.theory.arguments import at_least
from shrinkstats.theory.certificate import certify
from shrinkstats.theory.noise import Noise, WorstCase, is_gaussian
from shrinkstats.theory.question import ask, check_directions, check_radii
from shrinkstats.theory.report import DominanceReport, Row, crossings, describe, judge
from shrinkstats.theory.sequential import Tally, interval
from shrinkstats.theory.simulation import (
    BLOCK,
    Point,
    Problem,
    adversary_is_exact,
    simulate,
    symmetric,
    true_variances,
)
from shrinkstats.values import Prior, Statistics

FIRST = 2  # blocks before the first look; then their number doubles,
MOST = 32  # but so many are drawn at most before the next look, which is where an interrupted run goes on
TASK = 8  # blocks of one task at most
FINEST = 1 / 32  # crossings are located to this part of the grid's length
SPARE = 2.0**20  # times its expectation an estimate is still in range
SEEN = 2**16  # replicates drawn where a proof has settled the matter: for the picture, and against its errors


def verify_dominance(
    estimator: Any,
    *,
    baseline: Any = None,
    dim: int,
    n: int,
    attack: Noise | WorstCase | None = None,
    radii: Iterable[float],
    confidence: float = 0.99,
    seed: int = 0,
    executor: Executor | None = None,
    noise: Noise | None = None,
    statistic: str = "mean",
    loss: str | Sequence[float] = "squared",
    known_variance: float | None = None,
    prior: Statistics | Prior | None = None,
    directions: Sequence[str] | None = None,
    budget: int = 2**20,
    refine: int = 8,
    certificate: bool = True,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> DominanceReport:
    r"""Whether an estimator has a smaller risk than another, wherever the truth lies on a grid.

    Both estimates are computed from the same samples, at every point of a grid of true means. Points are added where
    the sign of the risks' difference changes or the difference dips towards zero; samples are drawn until every sign
    is settled or the budget is spent.

    Parameters
    ----------
    estimator, baseline : rule
        One of :mod:`shrinkstats.estimators`, one of the theory's rules, or a callable: for means called with
        (means, noise) of shapes (replicates, c) and (replicates, 1), the noise being the variance of a mean (pooled
        over the channels where it is estimated); for variances with (variances, n), ddof=0. The baseline is the
        sample mean, or the sample variance (ddof=0), if left out.
    dim, n : int
        Channels c, and observations per channel.
    attack : noise model or WorstCase, optional
        What is added to the sample after it was drawn. Losses still refer to the parameters before the attack.
    radii : sequence of float
        Distances of the true mean from the target (the estimator's, or the prior's mean), in standard errors
        :math:`\sigma/\sqrt n` of one mean without attack. For variances: distances of the true log variances
        from equal ones, in units of :math:`\sqrt{2/(n-1)}`.
    confidence : float
        That all bounds of the report hold, whenever the run is stopped.
    seed : int
        All that the numbers depend on, besides the question itself.
    executor : concurrent.futures.Executor, optional
        Who does the work: a process pool, dask.distributed's ``Client.get_executor()``, ...; threads of this process
        if left out.
    noise : noise model, optional
        Of one observation around its mean; Gaussian(1) if left out.
    statistic : {"mean", "var"}
        What is estimated.
    loss : {"squared", "scale-invariant", "entropy"} or sequence of c weights
        Summed over the channels. Squared errors of means are in units of one mean's variance. Scale-invariant is
        (estimate/truth - 1)^2 of variances (for means it is the squared error in these units); entropy is Stein's
        estimate/truth - log(estimate/truth) - 1.
    known_variance : float, optional
        The variance of one observation that the rules are told, right or wrong; estimated from the sample if left out.
    prior : Statistics or Prior, optional
        For rules that blend; mean 0 and the noise's variance if left out.
    directions : sequence of {"axis", "diagonal", "random"}, optional
        Where the truth lies as seen from the target. All three if left out, one where symmetry makes them equal.
    budget : int
        Replicates at one point at most.
    refine : int
        Points added to the grid at most.
    certificate : bool
        Whether to look for a proof first.
    path : path, optional
        A file to keep the report in, written after every look; a run that finds one of the same settings goes on
        from there. A rule is the same if its code is, and what the code looks up: defaults, closures, globals,
        methods; installed packages are taken by their names.
    progress : bool
        Show a progress bar, if there is a terminal and rich is installed.

    Returns
    -------
    DominanceReport
        Of a run that was interrupted (Ctrl-C) too: its bounds hold at any time.

    Raises
    ------
    ValueError, TypeError
        If the question is not well posed, or `path` holds the answer to another one.

    Notes
    -----
    The bounds are asymptotic confidence sequences (Waudby-Smith et al. 2024), shared out over the points by
    Bonferroni's inequality. They presume a finite variance: where a single
    replicate holds more than a hundredth of the squared deviations, the bound on its side is infinite.
    "dominates" and "dominated" say that every point of the grid is
    settled, and no more; between and beyond its points only "proved" says anything, and a "dominated" whose reason
    is a proof that the baseline dominates the estimator.

    Against WorstCase each rule meets its own adversary. It is exact (in the l2 norm) for rules that shrink by a
    factor, and for the sample mean; against others it is a search, whose losses are too small: then a rule is never
    called better than its baseline because of it.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic
    confidence sequences". James & Stein (1961).

    Examples
    --------
    >>> from shrinkstats.estimators import Stein
    >>> from shrinkstats.theory import verify_dominance
    >>> report = verify_dominance(Stein(mean="channel"), dim=8, n=16, radii=[0, 2, 4, 8], progress=False)
    >>> report.verdict
    'crosses'
    """
    problem = ask(estimator, baseline, dim, n, noise, attack, statistic, loss, known_variance, prior, seed)
    radii = check_radii(radii)
    names = check_directions(directions, problem)
    confidence = positive_number("confidence", confidence, zero=True, infinite=True)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    budget, refine = at_least("budget", FIRST * BLOCK, budget), at_least("refine", 0, refine)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must have a method submit, as those of concurrent.futures, got {executor!r}")
    if isinstance(executor, ProcessPoolExecutor):
        _check_picklable(problem)
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the name of a file, got {type(path).__name__}")
    grid = [Point(radius, name) for name in names for radius in radii]
    if statistic == "var":
        _check_variances(problem, grid)
    settings = {
        **_settings(problem, exactly=path is not None),
        "radii": radii,
        "directions": list(names),
        "confidence": confidence,
        "budget": budget,
        "refine": refine,
        "certificate": certificate,
    }
    search = _Search(
        problem, grid, confidence, budget, refine, _certificate(problem) if certificate else None, settings
    )
    if path is not None:
        search.resume(Path(path))

    def keep() -> None:
        if path is not None:
            search.report().save(path)

    interrupted = False
    with _workers(executor) as workers, _progress_bar(progress, search) as show:
        try:
            search.run(workers, lambda: (show(), keep()))  # type: ignore[func-returns-value]
        except KeyboardInterrupt:
            interrupted = True
    report = search.report(interrupted)
    if path is not None:
        report.save(path)
    return report


class _Search:
    """Points, what is known about each, and what to draw next."""

    def __init__(
        self,
        problem: Problem,
        grid: list[Point],
        confidence: float,
        budget: int,
        refine: int,
        certificate: dict[str, Any] | None,
        settings: dict[str, Any],
    ) -> None:
        self.problem, self.points, self.settings, self.certificate = problem, list(grid), settings, certificate
        self.alpha = (1 - confidence) / (len(grid) + refine)
        self.blocks = budget // BLOCK
        self.added_at_most = len(grid) + refine
        self.dips_left = 1
        self.reverse = certificate.get("reverse") if certificate else None  # a proof for the baseline
        self.proved = bool(certificate and (certificate["proved"] or self.reverse))
        self.known: dict[Point, Tally] = {}
        # Against a search a rule's losses are only bounded from below.
        self.upper_known = adversary_is_exact(problem, problem.estimator)
        self.lower_known = adversary_is_exact(problem, problem.baseline)

    def run(self, workers: Executor, looked: Callable[[], object]) -> None:
        while True:
            while active := [p for p in self.points if not self.settled(p)]:
                self.look(active, workers)
                looked()
            new = self.additional()
            if not new:
                return
            self.points += new

    def settled(self, point: Point) -> bool:
        tally = self.known.get(point)
        if tally is None:
            return False
        if self.proved:
            return tally.replicates >= min(SEEN, self.blocks * BLOCK)
        return tally.replicates // BLOCK >= self.blocks or self.row(point).sign != 0

    def look(self, active: list[Point], workers: Executor) -> None:
        """Draw more replicates for the points that have the fewest."""
        done = min(self.count(p) for p in active) // BLOCK
        points = [p for p in active if self.count(p) // BLOCK == done]
        end = min(max(FIRST, 2 * done), done + MOST, self.blocks)
        size = max(1, min(TASK, (end - done) // 4))
        futures: list[Future[list[list[Tally]]]] = []
        try:
            for first in range(done, end, size):
                futures.append(workers.submit(simulate, self.problem, points, first, min(first + size, end)))
            results = [block for future in futures for block in future.result()]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        for i, point in enumerate(points):  # always in the order of the blocks: sums of floats depend on it
            tallies = [block[i] for block in results]
            total = self.known.get(point, tallies[0])
            for tally in tallies[point not in self.known :]:
                total = total + tally
            self.known[point] = total

    def count(self, point: Point) -> int:
        return self.known[point].replicates if point in self.known else 0

    def row(self, point: Point) -> Row:
        tally = self.known[point]
        lower, upper = interval(tally, self.alpha)
        return Row(*point, lower if self.lower_known else -math.inf, upper if self.upper_known else math.inf, tally)

    def rows(self) -> tuple[Row, ...]:
        names = list(dict.fromkeys(p.direction for p in self.points))
        ordered = sorted(self.points, key=lambda p: (names.index(p.direction), p.radius))
        return tuple(self.row(p) for p in ordered if p in self.known)

    def additional(self) -> list[Point]:
        """Middles of the intervals where the sign changes and, once, of those beside a dip of the difference."""
        rows = self.rows()
        middles = []
        for c in crossings(rows):
            end = max(row.radius for row in rows if row.direction == c.direction)
            if c.high - c.low > FINEST * end:
                middles.append(Point((c.low + c.high) / 2, c.direction))
        if self.dips_left:
            self.dips_left -= 1
            middles += _beside_dips(rows)
        new = [p for p in dict.fromkeys(middles) if p not in self.points]
        return new[: self.added_at_most - len(self.points)]

    def report(self, interrupted: bool = False) -> DominanceReport:
        rows = self.rows()
        verdict, reason = judge(rows, self.certificate) if rows else ("undecided", "nothing was drawn yet")
        missing = [p for p in self.points if p not in self.known]
        if rows and self.reverse:
            verdict, reason = _judge_reverse(rows, self.reverse)
        elif missing and verdict in ("dominates", "dominated"):
            verdict, reason = "undecided", f"{reason}, but {len(missing)} points were not looked at"
        return DominanceReport(
            verdict, reason, rows, crossings(rows), self.certificate, self.caveats(rows), self.settings, interrupted
        )

    def caveats(self, rows: tuple[Row, ...]) -> tuple[str, ...]:
        found = []
        if rows and not self.proved:
            ends = min(row.radius for row in rows), max(row.radius for row in rows)
            found.append(
                f"seen on a grid of radii from {ends[0]:g} to {ends[1]:g}, not between its points and not beyond; "
                f"the bounds are asymptotic and hold together with probability {self.settings['confidence']:g}"
            )
            rare = -math.log(self.alpha) / min(row.replicates for row in rows)
            found.append(f"what happens in fewer than {rare:.1g} of all samples may never have been drawn")
        if symmetric(self.problem):
            found.append("one direction stands for all: rules, noise and loss look the same from every side")
        else:
            found.append(f"directions looked at: {', '.join(self.settings['directions'])}; there are others")
        for name, known in (("estimator", self.upper_known), ("baseline", self.lower_known)):
            if not known:
                found.append(f"the {name}'s adversary is the best of a search: a stronger one may exist")
        return tuple(found)

    def resume(self, path: Path) -> None:
        """Take over what an earlier run of the same settings has drawn."""
        if not path.exists():
            return
        found = DominanceReport.load(path)
        different = [k for k in self.settings if k != "budget" and found.settings.get(k) != self.settings[k]]
        if different:
            raise ValueError(
                f"{path} holds a report of other settings ({', '.join(different)}): "
                "name another file, or remove it to start over"
            )
        drawn = found.settings.get("budget")
        drawn = drawn if isinstance(drawn, int) else 0
        seen: set[Point] = set()
        for row in found.rows:
            point, count = Point(row.radius, row.direction), row.tally.replicates
            possible = point not in seen and count % BLOCK == 0 and count <= drawn
            inside = row.radius <= self.settings["radii"][-1] and row.direction in self.settings["directions"]
            if not (possible and inside) or len(seen) == self.added_at_most:
                raise ValueError(f"{path} says what no run has drawn ({row}): remove it to start over")
            seen.add(point)
        self.known = {Point(row.radius, row.direction): row.tally for row in found.rows}


def _beside_dips(rows: tuple[Row, ...]) -> list[Point]:
    """Middles beside the points whose difference is smaller than at both neighbours."""
    found = []
    for a, b, c in zip(rows, rows[1:], rows[2:], strict=False):
        dips = abs(b.difference) < min(abs(a.difference), abs(c.difference))
        if a.direction == b.direction == c.direction and a.sign == b.sign == c.sign and dips:
            found += [Point((x.radius + y.radius) / 2, b.direction) for x, y in ((a, b), (b, c))]
    return found


def _judge_reverse(rows: tuple[Row, ...], reverse: dict[str, Any]) -> tuple[str, str]:
    """Verdict and reason where the baseline is proved to dominate: `judge`, seen from the other side."""
    mirrored = tuple(replace(row, lower=-row.upper, upper=-row.lower) for row in rows)
    verdict, reason = judge(mirrored, reverse)
    return ("dominated", f"the baseline is better {reason}") if verdict == "proved" else (verdict, reason)


def _certificate(problem: Problem) -> dict[str, Any] | None:
    """What can be proved, where a theorem may speak of the problem at all; "reverse" is a proof for the baseline."""
    known = problem.known_variance
    applies = (
        is_gaussian(problem.noise)
        and problem.attack is None
        and problem.statistic == "mean"
        and isinstance(problem.loss, str)
        and (known is None or known == problem.noise.variance)
        and problem.prior is None
    )
    if not applies:
        return None
    rules = (problem.estimator, problem.baseline)
    if known is not None and any(isinstance(r, Estimator) and said(r, "mean_is") != SAMPLE_MEAN for r in rules):
        return None  # the theorem about these is for the noise that they estimate
    df: float | None = math.inf if known is not None else problem.dim * (problem.n - 1)
    if any(said(rule, "mean_is") == BOCK for rule in rules):
        df = None  # it is for the rule to find it
    found, reverse = (certify(*pair, dim=problem.dim, n=problem.n, noise_df=df) for pair in (rules, rules[::-1]))
    return {**asdict(found), "reverse": asdict(reverse)} if reverse.proved else asdict(found)


# The question in words.


def _settings(problem: Problem, *, exactly: bool) -> dict[str, Any]:
    """The question in words; with `exactly`, so that a file can tell it from others."""
    return {
        "estimator": describe(problem.estimator, exactly=exactly),
        "baseline": describe(problem.baseline, exactly=exactly),
        "dim": problem.dim,
        "n": problem.n,
        "noise": describe(problem.noise, exactly=exactly),
        "attack": None if problem.attack is None else describe(problem.attack, exactly=exactly),
        "statistic": problem.statistic,
        "loss": problem.loss if isinstance(problem.loss, str) else f"weighted {problem.loss}",
        "known_variance": problem.known_variance,
        "prior": None if problem.prior is None else describe(tuple(problem.prior), exactly=exactly),
        "seed": problem.seed,
    }


# Who does the work, and who watches.


def _check_variances(problem: Problem, grid: list[Point]) -> None:
    """Check that the variances of the truth are in range, and in losses that square them their squares."""
    power = 1 if problem.loss in ("scale-invariant", "entropy") else 2
    for point in grid:
        with np.errstate(over="ignore"):
            var = true_variances(problem, point)
            within = SPARE * var.max() ** power < math.inf and var.min() > np.finfo(np.float64).tiny
        if not within:
            raise ValueError(f"radii are too large: at {point.radius:g} a variance of the truth leaves the range")


def _check_picklable(problem: Problem) -> None:
    try:
        pickle.dumps(problem)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the rules cannot be sent to another process ({error}); define them at the top level of a module, "
            "or use threads (executor=None)"
        ) from error


@contextmanager
def _workers(executor: Executor | None) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(get_num_threads()) as threads:
        yield threads


@contextmanager
def _progress_bar(wanted: bool, search: _Search) -> Iterator[Callable[[], None]]:
    """A function to call after every look."""
    bar: Any = nullcontext()
    if wanted and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
        except ImportError:
            pass
    with bar as shown:
        task = shown.add_task("dominance", total=len(search.points)) if shown is not None else None

        def show() -> None:
            if shown is not None:
                settled = sum(map(search.settled, search.points))
                drawn = sum(map(search.count, search.points))
                text = f"{settled} of {len(search.points)} points settled, {drawn:,} replicates"
                shown.update(task, completed=settled, total=len(search.points), description=text)

        yield show
