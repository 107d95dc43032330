"""How well a network does under shifts, by the batch size its statistics may come from.

The protocols are those of Schneider, Rusak et al. (2020): ad hoc (every image on its own), partial (8 images), and
full (all images of a shift at once).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shrinkstats.adapters.torch.adaptation import grouped

PROTOCOLS: dict[str, int | None] = {"ad hoc": 1, "partial": 8, "full": None}

PASS = 256  # images in a forward pass, about

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Score:
    """Accuracy on one shift, or its mean over shifts, with confidence intervals.

    Attributes
    ----------
    shift : str
        Its name; "mean" for the mean.
    batch_size : int or None
        Images that shared statistics; None is all of them.
    images : int
        How many were classified.
    top1, top5 : float
        Shares of images whose class came first, or among the first five.
    top1_interval, top5_interval : (float, float)
        From the resampled batches; NaN where there is a single batch.
    """

    shift: str
    batch_size: int | None
    images: int
    top1: float
    top5: float
    top1_interval: tuple[float, float]
    top5_interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.top1_interval
        size = "full" if self.batch_size is None else f"n = {self.batch_size}"
        return f"{self.shift}, {size}: {self.top1:.1%} ({low:.1%} to {high:.1%}), top-5 {self.top5:.1%}"


def evaluate(
    model: nn.Module,
    shifts: Mapping[str, Loader],
    protocol: str | int = "ad hoc",
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Accuracy of a network under every shift, and their mean.

    Parameters
    ----------
    model : torch.nn.Module
        A network in evaluation, adapted or not. Its mode and device are left as they are.
    shifts : mapping from names to iterables
        What to evaluate on. The iterables yield pairs (images, labels) of any sizes; images are taken in order, so
        shuffle them unless batches of one class are meant.
    protocol : {"ad hoc", "partial", "full"} or int
        How many images share statistics: 1, 8, all, or a number. Images that fill no batch are left out.
    confidence : float
        Of the intervals.
    resamples : int
        Draws of batches, with replacement, that the intervals come from.
    seed : int
        Of the draws.

    Returns
    -------
    list of Score
        One for every shift, in order; then the mean, if there are several.

    Raises
    ------
    ValueError
        If the protocol is unknown, there are fewer images than a batch takes, or images and labels do not match.

    Notes
    -----
    Images of one batch are normalized together, so whole batches are resampled, not images. The interval is the
    percentile bootstrap's.

    References
    ----------
    Schneider, Rusak et al. (2020), "Improving robustness against common corruptions by covariate shift adaptation",
    section 4; Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    size = _batch_size(protocol)
    if not shifts:
        raise ValueError("shifts is empty: there is nothing to evaluate on")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    rng = np.random.default_rng(seed)
    scores, draws = [], []
    for name, loader in shifts.items():
        place = ranks(model, loader, size)
        batches = place.reshape(-1, len(place) if size is None else size)
        hits = np.stack([(batches < k).mean(1) for k in (1, 5)])
        number = hits.shape[1]
        drawn = np.stack([hits[:, rng.integers(number, size=number)].mean(1) for _ in range(resamples)], axis=1)
        draws.append(drawn if number > 1 else drawn * np.nan)
        scores.append(_score(name, size, place.size, hits.mean(1), draws[-1], confidence))
    if len(scores) > 1:
        values = np.mean([(s.top1, s.top5) for s in scores], axis=0)
        total = sum(s.images for s in scores)
        scores.append(_score("mean", size, total, values, np.mean(draws, axis=0), confidence))
    return scores


@torch.no_grad()  # inference mode would spoil what a network makes at first use, parameters and caches, for training
def ranks(model: nn.Module, loader: Loader, batch_size: int | None) -> NDArray[np.int64]:
    """How many classes come before the right one, for every image; 0 is right.

    Parameters
    ----------
    model : torch.nn.Module
        A network.
    loader : iterable of (images, labels)
        In any portions; they are put together and divided anew.
    batch_size : int or None
        Images that share statistics; None is all of them.

    Returns
    -------
    int64 array of shape (images,)
        A class with the same logit comes before, and so does one that is NaN: constant outputs are never right.
    """
    found = []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with nullcontext() if batch_size is None else grouped(model, batch_size):
        for images, labels in _passes(loader, batch_size):
            logits = model(images.to(device))
            right = logits.gather(1, labels.to(device)[:, None])
            found.append((~(logits < right)).sum(1) - 1)
    return torch.cat(found).cpu().numpy()


def _batch_size(protocol: str | int) -> int | None:
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be a number of images or one of {', '.join(PROTOCOLS)}, got {protocol!r}")
        return PROTOCOLS[protocol]
    if protocol < 1:
        raise ValueError(f"a batch has at least 1 image, got {protocol}")
    return int(protocol)


def _passes(loader: Loader, batch_size: int | None) -> Iterable[tuple[Tensor, Tensor]]:
    """The images in portions of whole batches; what fills no batch is left out."""
    waiting: list[tuple[Tensor, Tensor]] = []
    count, any_left = 0, True
    size = None if batch_size is None else max(1, PASS // batch_size) * batch_size
    for images, labels in loader:
        if len(images) != len(labels):
            raise ValueError(f"the loader gave {len(images)} images with {len(labels)} labels")
        waiting.append((images, labels))
        count += len(images)
        if size is not None and count >= size:
            images, labels = (torch.cat(v) for v in zip(*waiting, strict=True))
            whole = count // size * size
            yield from zip(images[:whole].split(size), labels[:whole].split(size), strict=True)
            waiting, count, any_left = [(images[whole:], labels[whole:])], count - whole, False
    if count and (whole := count if batch_size is None else count // batch_size * batch_size):
        images, labels = (torch.cat(v) for v in zip(*waiting, strict=True))
        yield images[:whole], labels[:whole]
    elif any_left:
        raise ValueError(f"{count} images do not fill a batch of {batch_size or 1}")


def _score(
    name: str, size: int | None, images: int, values: Any, draws: NDArray[np.float64], confidence: float
) -> Score:
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    (top1, top5), intervals = values, np.quantile(draws, tails, axis=1).T
    return Score(name, size, images, float(top1), float(top5), *((float(low), float(high)) for low, high in intervals))
