"""Stein's blend with calibrated noise compiled: in a network it is wanted once a layer, and by every small batch."""

from __future__ import annotations

import math

import numpy as np

from shrinkstats.kernels.cpu import Vector, jit

FAR = 1e140  # squares beyond it, or sums below its inverse, are for the general way, which scales its numbers


@jit
def _blend(
    mean_s: Vector, var_s: Vector, mean_t: Vector, var_t: Vector,
    noise: Vector, sd_noise: Vector, bias: Vector, kappa: float, kappa_sd: float, mean: Vector, var: Vector,
) -> bool:  # fmt: skip
    """The blends of a stack of batches; False where a number is not in the range of easy ones."""
    channels = mean_s.size
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
        w = max(0.0, 1 - kappa * chance / shift)
        w_sd = max(0.0, 1 - kappa_sd * sd_chance / spread)
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
    kappa_sd: float,
) -> tuple[Vector, Vector] | None:
    """:func:`shrinkstats.stein_blend` of float64 vectors, the target's with leading axes; None if it is not easy."""
    shape = target[0].shape
    mean, var = np.empty((2, *shape))
    stacks = (v.reshape(-1, shape[-1]) for v in (*target, mean, var))
    mean_t, var_t, mean_out, var_out = stacks
    easy = _blend(*source, mean_t, var_t, *noise, kappa, kappa_sd, mean_out, var_out)
    return (mean, var) if easy else None
