"""The formulas, written down one number at a time in plain Python: what the product is compared with."""

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

import numpy as np


def moments(x, axis=1, sample_axis=0):
    """Everything Moments holds, by two passes in float64, as a dictionary of arrays."""
    channels = np.moveaxis(np.asarray(x, dtype=np.float64), axis, 0)
    flat = channels.reshape(channels.shape[0], -1)
    mean = np.array([math.fsum(row) / row.size for row in flat])
    m2 = np.array([math.fsum((row - m) ** 2) for row, m in zip(flat, mean, strict=True)])
    count = flat.shape[1]
    if sample_axis is None:
        samples, noise = count, m2 / (count - 1) / count if count > 1 else m2 * math.nan
    else:
        slices = np.moveaxis(np.asarray(x, dtype=np.float64), (sample_axis, axis), (0, 1))
        samples = slices.shape[0]
        means = slices.reshape(samples, slices.shape[1], -1).mean(axis=2)
        if samples > 1:
            noise = ((means - means.mean(axis=0)) ** 2).sum(axis=0) / (samples * (samples - 1))
        else:
            noise = m2 / (count - 1) / count if count > 1 else m2 * math.nan
    return {
        "count": count, "samples": samples, "mean": mean, "m2": m2, "var": m2 / count,
        "minimum": flat.min(axis=1), "maximum": flat.max(axis=1), "noise": noise,
    }  # fmt: skip


def james_stein(mean, noise, target=0.0, positive_part=True):
    """Bock's factor, which is James and Stein's where the noise is common."""
    c = len(mean)
    noise, target = np.broadcast_to(noise, c), np.broadcast_to(target, c)
    squares = math.fsum((m - t) ** 2 for m, t in zip(mean, target, strict=True))
    if c < 3:
        return np.asarray(mean), 1.0
    factor = 0.0 if squares == 0 else 1 - max(0.0, math.fsum(noise) - 2 * max(noise)) / squares
    factor = max(0.0, factor) if positive_part else factor
    return np.array([t + factor * (m - t) for m, t in zip(mean, target, strict=True)]), factor


def grand_mean_james_stein(mean, noise, positive_part=True):
    """Lindley's factor, common noise."""
    c = len(mean)
    grand = math.fsum(mean) / c
    squares = math.fsum((m - grand) ** 2 for m in mean)
    factor = 1 - (c - 3) * noise / squares
    factor = max(0.0, factor) if positive_part else factor
    return np.array([grand + factor * (m - grand) for m in mean]), factor


def channel_james_stein(values):
    c = len(values)
    if c < 3:
        return np.asarray(values)
    average = math.fsum(values) / c
    spread = math.fsum((v - average) ** 2 for v in values) / c
    squares = math.fsum(v * v for v in values)
    factor = 1 - (c - 2) / (c + 1) * c * spread / squares if squares else 0.0
    return np.array([factor * v for v in values])


def js_norm(values):
    c = len(values)
    if c < 3:
        return np.asarray(values)
    average = math.fsum(values) / c
    spread = math.fsum((v - average) ** 2 for v in values) / c
    squares = math.fsum(v * v for v in values)
    factor = 1 - (c - 2) * spread / squares if squares else 0.0
    return np.array([factor * v for v in values])


def gamma_stein(var, n):
    c = len(var)
    geometric = 0.0 if min(var) == 0 else math.exp(math.fsum(math.log(v) for v in var) / c)
    m = 4 * (c - 1) * n / (n + 1) / ((n - 1) * c + 2)
    return np.array([n / (n + 1) * v + m * geometric for v in var])


def blend(source, target, n, strength):
    w = 1.0 if math.isinf(strength) else strength / (strength + n)
    mean, var = (w * np.asarray(s) + (1 - w) * np.asarray(t) for s, t in zip(source, target, strict=True))
    return mean, var


def stein(mean, m2, noise, count, mean_rule, var_rule):
    """Center and variance of the estimator `Stein`, of finite numbers: in 60 digits, without an end of the range."""
    with localcontext(Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        m, v = [Decimal(float(x)) for x in mean], [Decimal(float(x)) for x in noise]
        var, c, n = [Decimal(float(x)) / count for x in m2], len(mean), Decimal(count)

        def by_channels(x):
            squares, average = sum(a * a for a in x), sum(x) / c
            spread = sum((a - average) ** 2 for a in x)
            return 1 - (c - 2) * spread / (c + 1) / squares if squares else 0

        factor, slope, shift = 1, 1, 0
        if mean_rule == "sampling" and c > 2:
            squares, amount = sum(a * a for a in m), sum(v) - 2 * max(v)
            factor = max(0, 1 - max(0, amount) / squares) if squares else 0
        elif mean_rule == "channel" and c > 2:
            factor = by_channels(m)
        if var_rule == "gamma":
            geometric = 0 if 0 in var else (sum(x.ln() for x in var) / c).exp()
            slope, shift = n / (n + 1), 4 * (c - 1) * n / ((n + 1) * ((n - 1) * c + 2)) * geometric
        elif var_rule == "channel" and c > 2:
            slope = by_channels(var)
        return np.array([float(factor * a) for a in m]), np.array([float(slope * x + shift) for x in var])


def stein_blend(source, target, noise, sd=None, sd_bias=None, kappa=1.0, n=math.inf):
    """One weight from the means; with sd and sd_bias a second one for the standard deviations, freed of bias."""
    (m_s, v_s), (m_t, v_t) = source, target
    c = len(m_s)
    noise = np.broadcast_to(noise, c)
    ratio = [1.0] * c if sd is None else [math.sqrt(v_t[i] / v_s[i]) / (1 + sd_bias[i]) for i in range(c)]
    evidence = math.fsum((m_t[i] - m_s[i]) ** 2 / v_s[i] for i in range(c))
    chance = math.fsum(noise[i] / v_s[i] * ratio[i] ** 2 for i in range(c))
    most = 1 / (1 + 1 / n)
    w = most * max(0.0, 1 - kappa * chance / evidence) if evidence else 0.0
    mean = np.array([m_s[i] + w * (m_t[i] - m_s[i]) for i in range(c)])
    if sd is None:
        return mean, np.array([(1 - w) * v_s[i] + w * v_t[i] for i in range(c)])
    evidence = math.fsum((r - 1) ** 2 for r in ratio)
    chance = math.fsum(sd) * math.fsum(r**2 for r in ratio) / c
    w = most * max(0.0, 1 - kappa * chance / evidence) if evidence else 0.0
    return mean, np.array([v_s[i] * (1 + w * (ratio[i] - 1)) ** 2 for i in range(c)])


def wasserstein_bounds(source, target, n, strength, q):
    """Prop. 1 of Schneider et al. (2020) for one channel."""
    (m_s, v_s), (m_t, v_t) = source, target
    total = strength + n
    blended = strength / total * v_s + (n - 1) / total * v_t
    lower = (math.sqrt(v_t) - math.sqrt(blended)) ** 2
    lower += strength**2 / total**2 * (m_t - m_s) ** 2 + n / total**2 * v_t
    smallest = strength / total * v_s + q / total * v_t
    return lower, lower + v_t**2.5 * (n - 1) / (2 * total**2) * smallest**-1.5
