"""The 1,797 handwritten digits that ship with scikit-learn, and four ways in which their recording may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

TEST = 512  # images: a multiple of every batch size, so that all batches of an evaluation are whole


class Split(NamedTuple):
    """Images of shape (n, 1, 8, 8) from 0 (paper) to 1 (ink), and the digits they show."""

    images: Tensor
    labels: Tensor


def load(seed: int) -> tuple[Split, Split]:
    """Training and test images, divided at random."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order[:TEST], order[TEST:]
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.25 * torch.randn(x.shape, generator=generator)


def _contrast(x: Tensor, _: torch.Generator) -> Tensor:
    return 0.5 + 0.65 * (x - 0.5)


def _blur(x: Tensor, _: torch.Generator) -> Tensor:
    taps = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * 0.7**2))
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    return F.conv2d(F.pad(x, (2, 2, 2, 2)), kernel[None, None])


def _brightness(x: Tensor, _: torch.Generator) -> Tensor:
    return x + 0.3


# Strengths at which the trained network visibly suffers and is far from chance, 10%.
SHIFTS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, _: x,
    "noise": _noise,
    "contrast": _contrast,
    "blur": _blur,
    "brightness": _brightness,
}
