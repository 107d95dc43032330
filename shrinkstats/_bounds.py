"""What the command ``shrinkstats bounds`` reads, computes and draws."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import UsageError, read
from shrinkstats.values import Statistics
from shrinkstats.wasserstein import best_strength, wasserstein_bounds

Vector = NDArray[np.float64]

STRENGTHS = [0.0, *(2.0**i for i in range(9)), math.inf]
FILES = (".csv", ".json", ".npz")
COLUMNS = (("sample_mean", "sample_variance"), ("mean", "var"))


@dataclass(frozen=True)
class Bounds:
    """Prop. 1 at some strengths (rows) for every channel (columns), and the strengths that make it lowest.

    `best` is each channel's; `common` the one strength for all of them that makes the mean of the bound lowest.
    """

    names: list[str]
    n: int
    alpha: float
    normalized: bool
    source: Statistics
    target: Statistics
    strength: Vector
    lower: Vector
    upper: Vector
    best: dict[str, Vector]
    best_lower: dict[str, Vector]
    best_upper: dict[str, Vector]
    common: dict[str, float]

    def means(self, strength: float) -> dict[str, float]:
        """Both bounds at one strength, averaged over the channels."""
        values = wasserstein_bounds(self.source, self.target, n=self.n, strength=strength, alpha=self.alpha)
        unit = self.source.var if self.normalized else 1.0
        return {by: float((v / unit).mean()) for by, v in zip(("lower", "upper"), values, strict=True)}

    def content(self) -> dict[str, Any]:
        """For a JSON file; an infinite strength is the text "inf"."""
        return {
            "n": self.n,
            "alpha": self.alpha,
            "normalized": self.normalized,
            "channel": self.names,
            **{
                f"{side}_{name}": vector.tolist()
                for side in ("source", "target")
                for name, vector in getattr(self, side)._asdict().items()
            },
            "strength": _json(self.strength),
            "lower": _json(self.lower),
            "upper": _json(self.upper),
            "best": {
                by: {
                    "strength": _json(self.best[by]),
                    "lower": _json(self.best_lower[by]),
                    "upper": _json(self.best_upper[by]),
                    "common_strength": _number(self.common[by]),
                }
                for by in self.best
            },
        }


def bounds(
    source: str, target: str, *, n: int, strengths: list[float], alpha: float, normalized: bool = False
) -> Bounds:
    """Both bounds from what the user said source and target are."""
    source_names, a = _statistics("--source", source)
    target_names, b = _statistics("--target", target)
    names = source_names or target_names or ["0"]
    if source_names and target_names and source_names != target_names:
        raise ValueError(
            f"{source} and {target} are of different channels: {_some(source_names)} and {_some(target_names)}"
        )
    a, b = (Statistics(*np.broadcast_arrays(*pair, np.empty(len(names)))[:2]) for pair in (a, b))
    if normalized and not np.all(a.var > 0):
        raise ValueError(f"{source}: --normalized divides by the source's variance, which is 0 in a channel")
    unit = a.var if normalized else np.ones_like(a.var)

    def at(strength: Any) -> tuple[Vector, Vector]:
        lower, upper = wasserstein_bounds(a, b, n=n, strength=strength, alpha=alpha)
        return lower / unit, upper / unit

    with np.errstate(over="ignore"):
        rows = [at(value) for value in strengths]
        if not np.isfinite(rows).all():
            raise ValueError(f"the squared distance between {source} and {target} overflows; use a larger unit")
    best = {by: best_strength(a, b, n=n, bound=by, alpha=alpha) for by in ("lower", "upper")}
    reached = {by: at(value) for by, value in best.items()}
    result = Bounds(
        names=names,
        n=n,
        alpha=alpha,
        normalized=normalized,
        source=a,
        target=b,
        strength=np.array(strengths),
        lower=np.array([lower for lower, _ in rows]),
        upper=np.array([upper for _, upper in rows]),
        best=best,
        best_lower={by: value[0] for by, value in reached.items()},
        best_upper={by: value[1] for by, value in reached.items()},
        common={by: float(value[0]) for by, value in best.items()},
    )
    return result if len(names) == 1 else replace(result, common={by: _common(result, by) for by in best})


def _common(result: Bounds, by: str) -> float:
    """Where the mean over the channels is lowest: on a grid over log(N/n), then between its points."""
    from scipy.optimize import minimize_scalar

    def value(log: float) -> float:
        return result.means(result.n * math.exp(log))[by]

    grid = np.linspace(-28, 28, 281)
    near = float(grid[np.argmin([value(log) for log in grid])])
    found = minimize_scalar(value, bounds=(near - 0.2, near + 0.2), method="bounded", options={"xatol": 1e-9})
    candidates = {strength: result.means(strength)[by] for strength in (0.0, result.n * math.exp(found.x), math.inf)}
    return min(candidates, key=lambda strength: candidates[strength])


def draw(result: Bounds, path: Path) -> None:
    """Both bounds over the strength, averaged over the channels, and where each is lowest."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ModuleNotFoundError as error:
        raise UsageError(f'--picture needs {error.name}: pip install "shrinkstats[cli]"') from error
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    strength = np.geomspace(result.n / 200, result.n * 200, 241)
    means = [result.means(value) for value in strength]
    lower, upper = ([m[by] for m in means] for by in ("lower", "upper"))
    axes.fill_between(strength, lower, upper, color="#0072B2", alpha=0.12, linewidth=0)
    for by, values, color in (("upper", upper, "#D55E00"), ("lower", lower, "#0072B2")):
        best = result.common[by]
        axes.plot(strength, values, label=f"{by} bound, lowest at N = {best:.4g}", linewidth=2, color=color)
        if strength[0] <= best <= strength[-1]:
            axes.plot(best, result.means(best)[by], "o", markersize=7, color=color)
    alone = result.means(math.inf)["lower"]
    axes.axhline(alone, color="#666666", linestyle="--", label="source statistics alone (N = inf)")
    axes.set(
        xscale="log",
        yscale="log" if alone > 0 else "linear",
        xlabel="strength N: how many samples the source statistics count for",
        ylabel="expected squared W2 from the target"
        + (",\nin units of the source's variance" if result.normalized else ""),
    )
    for axis, subs in ((axes.xaxis, (1,)), (axes.yaxis, (1, 2, 5))):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
        if axis is axes.xaxis or alone > 0:
            axis.set_major_locator(LogLocator(subs=subs))
    channels = len(result.names)
    over = f", mean of {channels} channels" if channels > 1 else ""
    axes.set_title(f"A blend of source statistics with those of {result.n} samples{over}", loc="left", fontsize=11)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _statistics(option: str, text: str) -> tuple[list[str] | None, Statistics]:
    """The names of the channels, if known, and their statistics: from a file, or from two numbers."""
    path = Path(text)
    if path.suffix.lower() not in FILES:
        numbers = re.split(r"\s*,\s*", text.strip())
        try:
            mean, var = (np.array([float(v)]) for v in numbers)
        except ValueError as error:
            raise UsageError(
                f"{option} must be MEAN,VARIANCE or a file ending in {', '.join(FILES)}, got {text!r}"
            ) from error
        names = None
    else:
        if not path.is_file():
            raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        names, mean, var = _read(path)
    for name, values in (("mean", mean), ("variance", var)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{text}: a {name} is missing or infinite; leave that channel out")
    if np.any(var < 0):
        raise ValueError(f"{text}: a variance must not be negative, got {var.min():g}")
    return names, Statistics(mean, var)


def _read(path: Path) -> tuple[list[str], Vector, Vector]:
    """Columns of a table of statistics, as `shrinkstats estimate --output` writes it."""
    suffix = path.suffix.lower()
    table: Any
    try:
        if suffix == ".npz":
            table = _Archive(path)
        elif suffix == ".json":
            table = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                header, rows = reader.fieldnames or (), list(reader)
            if surplus := next((i for i, row in enumerate(rows, 2) if None in row), None):
                raise ValueError(f"row {surplus} has more columns than the header")
            table = _each_once([(name, [row[name] for row in rows]) for name in header])
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a table of statistics: {error}") from error
    if not isinstance(table, dict | _Archive):
        raise ValueError(f"{path}: not a table of statistics")
    for mean_name, var_name in COLUMNS:
        if mean_name in table and var_name in table:
            break
    else:
        wanted = " or ".join(" and ".join(pair) for pair in COLUMNS)
        raise ValueError(f"{path}: holds no {wanted}; `shrinkstats estimate --output` writes such a table")
    mean, var = (_vector(path, name, table[name]) for name in (mean_name, var_name))
    if mean.shape != var.shape:
        raise ValueError(f"{path}: {mean_name} has {mean.size} channels, {var_name} {var.size}")
    if "channel" not in table:
        return [str(i) for i in range(len(mean))], mean, var
    names = table["channel"].tolist() if suffix == ".npz" else table["channel"]
    if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
        raise ValueError(f"{path}: channel is not a list of names")
    if len(names) != len(mean):
        raise ValueError(f"{path}: channel has {len(names)} names for {len(mean)} channels")
    return [str(name) for name in names], mean, var


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of names that may not be given twice, at least not those that are looked at."""
    for name in ("channel", *(name for pair in COLUMNS for name in pair)):
        if sum(other == name for other, _ in pairs) > 1:
            raise ValueError(f"{name} is there twice")
    return dict(pairs)


class _Archive:
    """The arrays of a .npz file by name, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except UsageError:  # there is no such array
            return False
        return True

    def __getitem__(self, name: str) -> NDArray[Any]:
        return read(self.path, name).values


def _vector(path: Path, name: str, values: Any) -> Vector:
    # In a .csv a number is a text; elsewhere a text, a bool or a dictionary may be read as numbers, but is none.
    numbers = (str,) if path.suffix.lower() == ".csv" else (int, float)
    try:
        if isinstance(values, np.ndarray):
            known = values.ndim == 1 and values.dtype.kind in "iuf"
        else:
            known = isinstance(values, list) and all(v is None or (type(v) in numbers) for v in values)
        if not known:
            raise TypeError
        vector = np.asarray([math.nan if v is None or v == "" else v for v in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {name} is not a list of numbers") from error
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{path}: {name} is not a list of numbers, got shape {vector.shape}")
    return vector


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _json(values: Vector) -> Any:
    """Nested lists of numbers."""
    return [_json(v) if np.ndim(v) else _number(v) for v in values]


def _number(value: float) -> float | str:
    """Infinity as the text "inf": JSON has no number for it."""
    return "inf" if np.isinf(value) else float(value)
