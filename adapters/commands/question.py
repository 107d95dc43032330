"""What `shrinkstats dominance` asks: rules, noise models and grids by the names a user gives them."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.estimators import BatchStatistics, Lasso, PriorBlend, Ridge, Stein, SteinBlend
from shrinkstats.rules.registry import RULES as STUDIED
from shrinkstats.rules.registry import imported, named
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.noise import (
    ClippedCauchy,
    Gaussian,
    Noise,
    Rademacher,
    Sparse,
    TruncatedGaussian,
    Uniform,
    WorstCase,
)
from shrinkstats.theory.report import DominanceReport
from shrinkstats.theory.rules import JamesStein, SampleMean

MOST_RADII = 1000

Named = TypeVar("Named")


@dataclass(frozen=True)
class Rule:
    """How a rule is made, what it estimates, and what the constant in its formula is, if it has one."""

    make: Callable[..., Any]
    statistics: tuple[str, ...] = ("mean", "var")
    constant: str = ""
    default: bool = True  # whether the constant may be left out


RULES = {
    "stein": Rule(Stein),
    "published": Rule(Stein.published),
    "james-stein": Rule(JamesStein, ("mean",), "what c - 2 is multiplied by"),
    "james-stein-plain": Rule(partial(JamesStein, positive_part=False), ("mean",), "what c - 2 is multiplied by"),
    "gamma-stein": Rule(partial(Stein, mean=None), ("var",)),
    "sample-mean": Rule(SampleMean, ("mean",)),
    "sample-variance": Rule(BatchStatistics, ("var",)),
    "ridge": Rule(Ridge, constant="lambda"),
    "lasso": Rule(Lasso, constant="lambda"),
    "prior-blend": Rule(PriorBlend, constant="the samples that the prior counts for", default=False),
    "stein-blend": Rule(SteinBlend, constant="kappa, the factor on the noise"),
}
OTHERS = ", a name of the studies such as robust_norm, or module:Rule"
NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
    "rademacher": Rademacher,
    "uniform": Uniform,
    "truncated-gaussian": TruncatedGaussian,
    "clipped-cauchy": ClippedCauchy,
    "sparse": Sparse,
}


def rule(option: str, name: str, constant: float | None, statistic: str) -> Any:
    """The rule of this name, here or in the studies, or a user's own by module:Rule."""
    if ":" in name:
        try:
            return imported(name, *(() if constant is None else (constant,)))
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error
    found = Rule(partial(named, name)) if name in STUDIED.keys() - RULES else _named(option, name, RULES, OTHERS)
    if statistic not in found.statistics:
        what, other = ("means", "mean") if "mean" in found.statistics else ("variances", "var")
        raise UsageError(f"{name} estimates {what}: it goes with --statistic {other}")
    if constant is None and not found.default:
        raise UsageError(f"{name} needs {_constant_of(option)}: {found.constant}")
    if constant is not None and not found.constant:
        raise UsageError(f"{name} has no constant for {_constant_of(option)} to set")
    return found.make() if constant is None else _made(_constant_of(option), found.make, constant)


def attack(name: str | None, strength: float | None, common: bool, budget: float | None) -> Noise | WorstCase | None:
    """The attack that these options describe."""
    if name is not None and budget is not None:
        raise UsageError("--attack and --worst-case exclude each other")
    if name is None:
        if strength is not None or common:
            raise UsageError(f"{'--common' if strength is None else '--strength'} needs --attack, the model it is of")
        return None if budget is None else _made("--worst-case", WorstCase, budget)
    if strength is None:
        raise UsageError("--attack needs --strength, its standard deviation in the units of the data")
    return _made("--strength", partial(_named("--attack", name, NOISES), common=common), strength)


def noise(name: str) -> Noise:
    """The noise of the observations, of standard deviation 1."""
    return _named("--noise", name, NOISES)()


def radii(text: str) -> list[float]:
    """START:STOP:STEP, the stop included, or numbers separated by commas."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = map(float, text.split(":"))
        steps = (stop - start) / step
        if not 0 <= steps < math.inf or step < 0:
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--radii must be START:STOP:STEP or numbers like 0,2,4, got {text!r}") from error
    if steps >= MOST_RADII:
        raise UsageError(f"--radii {text} are more than {MOST_RADII} points")
    return [start + i * step for i in range(math.floor(steps + 1e-9) + 1)]


def loss(text: str) -> str | list[float]:
    """A loss by name, or its weights."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def verify(estimator: Any, *, workers: int | None, resume: Path | None, **question: Any) -> DominanceReport:
    """The report; what `verify_dominance` does not take is a fault of the request."""
    if resume is not None and resume.exists():
        DominanceReport.load(resume)  # a damaged file is no fault of the request
    with _processes(workers) as executor:
        try:
            return verify_dominance(estimator, executor=executor, path=resume, **question)
        except (ValueError, TypeError) as error:
            raise UsageError(str(error)) from error
        except OverflowError as error:
            raise UsageError("the numbers of this question overflow; use a larger unit") from error
        except BrokenExecutor as error:
            kept = f"; {resume} keeps what was drawn" if resume else ""
            raise ValueError(f"a worker process ended before its work was done{kept}") from error


@contextmanager
def _processes(workers: int | None) -> Iterator[Executor | None]:
    if workers is None:
        yield None
        return
    # Ctrl-C reaches every process at the terminal; it is for this one to end the work.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=ignore) as executor:
        yield executor


def _constant_of(option: str) -> str:
    return "--against-constant" if option == "--against" else "--constant"


def _named(option: str, name: str, known: dict[str, Named], others: str = "") -> Named:
    if name not in known:
        raise UsageError(f"{option} must be one of {', '.join(known)}{others}, got {name!r}")
    return known[name]


def _made(option: str, make: Callable[[float], Named], value: float) -> Named:
    """Make something of a number that the user gave by this option."""
    try:
        return make(value)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
