"""Stein's blend with calibrated noise compiled: in a network it is wanted once a layer, and by every small batch."""

from __future__ import annotations

import math

import numpy as np

from shrinkstats.kernels.compiled import Vector, inner, jit
from shrinkstats.kernels.cpu import merge_groups
from shrinkstats.kernels.vectors import affine_lines, check_channels

FAR = 1e140  # squares beyond it, or sums below its inverse, are for the general way, which scales its numbers


@jit
def _blend(
    mean_s: Vector, var_s: Vector, mean_t: Vector, var_t: Vector,
    noise: Vector, sd_noise: Vector, bias: Vector, kappa: float, share: float, mean: Vector, var: Vector,
) -> bool:  # fmt: skip
    """The blends of a stack of batches; False where a number is not in the range of easy ones."""
    channels = mean_s.size
    check_channels(channels, (var_s.size, noise.size, sd_noise.size, bias.size, mean_t.shape[1]))
    if not mean_t.shape == var_t.shape == mean.shape == var.shape:
        raise ValueError("stacks of different shapes")
    for c in range(channels):
        if not (0 < var_s[c] < FAR and 0 <= noise[c] < FAR and 0 <= sd_noise[c] < FAR and -1 < bias[c] < FAR):
            return False
    for g in range(mean_t.shape[0]):
        shift, chance, spread, squares, sd_chance = 0.0, 0.0, 0.0, 0.0, 0.0
        for c in range(channels):
            if not (0 <= var_t[g, c] < FAR):
                return False
            d = mean_t[g, c] - mean_s[c]
            square = var_t[g, c] / (var_s[c] * (1 + bias[c]) ** 2)
            e = math.sqrt(square) - 1
            shift += d * d / var_s[c]
            chance += noise[c] / var_s[c] * square
            spread += e * e
            squares += square
            sd_chance += sd_noise[c]
        sd_chance *= squares / channels
        if not (1 / FAR < shift < FAR and 1 / FAR < spread < FAR and chance < FAR and sd_chance < FAR):
            return False
        w = share * max(0.0, 1 - kappa * chance / shift)
        w_sd = share * max(0.0, 1 - kappa * sd_chance / spread)
        for c in range(channels):
            mean[g, c] = mean_s[c] + w * (mean_t[g, c] - mean_s[c])
            sd = (1 - w_sd) * math.sqrt(var_s[c]) + w_sd * math.sqrt(var_t[g, c]) / (1 + bias[c])
            var[g, c] = sd * sd
    return True


def stein_blend(
    source: tuple[Vector, Vector],
    target: tuple[Vector, Vector],
    noise: tuple[Vector, Vector, Vector],
    kappa: float,
    share: float,
) -> tuple[Vector, Vector] | None:
    """:func:`shrinkstats.stein_blend` of float64 vectors, the target's with leading axes; None if it is not easy."""
    shape = target[0].shape
    mean, var = np.empty((2, *shape))
    stacks = (v.reshape(-1, shape[-1]) for v in (*target, mean, var))
    mean_t, var_t, mean_out, var_out = stacks
    easy = _blend(*source, mean_t, var_t, *noise, kappa, share, mean_out, var_out)
    return (mean, var) if easy else None


@inner
def _at(table, n, value):
    """The row for batches of n images of a table for 1, 2, 4, ... of them; n times what it holds changes slowly."""
    if table.shape[0] < 1 or table.shape[1] != value.size or not n >= 1:
        raise ValueError("no row for a batch: the table has the wrong shape, or the batch no images")
    position = min(math.log2(n), table.shape[0] - 1)
    low = int(position)
    share = position - low
    for c in range(value.size):
        value[c] = table[low, c]
        if share != 0:
            value[c] += share * (table[low + 1, c] - table[low, c])
        value[c] /= n


@jit
def adapted_lines(
    groups, size, n, kappa, eps, running_mean, running_var, noise_mean, noise_sd, noise_sd_bias, weight, bias, lines
):
    """Turn the moments of a batch, in groups, into the vectors of `affine`; False where a number is not easy."""
    c = running_mean.size
    check_channels(c, (running_var.size, noise_mean.size))
    if groups.shape[0] < 3 or groups.shape[2] != c:
        raise ValueError("the input has other channels than the running statistics")
    whole, between = np.empty(c), np.empty(c)
    source_mean, source_var, noise, sd_noise, sd_bias, spread = np.empty((6, c))
    target, blended = np.empty((2, 1, c)), np.empty((2, 1, c))
    merge_groups(groups[0], groups[2], size, target[0, 0], whole, between)
    for i in range(c):
        target[1, 0, i] = whole[i] / (size * groups.shape[1])
        source_mean[i], source_var[i], noise[i] = running_mean[i], running_var[i], noise_mean[i] / n
    _at(noise_sd, n, sd_noise)
    _at(noise_sd_bias, n, sd_bias)
    if not _blend(
        source_mean, source_var, target[0], target[1], noise, sd_noise, sd_bias, kappa, n / (n + 1),
        blended[0], blended[1],
    ):  # fmt: skip
        return False
    for i in range(c):
        spread[i] = math.sqrt(blended[1, 0, i] + eps)
    affine_lines(blended[0, 0], spread, weight, bias, lines)
    return True
