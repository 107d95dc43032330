"""Many small batches in one pass: every group of images is normalized with the group's own statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shrinkstats._arrays import namespace
from shrinkstats.adapters.torch import fused
from shrinkstats.adapters.torch.addresses import array
from shrinkstats.estimators import Estimator
from shrinkstats.kernels import cpu
from shrinkstats.values import Moments


def normalize(layer: Any, x: Tensor, estimator: Estimator) -> Tensor:
    """The forward pass of a layer whose `group_size` is set."""
    size = layer.group_size
    if len(x) % size:
        raise ValueError(f"{len(x)} images do not divide into groups of {size}; pass a multiple, and the rest alone")
    with np.errstate(all="ignore"):  # NaN and infinity pass through, as everywhere in PyTorch
        center, slope = _center_and_slope(layer, x, estimator)
    if layer.weight is not None:
        slope = slope * layer.weight
    work = torch.promote_types(x.dtype, torch.float32)
    pivot = center.detach().to(work).to(center.dtype)  # near the data, so that float32 far from zero loses nothing
    pivot = pivot.where(slope != 0, 0)  # times 0, a difference beyond the range is NaN
    shift = (pivot - center) * slope
    if layer.bias is not None:
        shift = shift + layer.bias

    def along(vectors: Tensor) -> Tensor:
        return vectors.to(work).reshape(-1, 1, x.size(1), *[1] * (x.ndim - 2))

    y = torch.addcmul(along(shift), x.unflatten(0, (-1, size)).to(work) - along(pivot), along(slope))
    return y.flatten(0, 1).to(x.dtype)


def _center_and_slope(layer: Any, x: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
    """What to subtract from every group, and what to multiply it with: vectors of shape (groups, c)."""
    size = layer.group_size
    batches = moments(x, size, extremes=estimator.uses_extremes)
    prior = layer._prior(x, None, batches) if estimator.uses_prior else None
    if prior is not None and isinstance(batches.mean, Tensor):
        prior = fused._tensors(prior, batches.mean)
    center, spread = estimator.statistics(batches, prior)
    slope = 1 / estimator.scale(spread, float(layer.eps))
    return torch.as_tensor(center, device=x.device), torch.as_tensor(slope, device=x.device)


def moments(x: Tensor, size: int, *, extremes: bool) -> Moments:
    """The moments of every `size` images in a row: vectors of shape (groups, c), NumPy's if no gradient is wanted."""
    pixels = math.prod(x.shape[2:])
    parts = _image_moments(x, extremes)
    xp = namespace(mean=parts[0])
    means, m2, *bounds = (xp.reshape(v, (-1, size, x.size(1))) for v in parts)
    mean = xp.mean(means, axis=1)
    deviation = means - mean[:, None]
    between = xp.sum(deviation * deviation, axis=1)
    low, high = (xp.min(bounds[0], axis=1), xp.max(bounds[1], axis=1)) if extremes else (mean * math.nan,) * 2
    count = size * pixels
    return Moments.of_equal_samples(
        count=count,
        samples=size,
        mean=mean,
        m2=xp.sum(m2, axis=1) + pixels * between,
        minimum=low,
        maximum=high,
        sample_m2=pixels**2 * between,
    )


def _image_moments(x: Tensor, extremes: bool) -> list[Any]:
    """Mean, squared deviations and, if asked for, extremes of every channel of every image: vectors (n, c)."""
    if fused.fits(x) and not (torch.is_grad_enabled() and x.requires_grad):
        parts = list(cpu.group_moments(array(x), 1, 0, extremes=extremes)[: 4 if extremes else 2])
        if x.dtype != torch.float64 or np.isfinite(parts[1]).all():  # else sums may have left the range
            return parts
    wide = x.flatten(2) if x.ndim > 2 else x[..., None]
    wide = wide.to(torch.float64 if x.device.type == "cpu" else torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(2)
    m2 = (wide - mean[..., None]).square().sum(2)
    return [mean, m2, wide.amin(2), wide.amax(2)] if extremes else [mean, m2]
