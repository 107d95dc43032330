"""How much batch statistics scatter without any shift, as `calibrate` measures and layers keep it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shrinkstats._arrays import namespace
from shrinkstats.values import SamplingNoise

NOISE_BUFFERS = ("noise_mean", "noise_sd", "noise_sd_bias")

FAR = 1e20  # stands for infinity, which half precision soon comes to: sums and products of it stay numbers
GROUPS = 8  # batches that a variance over batches is taken from, at least


def measure(means: Tensor, variances: Tensor, source_var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The noise buffers, from the mean and variance of every channel in each of T images: arrays (T, c).

    `noise_mean` is the variance of one image's mean, of shape (c,). `noise_sd` and `noise_sd_bias`, of shape
    (k, c), are n times the variance and n times the mean of sd_batch/sd_source - 1 over batches of n = 1, 2, 4, ...
    images. They fall off like 1/n, so n times them is almost constant: easy to read between the lines.
    """
    images, channels = means.shape
    source_sd = source_var.sqrt()
    spreads, biases = [], []
    n = 1
    while images // n >= min(GROUPS, images):
        groups = images // n
        m = means[: groups * n].reshape(groups, n, channels)
        v = variances[: groups * n].reshape(groups, n, channels)
        sd = (v.mean(1) + m.var(1, correction=0)).sqrt()
        # A channel that was constant in training has no unit; it has no vote in a Stein blend either.
        excess = torch.where(source_sd > 0, sd / source_sd - 1, 0.0)
        spreads.append(n * excess.var(0, correction=1))
        biases.append(n * excess.mean(0))
        n *= 2
    return means.var(0, correction=1), torch.stack(spreads), torch.stack(biases)


def noise_of(layer: Any, n: float, convert: Callable[[Tensor], Any]) -> SamplingNoise | None:
    """The sampling noise of a calibrated layer for batches of n images, from converted buffers; None without."""
    if layer.noise_mean is None:
        return None
    mean, sd, bias = (convert(getattr(layer, name)) for name in NOISE_BUFFERS)
    xp = namespace(noise_mean=mean)
    mean, sd, bias = (xp.where(xp.isinf(v), FAR, v) for v in (mean, sd, bias))
    noise = _for_batches(n, mean, sd, bias)
    # Where not even the bias is known, a batch says nothing of the standard deviation: as if it had none.
    return noise._replace(sd_bias=xp.where(noise.sd_bias > FAR / 1e10, -1.0, noise.sd_bias))


def _for_batches(n: float, mean: Any, sd: Any, bias: Any) -> SamplingNoise:
    """The noise of batches of n images, between the lines of the buffers."""
    if torch.compiler.is_compiling() or type(n) not in (int, float):
        return _noise_of_any(n, mean, sd, bias)
    position = min(math.log2(n), len(sd) - 1)
    low = int(position)
    share = position - low

    def between(table: Any) -> Any:
        return (table[low] if share == 0 else table[low] + share * (table[low + 1] - table[low])) / n

    return SamplingNoise(mean / n, between(sd), between(bias))


def _noise_of_any(n: Any, mean: Tensor, sd: Tensor, bias: Tensor) -> SamplingNoise:
    """The same in tensor operations alone, for a graph in which n stands for any number."""
    n = n.to(mean) if isinstance(n, Tensor) else torch.scalar_tensor(n, dtype=mean.dtype, device=mean.device)
    rows = torch.arange(sd.shape[0], dtype=mean.dtype, device=mean.device)
    position = torch.minimum(torch.log2(n), rows[-1])
    hats = (1 - (position - rows).abs()).clamp(min=0)  # how near to each row: two of them share, at most

    def between(table: Tensor) -> Tensor:
        return (hats[:, None] * table).sum(0) / n

    return SamplingNoise(mean / n, between(sd), between(bias))
