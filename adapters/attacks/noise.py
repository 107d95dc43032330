"""Noise without malice, as the published tables have it beside the attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shrinkstats._arrays import positive_number
from shrinkstats.adapters.attacks.attack import Attack, Bounds, Loss, random


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Normal noise on every element, cut to the bounds.

    Parameters
    ----------
    variance : float
        Of the noise before the cut, in squared units of the images. The default is that of the ICLR 2020 submission
        "Towards an adversarially robust normalization approach", section 2.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import GaussianNoise
    >>> noisy = GaussianNoise(0.01)(None, torch.full((1, 100_000), 0.5), generator=torch.Generator().manual_seed(0))
    >>> print(f"{float(noisy.var()):.3f}")
    0.010
    """

    variance: float = 0.25

    def __post_init__(self) -> None:
        positive_number("variance", self.variance)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        noise = math.sqrt(self.variance) * random(torch.randn, images.shape, images, generator)
        return (images + noise).clamp(*bounds).to(images.dtype)


@dataclass(frozen=True)
class ClippedCauchyNoise(Attack):
    """Cauchy noise on every element, cut to the bounds: sub-Gaussian only because of the cut.

    The noise is -scale / sqrt(2) tan(pi U), U uniform, as in the reference code of arXiv 2507.08261;
    :class:`shrinkstats.theory.ClippedCauchy` has its law.

    Parameters
    ----------
    scale : float
        sigma of that code: sqrt(2) times the scale parameter of the Cauchy distribution.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import ClippedCauchyNoise
    >>> noisy = ClippedCauchyNoise(0.1)(None, torch.full((1, 100_000), 0.5), generator=torch.Generator().manual_seed(0))
    >>> print(f"{float(noisy.var()):.2f}")
    0.04
    """

    scale: float

    def __post_init__(self) -> None:
        positive_number("scale", self.scale)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        angle = math.pi * random(torch.rand, images.shape, images, generator)
        return (images - self.scale / math.sqrt(2) * angle.tan()).clamp(*bounds).to(images.dtype)
