"""Arithmetic on vectors of channels for the PyTorch layers, compiled.

A layer's step has some forty such operations. One by one in NumPy they would take longer than the passes over a small
batch. The formulas are those of `shrinkstats.mean`, `shrinkstats.variance` and `shrinkstats.estimators`, which the
tests compare them with.
"""

from __future__ import annotations

import math

import numpy as np

from shrinkstats.kernels.cpu import jit


@jit
def _by_channels(m):
    """Share of the spread between channels in the sum of squares, times (c - 2)/(c + 1); and that sum."""
    c = m.size
    center = m.mean()
    spread, squares = 0.0, 0.0
    for i in range(c):
        spread += (m[i] - center) * (m[i] - center)
        squares += m[i] * m[i]
    return (c - 2) / (c + 1) * spread / squares if squares != 0 else 1.0, squares


@jit
def _bock(m, v):
    """The amount sum v - 2 max v over the sum of squares; that sum; the largest v and how often it occurs."""
    squares, total, largest, ties = 0.0, 0.0, v[0], 0
    for i in range(m.size):
        squares += m[i] * m[i]
        total += v[i]
        if v[i] > largest:
            largest, ties = v[i], 0
        ties += v[i] == largest
    amount = total - 2 * largest
    return (amount / squares if squares != 0 else 1.0), squares, largest, max(ties, 1)


@jit
def _geometric(var):
    logs = 0.0
    for i in range(var.size):
        logs += math.log(var[i]) if var[i] != 0 else -math.inf
    return math.exp(logs / var.size)


@jit
def _cut(ratio):
    """1 - ratio, cut off at 0 and 1; NaN stays NaN."""
    return 1.0 if ratio < 0 else 0.0 if ratio > 1 else 1 - ratio


@jit
def stein(mean, m2, noise, count, mean_rule, var_rule):
    """Center and variance of `Stein`; rules are 0 (none), 1 (sampling), 2 (channel), 3 (gamma)."""
    c = mean.size
    center, var = mean.copy(), m2 / count
    if mean_rule == 1 and c > 2:
        center *= _cut(_bock(mean, noise)[0])
    elif mean_rule == 2 and c > 2:
        center *= 1 - _by_channels(mean)[0]
    if var_rule == 3:
        weight = count / (count + 1)
        var = weight * var + 4 * (c - 1) * weight / ((count - 1) * c + 2) * _geometric(var)
    elif var_rule == 2 and c > 2:
        var *= 1 - _by_channels(var)[0]
    return center, var


@jit
def _pull_channels(m, g):
    ratio, squares = _by_channels(m)
    c = m.size
    if c < 3 or squares == 0:
        return g * (1.0 if c < 3 else 0.0)
    push = 2 * (g * m).sum() / squares
    return (1 - ratio) * g + push * (ratio * m - (c - 2) / (c + 1) * (m - m.mean()))


@jit
def stein_pullback(mean, m2, noise, count, mean_rule, var_rule, g_center, g_var):
    """From the gradients of center and variance to those of mean, squared deviations and noise."""
    c = mean.size
    g_mean, g_noise, var = g_center.copy(), np.zeros(c), m2 / count
    if mean_rule == 1 and c > 2:
        ratio, squares, largest, ties = _bock(mean, noise)
        if squares == 0:
            g_mean *= 0.0
        elif not ratio <= 0:
            if ratio >= 1:
                g_mean *= 0.0
            else:
                push = (g_center * mean).sum() / squares
                for i in range(c):
                    g_mean[i] = (1 - ratio) * g_center[i] + 2 * push * ratio * mean[i]
                    g_noise[i] = -push * (1 - 2 / ties if noise[i] == largest else 1.0)
    elif mean_rule == 2:
        g_mean = _pull_channels(mean, g_center)
    if var_rule == 3:
        weight = count / (count + 1)
        geometric = _geometric(var)
        pooled = 4 * (c - 1) * weight / ((count - 1) * c + 2) / c * geometric * g_var.sum()
        g_var = weight * g_var + pooled / var if geometric > 0 else weight * g_var
    elif var_rule == 2:
        g_var = _pull_channels(var, g_var)
    return g_mean, g_var / count, g_noise


@jit
def affine_vectors(center, scale, weight, bias, pivot):
    """Slope and shift of ``weight (x - center) / scale + bias`` around a pivot; empty vectors stand for 1 and 0."""
    slope, shift = np.empty(center.size), np.empty(center.size)
    for c in range(center.size):
        pivot[c] = center[c]
        slope[c] = (weight[c] if weight.size else 1.0) / scale[c]
        shift[c] = (pivot[c] - center[c]) * slope[c] + (bias[c] if bias.size else 0.0)
    return slope, shift


@jit
def scale_gradients(total, product, mean, center, scale, slope):
    """From the sums of g and of g (x - mean): the gradients of center, scale and weight."""
    d_center, d_scale, d_weight = np.empty(total.size), np.empty(total.size), np.empty(total.size)
    for c in range(total.size):
        d_weight[c] = (product[c] + (mean[c] - center[c]) * total[c]) / scale[c]
        d_center[c] = -slope[c] * total[c]
        d_scale[c] = -slope[c] * d_weight[c]
    return d_center, d_scale, d_weight


@jit
def combine_vectors(g_mean, g_m2, g_sample_m2, means, mean, count, size):
    """What `combine` adds to ``a g``: b for x - mean, and d for every sample; empty gradients stand for zeros.

    `means` are those of the samples, of `size` observations each.
    """
    channels = mean.size
    each = g_sample_m2.size > 0 and size > 1
    b, d = np.zeros(channels), np.zeros((means.shape[0] if each else 1, channels))
    for c in range(channels):
        b[c] = 2 * g_m2[c] if g_m2.size else 0.0
        if g_sample_m2.size and not each:  # samples of one observation
            b[c] += 2 * g_sample_m2[c]
    for s in range(d.shape[0]):
        for c in range(channels):
            d[s, c] = g_mean[c] / count if g_mean.size else 0.0
            if each:
                d[s, c] += 2 * size * g_sample_m2[c] * (means[s, c] - mean[c])
    return b, d


@jit
def follow(buffer, value, momentum):
    """A running buffer follows a value."""
    for c in range(buffer.size):
        buffer[c] += momentum * (value[c] - buffer[c])
