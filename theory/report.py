"""What `verify_dominance` found: a verdict, the rows behind it, and what it does not cover."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from shrinkstats._files import signed, verified, whole
from shrinkstats.theory.identity import SIMPLE, digest, is_ours
from shrinkstats.theory.sequential import CONCENTRATED, Tally

FORMAT = "shrinkstats dominance report 1"
NO_REPORT = "not a dominance report as DominanceReport.save writes it"
ROUNDED = 1e-6  # of the losses: by so much sums of them may differ that were added up in another order
VERDICTS = ("proved", "dominates", "dominated", "crosses", "undecided")


@dataclass(frozen=True)
class Row:
    """One point of the grid.

    Attributes
    ----------
    radius : float
    direction : str
    lower, upper : float
        Bounds of the difference of the risks (estimator minus baseline): simultaneous over all rows and over stopping.
    tally : Tally
        Mean losses and their scatter.
    """

    radius: float
    direction: str
    lower: float
    upper: float
    tally: Tally

    @property
    def difference(self) -> float:
        """Estimated difference of the risks; negative favours the estimator."""
        return self.tally.difference

    @property
    def replicates(self) -> int:
        """Samples drawn."""
        return self.tally.replicates

    @property
    def sign(self) -> int:
        """-1 where the estimator is better, 1 where it is worse, 0 where that is open."""
        return -1 if self.upper < 0 else 1 if self.lower > 0 else 0

    def standard_error(self, which: str) -> float:
        """The error of the "estimator" or "baseline" risk or of the "difference", as it stands; not simultaneous."""
        m2: float = getattr(self.tally, f"{which}_m2")
        return math.sqrt(m2 / (self.tally.replicates - 1) / self.tally.replicates) if m2 >= 0 else math.nan


@dataclass(frozen=True)
class Crossing:
    """Between these radii the sign of the difference changes.

    Attributes
    ----------
    direction : str
    low, high : float
        Nearest radii on both sides whose signs are settled.
    better_below : bool
        Whether the estimator is the better one at `low`.
    """

    direction: str
    low: float
    high: float
    better_below: bool


@dataclass(frozen=True)
class DominanceReport:
    """The result of :func:`shrinkstats.theory.verify_dominance`.

    Attributes
    ----------
    verdict : {"proved", "dominates", "dominated", "crosses", "undecided"}
    reason : str
        The verdict in words.
    rows : tuple of Row
        By direction and radius.
    crossings : tuple of Crossing
    certificate : dict or None
        What was said by :func:`shrinkstats.theory.certify`, where it applies.
    caveats : tuple of str
        What the verdict does not cover.
    settings : dict
        Everything that the numbers depend on.
    interrupted : bool
        Whether the run was stopped from outside; the bounds hold nevertheless.
    """

    verdict: str
    reason: str
    rows: tuple[Row, ...]
    crossings: tuple[Crossing, ...]
    certificate: dict[str, Any] | None
    caveats: tuple[str, ...]
    settings: dict[str, Any]
    interrupted: bool = False

    @property
    def directions(self) -> tuple[str, ...]:
        """Those of the rows."""
        return tuple(dict.fromkeys(row.direction for row in self.rows))

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The verdict, the table and the caveats, as text."""
        s = self.settings
        head = f"{s['estimator']} against {s['baseline']}: {self.verdict.upper()}"
        conditions = f"dim {s['dim']}, n {s['n']}, noise {s['noise']}, attack {s['attack'] or 'none'}, {s['loss']} loss"
        lines = [head, self.reason, "", f"({conditions}; seed {s['seed']})", *self._table(), ""]
        lines += [f"- {caveat}" for caveat in self.caveats]
        if self.interrupted:
            lines.append("- interrupted before all was drawn: the bounds hold nevertheless")
        return "\n".join(lines)

    def _table(self) -> Iterator[str]:
        several = len(self.directions) > 1
        bounds = f"{self.settings['confidence']:.3g} bounds"
        yield (
            f"{'direction':<10}" * several + f"{'radius':>8} {'estimator':>11} {'baseline':>11} {'difference':>12} "
            f"{bounds:>26} {'replicates':>11}"
        )
        words = {-1: "better", 0: "open", 1: "worse"}
        for row in self.rows:
            bounds = f"[{row.lower:.4g}, {row.upper:.4g}]"
            yield (
                f"{row.direction:<10}"
                * several
                + f"{row.radius:>8.4g} {row.tally.estimator:>11.5g} {row.tally.baseline:>11.5g} "
                f"{row.difference:>12.4g} {bounds:>26} {row.replicates:>11} {words[row.sign]}"
            )

    def plot(self, target: Any = None) -> Any:
        """Draw the risks and their difference.

        Parameters
        ----------
        target : path or pair of matplotlib axes, optional
            A file to write, or axes for the risks and for the difference.

        Returns
        -------
        matplotlib figure
            As drawn.
        """
        from shrinkstats.theory.picture import draw

        return draw(self, target)

    def to_json(self) -> str:
        """Everything, as JSON; infinite and undefined numbers are strings."""
        content = {"format": FORMAT, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}
        content["rows"] = [{**asdict(row), "tally": row.tally._asdict()} for row in self.rows]
        content["crossings"] = [asdict(c) for c in self.crossings]
        return json.dumps(signed(_plain(content)), indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file, whole or not at all."""
        with whole(Path(path)) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, text: str) -> DominanceReport:
        """What :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            If it is anything else, damage included.
        """
        try:
            content = json.loads(text)
            sure = verified(content)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            rows = tuple(_row(row, sure) for row in content.pop("rows"))
            crossings = tuple(Crossing(**c) for c in content.pop("crossings"))
            report = cls(rows=rows, crossings=crossings, caveats=tuple(content.pop("caveats")), **content)
            if report.verdict not in VERDICTS or not isinstance(report.settings, dict):
                raise ValueError("no verdict, or no settings")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{NO_REPORT}: {_why(error)}") from error
        return report

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DominanceReport:
        """What :meth:`save` wrote."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {NO_REPORT}: it is not text") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _why(error: Exception) -> str:
    """Say what is wrong in words about the file, not about what Python did with it."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is cut short or damaged at line {error.lineno}" if error.doc.strip() else "it is empty"
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    ours = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return str(error) if ours else "it is JSON of another structure"


def _row(content: dict[str, Any], sure: bool) -> Row:
    """A row, which must look like one that was drawn unless the file is `sure` to be as it was written."""
    tally = content["tally"]
    if type(tally["replicates"]) is not int:
        raise ValueError(f"the number of replicates is {tally['replicates']!r}")
    try:
        numbers = [float(tally[name]) for name in Tally._fields[1:]]
        radius, lower, upper = (float(content[name]) for name in ("radius", "lower", "upper"))
    except ValueError as error:
        raise ValueError(f"no simulation has such a row: {content}") from error
    row = Row(radius, str(content["direction"]), lower, upper, Tally(tally["replicates"], *numbers))
    if not 0 <= row.radius < math.inf or row.tally.replicates < 1 or not (sure or _plausible(row)):
        raise ValueError(f"no simulation has such a row: {content}")
    return row


def _plausible(row: Row) -> bool:
    """Whether a tally's numbers go together."""
    t = row.tally
    means, squares = (t.estimator, t.baseline, t.difference), (t.estimator_m2, t.baseline_m2, t.difference_m2)
    if not row.lower <= row.upper or any(m2 < 0 for m2 in squares):
        return False
    if any(map(math.isinf, means[:2])):  # infinite losses were seen; two of them leave no difference
        return not any(map(math.isnan, means[:2]))
    unit = ROUNDED * (abs(t.estimator) + abs(t.baseline))
    between = t.smallest - unit <= t.difference <= t.largest + unit
    return between and abs(t.estimator - t.baseline - t.difference) <= unit and all(map(math.isfinite, squares))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# Verdicts.


def crossings(rows: tuple[Row, ...]) -> tuple[Crossing, ...]:
    """Neighbours, among the rows whose sign is settled, on different sides."""
    found = []
    for name in dict.fromkeys(row.direction for row in rows):
        settled = [row for row in rows if row.direction == name and row.sign]
        for a, b in itertools.pairwise(settled):
            if a.sign != b.sign:
                found.append(Crossing(name, a.radius, b.radius, a.sign < 0))
    return tuple(found)


def judge(rows: tuple[Row, ...], certificate: dict[str, Any] | None) -> tuple[str, str]:
    """Verdict and reason."""
    better, worse = (sum(row.sign == sign for row in rows) for sign in (-1, 1))
    proved = certificate is not None and certificate["proved"]
    if proved and worse:
        return (
            "undecided",
            "a proof and the simulation contradict each other: one of them has an error; please report it",
        )
    if proved and certificate is not None:
        return "proved", f"for every true mean: {certificate['reason']} ({certificate['source']})"
    if better and worse:
        return "crosses", _crossing_words(rows)
    if better == len(rows):
        return "dominates", f"better on the grid: at all {len(rows)} points, simultaneously"
    if worse == len(rows):
        return "dominated", f"worse on the grid: at all {len(rows)} points, simultaneously"
    return "undecided", _open_words(rows, better, worse)


def _crossing_words(rows: tuple[Row, ...]) -> str:
    words = [
        f"{'better' if c.better_below else 'worse'} up to radius {c.low:.4g}, "
        f"{'worse' if c.better_below else 'better'} from {c.high:.4g} on ({c.direction})"
        for c in crossings(rows)
    ]
    changing = {c.direction for c in crossings(rows)}
    for name in dict.fromkeys(row.direction for row in rows):
        signs = {row.sign for row in rows if row.direction == name}
        if name not in changing:
            words.append(
                f"better throughout ({name})" if signs == {-1}
                else f"worse throughout ({name})" if signs == {1}
                else f"partly open ({name})"
            )  # fmt: skip
    return "; ".join(words)


def _open_words(rows: tuple[Row, ...], better: int, worse: int) -> str:
    settled = f"better at {better}, worse at {worse} of {len(rows)} points"
    still = [row for row in rows if not row.sign]
    tallies = [row.tally for row in still]
    if all(t.difference == 0 and t.difference_m2 == 0 for t in tallies):
        why = "the two estimates were the same in every replicate"
    elif any(math.isnan(v) for t in tallies for v in (t.estimator, t.baseline)):
        why = "an estimate is NaN there, and has no risk"
    elif any(_by_adversary(row) for row in still):
        why = "the adversary was only searched for, and a stronger one may turn the sign"
    elif all(math.isinf(row.lower) or math.isinf(row.upper) for row in still):
        why = "single replicates weigh too much there (heavy tails, or estimates that rarely differ) to trust any bound"
    else:
        why = "the difference could not be told from zero within the budget"
    where = ", ".join(f"{row.radius:.4g}" for row in still[:6]) + (", ..." if len(still) > 6 else "")
    return f"{settled}; open at radius {where}: {why}"


def _by_adversary(row: Row) -> bool:
    """Whether a bound is infinite though the tail on its side is light."""
    below, above = row.tally.concentration
    return (math.isinf(row.lower) and below < CONCENTRATED) or (math.isinf(row.upper) and above < CONCENTRATED)


# Names that tell rules apart.


def describe(value: Any, *, exactly: bool = False) -> str:
    """A short name; `exactly` also tells rules of the same name apart, by what they are made of.

    Raises
    ------
    ValueError
        If that cannot be told.
    """
    if isinstance(value, FunctionType):
        return f"{value.__name__}#{digest(value)}" if exactly else value.__name__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = exactly and is_ours(type(value))
        fields = [f for f in dataclasses.fields(value) if not _is_default(value, f)]
        inside = ", ".join(f"{f.name}={describe(getattr(value, f.name), exactly=told)}" for f in fields)
        text = f"{type(value).__name__}({inside})"
        return f"{text}#{digest(value)}" if exactly and not told else text
    kind = type(value)
    if kind is tuple or (isinstance(value, tuple) and is_ours(kind)):
        return f"({', '.join(describe(v, exactly=exactly) for v in value)})"
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    if not exactly or type(value) in SIMPLE:
        return repr(value)
    return f"{getattr(value, '__qualname__', type(value).__qualname__)}#{digest(value)}"


def _is_default(value: Any, field: dataclasses.Field[Any]) -> bool:
    default, given = field.default, getattr(value, field.name)
    return default is not dataclasses.MISSING and len({type(default), type(given)}) == 1 and bool(default == given)
