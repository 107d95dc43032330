"""Arithmetic on vectors of channels for the PyTorch layers, compiled.

A layer's step has some forty such operations. One by one in NumPy they would take longer than the passes over a small
batch. The formulas are those of `shrinkstats.mean`, `shrinkstats.variance` and `shrinkstats.estimators`, which the
tests compare them with.
"""

from __future__ import annotations

import math

import numpy as np

from shrinkstats.kernels.compiled import inner, jit

LARGEST = float(np.finfo(np.float64).max)
REACH = 1000  # a power of two that is in range, as its inverse is


@inner
def _sized(v):
    """v in a unit in which squares are in range, a power of two, and that power; infinity counts as the largest number.

    NaN stays NaN.
    """
    found, largest = np.empty(v.size), 0.0
    for i in range(v.size):
        found[i] = math.copysign(LARGEST, v[i]) if math.isinf(v[i]) else v[i]
        if abs(found[i]) > largest:
            largest = abs(found[i])
    power = min(max(math.frexp(largest)[1], -REACH), REACH)
    unit = math.ldexp(1.0, -power)
    for i in range(v.size):
        found[i] *= unit
    return found, power


@inner
def _by_channels(m):
    """Share of the spread between channels in the sum of squares, times (c - 2)/(c + 1); that sum; and the mean."""
    c, center, spread, squares = m.size, 0.0, 0.0, 0.0
    for i in range(c):
        center += m[i]
    center /= c
    for i in range(c):
        spread += (m[i] - center) * (m[i] - center)
        squares += m[i] * m[i]
    return (c - 2) / (c + 1) * spread / squares if squares != 0 else 1.0, squares, center


@inner
def _bock(m, m_power, v, v_power):
    """The amount sum v - 2 max v over the sum of squares; that sum; the largest v and how often it occurs.

    Of what `_sized` gives; all but the ratio are in its units.
    """
    squares, total, largest, ties = 0.0, 0.0, v[0], 0
    for i in range(m.size):
        squares += m[i] * m[i]
        total += v[i]
        if v[i] > largest:
            largest, ties = v[i], 0
        ties += v[i] == largest
    amount = total - 2 * largest
    ratio = math.ldexp(amount / squares, v_power - 2 * m_power) if squares != 0 else 1.0
    return ratio, squares, largest, max(ties, 1)


@inner
def _geometric(var):
    logs, zero = 0.0, False
    for i in range(var.size):
        if var[i] == 0:
            zero = True
        else:
            logs += math.log(var[i])
    return 0.0 if zero and not math.isnan(logs) else math.exp(logs / var.size)


@inner
def _cut(ratio):
    """1 - ratio, cut off at 0 and 1; NaN stays NaN."""
    return 1.0 if ratio < 0 else 0.0 if ratio > 1 else 1 - ratio


@inner
def check_channels(channels, sizes):
    """Check that vectors have one entry per channel."""
    for size in sizes:
        if size != channels:
            raise ValueError("vectors of different numbers of channels")


@inner
def _check_optional(channels, sizes):
    """Check that vectors have one entry per channel, or none at all."""
    for size in sizes:
        if size and size != channels:
            raise ValueError("vectors of different numbers of channels")


@inner
def _check_lines(lines, rows, channels):
    """Check that there are so many lines, each of whole vectors of channels."""
    whole = lines.shape[1] % channels == 0 and lines.shape[1] > 0 if channels else lines.shape[1] == 0
    if lines.shape[0] < rows or not whole:
        raise ValueError("the lines do not hold vectors of so many channels")


@jit
def stein(mean, m2, noise, count, mean_rule, var_rule):
    """Center and variance of `Stein`; rules are 0 (none), 1 (sampling), 2 (channel), 3 (gamma)."""
    c = mean.size
    check_channels(c, (m2.size, noise.size))
    center, var = np.empty(c), np.empty(c)
    for i in range(c):
        var[i] = m2[i] / count
    factor, slope, shift = 1.0, 1.0, 0.0
    if mean_rule == 1 and c > 2:
        factor = _cut(_bock(*_sized(mean), *_sized(noise))[0])
    elif mean_rule == 2 and c > 2:
        factor = 1 - _by_channels(_sized(mean)[0])[0]
    if var_rule == 3:
        slope = count / (count + 1)
        if c > 1:  # a channel alone has no share in a mean, which may be infinite
            shift = 4 * (c - 1) * slope / ((count - 1) * c + 2) * _geometric(var)
    elif var_rule == 2 and c > 2:
        slope = 1 - _by_channels(_sized(var)[0])[0]
    for i in range(c):
        center[i] = factor * mean[i]
        var[i] = slope * var[i] + shift
    return center, var


@inner
def _dot(g, m):
    total = 0.0
    for i in range(g.size):
        total += g[i] * m[i]
    return total


@inner
def _pull_channels(m, g, out):
    c = m.size
    if c < 3:  # nothing was shrunk; a NaN stays in its channel
        out[:] = g
        return
    m = _sized(m)[0]
    ratio, squares, center = _by_channels(m)
    keep, along, across = 0.0, 0.0, 0.0
    if squares != 0:
        push = 2 * _dot(g, m) / squares
        keep, along, across = 1 - ratio, push * ratio, -push * (c - 2) / (c + 1)
    for i in range(c):
        out[i] = keep * g[i] + along * m[i] + across * (m[i] - center)


@jit
def stein_pullback(mean, m2, noise, count, mean_rule, var_rule, g_center, g_var):
    """Turn the gradients of center and variance into those of mean, squared deviations and noise."""
    c = mean.size
    check_channels(c, (m2.size, noise.size, g_center.size, g_var.size))
    g_mean, g_m2, g_noise, var = np.empty(c), np.empty(c), np.empty(c), np.empty(c)
    for i in range(c):
        g_mean[i], g_m2[i], g_noise[i], var[i] = g_center[i], g_var[i], 0.0, m2[i] / count
    if mean_rule == 1 and c > 2:
        m, power = _sized(mean)
        v, v_power = _sized(noise)
        ratio, squares, largest, ties = _bock(m, power, v, v_power)
        pulls = squares != 0 and 0 < ratio < 1  # the factor depends on the data
        push = _dot(g_center, m) / squares if pulls else 0.0
        for i in range(c):
            g_mean[i] = (0.0 if squares == 0 else _cut(ratio)) * g_center[i]
            if pulls:
                g_mean[i] += 2 * push * ratio * m[i]
                g_noise[i] = -math.ldexp(push, -power) * (1 - 2 / ties if v[i] == largest else 1.0)
    elif mean_rule == 2:
        _pull_channels(mean, g_center, g_mean)
    if var_rule == 3:
        weight, total = count / (count + 1), 0.0
        geometric = _geometric(var)
        for i in range(c):
            total += g_var[i]
        pooled = 4 * (c - 1) * weight / ((count - 1) * c + 2) / c * geometric * total
        for i in range(c):
            g_m2[i] = weight * g_var[i] + (pooled / var[i] if 0 < geometric < math.inf else 0.0)
    elif var_rule == 2:
        _pull_channels(var, g_var, g_m2)
    for i in range(c):
        g_m2[i] /= count
    return g_mean, g_m2, g_noise


@inner
def _spread(vector, lines):
    """A vector of channels, again and again, in the type of the data."""
    for start in range(0, lines.size, max(vector.size, 1)):
        for c in range(vector.size):
            lines[start + c] = vector[c]


@jit
def affine_lines(center, scale, weight, bias, lines):
    """Slope of ``weight (x - center) / scale + bias``; pivot, slope and shift around it go to the rows of `lines`.

    Empty vectors stand for 1 and 0.
    """
    channels = center.size
    check_channels(channels, (scale.size,))
    _check_optional(channels, (weight.size, bias.size))
    _check_lines(lines, 3, channels)
    slope, shift = np.empty(channels), np.empty(channels)
    for c in range(channels):  # times 0, a difference beyond the range is NaN
        shift[c] = 0.0 if math.isinf(scale[c]) else center[c]
    _spread(shift, lines[0])
    for c in range(channels):
        slope[c] = (weight[c] if weight.size else 1.0) / scale[c]
        shift[c] = (lines[0, c] - center[c]) * slope[c] + (bias[c] if bias.size else 0.0)
    _spread(slope, lines[1])
    _spread(shift, lines[2])
    return slope


@jit
def pivot_lines(mean, lines):
    """A pivot near the data, in their type."""
    _check_lines(lines, 1, mean.size)
    _spread(mean, lines[0])


@jit
def scale_gradients(sums, pivot, mean, center, scale, slope, weight):
    """Turn the sums of g and of g (x - pivot) over groups into the gradients of center, scale, weight and bias.

    The last two are of the type of the weight.
    """
    channels = mean.size
    check_channels(channels, (sums.shape[2], center.size, scale.size, slope.size))
    if sums.shape[0] < 2 or pivot.size < channels:  # the pivot may be repeated
        raise ValueError("two kinds of sums are needed, and a pivot for every channel")
    d_center, d_scale = np.empty(channels), np.empty(channels)
    d_weight, d_bias = np.empty(channels, weight.dtype), np.empty(channels, weight.dtype)
    for c in range(channels):
        d_center[c], d_scale[c] = 0.0, 0.0
    for s in range(sums.shape[1]):
        for c in range(channels):
            d_center[c] += sums[0, s, c]
            d_scale[c] += sums[1, s, c]
    for c in range(channels):
        total, product = d_center[c], d_scale[c] - (mean[c] - pivot[c]) * d_center[c]
        slant = (product + (mean[c] - center[c]) * total) / scale[c]
        d_center[c], d_scale[c] = -slope[c] * total, -slope[c] * slant
        d_weight[c], d_bias[c] = slant, total
    return d_center, d_scale, d_weight, d_bias


@jit
def combine_lines(g_mean, g_m2, g_sample_m2, means, mean, count, size, slope, lines, d):
    """The vectors of `combine`: pivot, slope and b go to the rows of `lines`, and what every sample adds to d.

    `means` are those of the samples, of `size` observations each; empty gradients stand for zeros.
    """
    channels = mean.size
    check_channels(channels, (slope.size, d.shape[1]))
    _check_optional(channels, (g_mean.size, g_m2.size, g_sample_m2.size))
    _check_lines(lines, 3, channels)
    each = g_sample_m2.size > 0 and size > 1
    if each and (means.shape[0] < d.shape[0] or means.shape[1] != channels):
        raise ValueError("every sample whose d is wanted needs its means")
    b, push = np.empty(channels), np.empty(channels)
    _spread(mean, lines[0])
    _spread(slope, lines[1])
    for c in range(channels):
        b[c] = 2 * g_m2[c] if g_m2.size else 0.0
        if g_sample_m2.size and not each:  # samples of one observation
            b[c] += 2 * g_sample_m2[c]
        push[c] = (g_mean[c] / count if g_mean.size else 0.0) - b[c] * (mean[c] - lines[0, c])
    _spread(b, lines[2])
    for s in range(d.shape[0]):
        for c in range(channels):
            d[s, c] = push[c] + (2 * size * g_sample_m2[c] * (means[s, c] - mean[c]) if each else 0.0)


@inner
def _between(old, new, share):
    """What follows a value that may be infinite."""
    step = new - old
    if math.isfinite(step):
        return old + share * step
    kept = 0.0 if math.isinf(old) and share == 1 else (1 - share) * old  # nothing of an infinity without weight
    return kept + (0.0 if math.isinf(new) and share == 0 else share * new)


@jit
def follow(means, variances, mean, variance, momentum):
    """Running buffers follow the statistics of a batch."""
    check_channels(means.size, (variances.size, mean.size, variance.size))
    for c in range(means.size):
        means[c] = _between(means[c], mean[c], momentum)
        variances[c] = _between(variances[c], variance[c], momentum)
