"""How far data have shifted from those a network was trained on, layer by layer, and what it makes of that."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from shrinkstats._arrays import namespace
from shrinkstats._files import whole
from shrinkstats.adapters.torch import groups
from shrinkstats.adapters.torch.calibration import device_of
from shrinkstats.adapters.torch.conversion import Excluded, Model, become_shrinking, convertible_layers, restored
from shrinkstats.adapters.torch.feeding import Forward, passes
from shrinkstats.adapters.torch.images import Entry, check_rows, together, watching
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm
from shrinkstats.adapters.torch.noise import noise_of
from shrinkstats.adapters.torch.streaming import undisturbed
from shrinkstats.prior import blend_weights
from shrinkstats.values import Moments, SamplingNoise, Statistics
from shrinkstats.wasserstein import best_strength, wasserstein2

COLUMNS = (
    "layer", "depth", "channels", "distance", "n", "noise",
    "weight_mean", "weight_sd", "strength_mean", "strength_sd", "strength_bound",
)  # fmt: skip


@dataclass(frozen=True)
class ShiftReport:
    """What :func:`shift_report` found: ``print`` it, or take its `rows`.

    Attributes
    ----------
    rows : list of dict
        One for every batch norm layer in the order of evaluation, as ``pandas.DataFrame(report.rows)`` takes them:

        - layer, depth, channels: its name, its place, its width
        - distance: between the statistics of the training data and of all the data, the square root of the
          normalized squared W2 distance averaged over channels; 1 is one standard deviation of the training data
        - n: images in a batch, as the layer sees it: fewer where the network takes the loader's piece by piece
        - noise: distance of the means that chance would show in a batch of n images, in the same unit
        - weight_mean, weight_sd: what the Stein blend gives to such a batch, for mean and standard deviation;
          averages over the batches
        - strength_mean, strength_sd: the strength N of a prior blend with that weight, n (1 - w)/w
        - strength_bound: the N that the upper bound of Prop. 1 suggests (:func:`shrinkstats.best_strength`), the
          median over channels
    images : int
        How many were looked at.
    calibrated : bool
        Whether the noise was measured (:func:`calibrate`); else it is each batch's own estimate.
    """

    rows: list[dict[str, Any]] = field(repr=False)
    images: int
    calibrated: bool

    @property
    def distance(self) -> float:
        """The mean over layers, which goes with the error (:func:`fit_error_predictor`)."""
        return float(np.mean([row["distance"] for row in self.rows]))

    def __str__(self) -> str:
        cells = [list(COLUMNS), *([_shown(row[c]) for c in COLUMNS] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in cells
        ]
        noise = "calibrated noise" if self.calibrated else "not calibrated: noise from each batch"
        return "\n".join([*lines, f"mean distance {self.distance:.3f}, {self.images} images, {noise}"])

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as comma-separated values; also written to a file, if one is named."""
        text = StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return _written(text.getvalue(), path)

    def to_json(self, path: str | Path | None = None) -> str:
        """All of it as JSON; an infinite strength is null. Also written to a file, if one is named."""
        rows = [
            {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in r.items()} for r in self.rows
        ]
        content = {"images": self.images, "calibrated": self.calibrated, "distance": self.distance, "rows": rows}
        return _written(json.dumps(content, indent=1) + "\n", path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Distance, weights and strengths over depth; needs matplotlib.

        Parameters
        ----------
        path : path, optional
            Where to write the picture; its ending says how.

        Returns
        -------
        matplotlib.figure.Figure
            Three panels above each other: distances, weights, strengths.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(6.4, 0.35 * len(self.rows)), 7.2), layout="constrained")
        top, middle, bottom = figure.subplots(3, sharex=True)
        depth = range(len(self.rows))

        def line(axis: Any, key: str, label: str, color: str, marker: str) -> None:
            axis.plot(depth, [r[key] for r in self.rows], color=color, marker=marker, markersize=4, label=label)

        line(top, "distance", "shift", "#D55E00", "D")
        line(top, "noise", f"chance in a mean of {self.rows[0]['n']} images", "#666666", "s")
        top.set(ylabel="distance, training\nstandard deviations", ylim=(0, None))
        line(middle, "weight_mean", "mean", "#0072B2", "o")
        line(middle, "weight_sd", "standard deviation", "#009E73", "^")
        middle.set(ylabel="weight of the batch\nin a Stein blend", ylim=(-0.03, 1.03))
        line(bottom, "strength_mean", "Stein blend, mean", "#0072B2", "o")
        line(bottom, "strength_sd", "Stein blend, standard deviation", "#009E73", "^")
        line(bottom, "strength_bound", "Proposition 1", "#CC79A7", "v")
        bottom.set(ylabel="strength N", yscale="symlog", ylim=(0, None))
        bottom.set_xticks(list(depth), [r["layer"] for r in self.rows], rotation=60, ha="right", fontsize=7)
        for axis in (top, middle, bottom):
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)
            axis.grid(color="#dddddd")
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        if path is not None:
            with whole(Path(path)) as temporary:
                figure.savefig(temporary)
        return figure


@dataclass
class _Seen:
    """What one layer has seen."""

    n: int = 0  # images in a batch
    total: Moments | None = None
    weights: list[tuple[float, float]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)


@torch.no_grad()
def shift_report(
    model: Model, loader: Iterable[Any], *, forward: Forward | None = None, exclude: Excluded = ()
) -> ShiftReport:
    """Compare the statistics that data have in every layer with the training data's.

    Parameters
    ----------
    model : torch.nn.Module
        A network with batch norm layers. It evaluates the data as it stands, adapted or not: the statistics of
        later layers depend on that. It is left as it was.
    loader : iterable
        Yields batches as :func:`calibrate` takes them; the size of the first is the n of the report. A batch, or
        piece of one, of another size counts for the distance alone.
    forward : callable, optional
        ``forward(model, batch)`` calls ``model(...)`` on a batch of any other kind.
    exclude : iterable of str or torch.nn.Module
        Modules, or their names, whose layers are left out.

    Returns
    -------
    ShiftReport
        A row for every layer, and the mean distance.

    Raises
    ------
    ValueError
        If there are no images, a layer has no running statistics, or it sees more rows than images and was not
        calibrated.
    TypeError
        If the loader yields something else, or a layer cannot be converted.

    References
    ----------
    Schneider, Rusak et al. (2020), section 6, figures 3 and 5.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import calibrate, shift_report
    >>> _ = torch.manual_seed(0)
    >>> net = calibrate(nn.Sequential(nn.BatchNorm2d(3)), torch.randn(16, 32, 3, 4, 4))
    >>> report = shift_report(net.eval(), torch.randn(16, 8, 3, 4, 4) + 1)
    >>> print(f"{report.distance:.1f} standard deviations, weight {report.rows[0]['weight_mean']:.1f}")
    1.0 standard deviations, weight 0.9
    """
    layers = convertible_layers(model, exclude)
    for name, layer in layers.items():
        if layer.running_mean is None:
            raise ValueError(f"layer {name} has no running statistics (track_running_stats=False) to compare with")
    with ExitStack() as stack:
        stack.enter_context(restored(layers.values()))
        stack.enter_context(undisturbed(layers.values()))
        for layer in layers.values():
            if not isinstance(layer, ShrinkBatchNorm):
                become_shrinking(layer)
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        seen: dict[str, _Seen] = {}
        entry = stack.enter_context(Entry(model, ordered=forward is not None))

        def look(name: str, layer: ShrinkBatchNorm, x: Tensor) -> None:
            images = entry.count(name, len(x), layer.image_rows)
            check_rows(name, layer, x, images)
            if len(x):
                _look(layer, together(x, layer.image_rows), seen.setdefault(name, _Seen()))

        stack.enter_context(watching(layers, look))
        for run in passes(model, loader, forward, device_of(layers)):
            run()
        sizes = [size for size in entry.sizes if size]
        if not sizes:
            raise ValueError("the loader gave no images to compare with the training data")
        calibrated = all(layer.noise_mean is not None for layer in layers.values())
        rows = [_row(depth, name, layers[name], found) for depth, (name, found) in enumerate(seen.items())]
    return ShiftReport(rows, sum(sizes), calibrated)


def _look(layer: ShrinkBatchNorm, x: Tensor, seen: _Seen) -> None:
    """Note what a batch says on its way through a layer."""
    stack = groups.moments(x, len(x), extremes=True)
    first = {k: v[0] for k, v in vars(stack).items() if not isinstance(v, (int, float))}
    vectors = {k: torch.as_tensor(v, device=x.device) for k, v in first.items()}
    batch = replace(stack, **vectors)
    seen.total = batch if seen.total is None else seen.total + batch
    seen.n = seen.n or len(x)
    if len(x) != seen.n:
        return
    source = Statistics(layer.running_mean.to(batch.mean), layer.running_var.to(batch.mean))
    noise = noise_of(layer, len(x), lambda v: v.to(batch.mean.dtype)) or SamplingNoise(batch.noise, None, None)
    xp = namespace(mean=batch.mean)
    weights = blend_weights(source, Statistics(batch.mean, batch.var()), noise, 1.0, xp)
    share = 1.0 if layer.noise_mean is None else len(x) / (len(x) + 1)  # as `SteinBlend` has it
    seen.weights.append(tuple(share * float(w) for w in weights))
    votes = source.var > 0
    seen.noise.append(float((noise.mean / source.var)[votes].mean()))


def _row(depth: int, name: str, layer: ShrinkBatchNorm, seen: _Seen) -> dict[str, Any]:
    total, n = seen.total, seen.n
    votes = layer.running_var > 0  # a channel that was constant in training has no unit
    source = Statistics(*(v[votes].to(total.mean) for v in (layer.running_mean, layer.running_var)))
    target = Statistics(total.mean[votes], total.var()[votes])
    weights = [float(w) for w in np.mean(seen.weights, axis=0)]
    strengths = [n * (1 - w) / w if w > 0 else math.inf for w in weights]
    bound = best_strength(source, target, n=n)
    values = (
        name, depth, layer.num_features, float(wasserstein2(source, target, normalized=True).mean().sqrt()), n,
        float(np.sqrt(np.mean(seen.noise))), *weights, *strengths, float(np.median(bound.cpu().numpy())),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        with whole(Path(path)) as temporary:
            temporary.write_text(text)
    return text


@dataclass(frozen=True)
class ErrorPredictor:
    """A line from the mean distance of a shift to the error it causes.

    Attributes
    ----------
    slope, intercept : float
        Of the line, fitted by least squares.
    deviation : float
        Mean absolute deviation of the errors it was fitted to; those of other shifts deviate more
        (:meth:`test`).
    """

    slope: float
    intercept: float
    deviation: float

    def __call__(self, distances: ArrayLike) -> Any:
        """The predicted errors, between 0 and 1."""
        return np.clip(self.intercept + self.slope * np.asarray(distances, dtype=float), 0, 1)

    def test(self, distances: ArrayLike, errors: ArrayLike) -> float:
        """Mean absolute deviation on shifts it was not fitted to."""
        return float(np.abs(self(distances) - _line_up(distances, errors, 1)[1]).mean())


def fit_error_predictor(distances: ArrayLike, errors: ArrayLike) -> ErrorPredictor:
    """Predict a network's error under a shift without labels, from the shift's mean distance.

    Parameters
    ----------
    distances : array of shape (k,)
        ``shift_report(model, loader).distance`` of k shifts whose errors are known.
    errors : array of shape (k,)
        The share of wrong answers under each, between 0 and 1.

    Returns
    -------
    ErrorPredictor
        Call it with distances; its method `test` says how far it is off on shifts that were held out.

    Raises
    ------
    ValueError
        If there are fewer than 2 different distances, shapes differ, or values are not finite.

    References
    ----------
    Schneider, Rusak et al. (2020), figure 3.

    Examples
    --------
    >>> from shrinkstats.adapters.torch import fit_error_predictor
    >>> predictor = fit_error_predictor([0.1, 0.3, 0.5], [0.1, 0.3, 0.5])
    >>> print(predictor(0.4).round(3))
    0.4
    """
    x, y = _line_up(distances, errors, 2)
    if np.ptp(x) == 0:
        raise ValueError(f"all {len(x)} distances are {x[0]:g}; a line needs shifts of different strength")
    slope, intercept = np.polyfit(x, y, 1)
    predictor = ErrorPredictor(float(slope), float(intercept), 0.0)
    return ErrorPredictor(predictor.slope, predictor.intercept, predictor.test(x, y))


def _line_up(distances: ArrayLike, errors: ArrayLike, least: int) -> tuple[Any, Any]:
    x, y = np.asarray(distances, dtype=float), np.asarray(errors, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < least:
        raise ValueError(f"expected {least} or more distances and as many errors, got shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and ((y >= 0) & (y <= 1)).all()):
        raise ValueError("distances must be finite, and errors shares between 0 and 1")
    return x, y
