"""The rules of normalization, written from their formulas in plain PyTorch operations on float64, for autograd.

Where a formula has a kink that data reach exactly (a variance, a range or a sum of squares of 0) its gradient is the
one in the middle, zero.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from shrinkstats import Statistics
from shrinkstats.estimators import (
    BatchStatistics,
    Estimator,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)


@dataclass(frozen=True)
class Midpoint(Estimator):
    """A user's rule that looks at everything but the noise, without a pullback."""

    def statistics(self, moments, prior):
        return Statistics(0.5 * (moments.minimum + moments.maximum), moments.var() + 0.25 * moments.mean * moments.mean)


@dataclass(frozen=True)
class Noisy(Estimator):
    """A user's rule with a scale of its own, which looks at the noise."""

    def statistics(self, moments, prior):
        return Statistics(moments.mean / (1 + moments.noise), moments.var())

    def scale(self, spread, eps):
        return 1 + spread

    def scale_gradient(self, spread, scale):
        return 0 * spread + 1

    def tracked(self, spread, count):
        return spread


RULES = (
    BatchStatistics(), Stein(), Stein.published(), Stein(mean="channel", var="channel"), Stein(mean=None, var="gamma"),
    Stein(mean="sampling", var=None), JSNorm(), RobustNorm(), RobustNorm(power=1.0), MinMaxNorm(), Ridge(0.1),
    Lasso(0.1),
    PriorBlend(3.0), PriorBlend(0.0), PriorBlend(math.inf), SteinBlend(), SteinBlend(kappa=0.3), Midpoint(), Noisy(),
)  # fmt: skip


def safe(v):
    return torch.where(v == 0, 1.0, v)


def root(v):
    return torch.where(v == 0, 0.0, safe(v).sqrt())


def moments(x, axis=1):
    """Of a float64 tensor: vectors of channels, differentiable."""
    rows = x.movedim(axis, 0) if x.ndim > 1 else x[:, None]
    samples = rows.shape[1]
    flat = rows.flatten(1)
    n = flat.shape[1]
    mean = flat.mean(1)
    var = (flat - mean[:, None]).square().mean(1)
    if samples > 1:
        means = rows.flatten(2).mean(2) if rows.ndim > 2 else rows
        noise = (means - mean[:, None]).square().sum(1) / (samples * (samples - 1))
    else:
        noise = var / (n - 1) if n > 1 else var * math.nan
    return SimpleNamespace(
        count=n, samples=samples, mean=mean, var=var, noise=noise, low=flat.amin(1), high=flat.amax(1)
    )


def james_stein(mean, noise):
    if len(mean) < 3:
        return mean
    amount = (noise.sum() - 2 * noise.amax()).clamp(min=0)
    squares = mean.square().sum()
    return torch.where(squares == 0, 0.0, (1 - amount / safe(squares)).clamp(min=0)) * mean


def by_channels(v, correction):
    c = len(v)
    if c < 3:
        return v
    unit = v.detach().abs().amax()
    unit = torch.where((unit > 0) & unit.isfinite(), unit, 1.0)  # the factor has no units
    m = v / unit
    squares = m.square().sum()
    factor = 1 - (c - 2) / (c + correction) * (m - m.mean()).square().sum() / safe(squares)
    return torch.where(squares == 0, 0.0, factor) * v


def gamma(var, n):
    c = len(var)
    weight = 4 * (c - 1) * n / ((n + 1) * ((n - 1) * c + 2))
    geometric = safe(var).log().mean().exp()
    zero = (var == 0).any() & ~geometric.isnan()
    return n / (n + 1) * var + weight * torch.where(zero, 0.0, geometric)


def soft(x, threshold):
    return torch.where(x.abs() > threshold, x - threshold * x.sign(), 0 * x)


def stein_blend(rule, m, prior):
    mean, var, noise = prior
    votes = (var > 0) | var.isnan()
    v = torch.where(votes, var, 1.0)
    share = 1.0
    if noise is None:
        chance, w_sd = m.noise / v, None
    else:
        share = m.samples / (m.samples + 1)
        noise_mean, noise_sd, bias = noise
        clean = torch.where((1 + bias > 0) | bias.isnan(), root(m.var) / safe(1 + bias), var.sqrt())
        ratio = torch.where(votes, clean / v.sqrt(), 0.0)
        chance = noise_mean / v * ratio.square()
        expected = ratio.square().sum() / votes.sum() * torch.where(votes, noise_sd, 0.0).sum()
        w_sd = share * kept(rule.kappa * expected, torch.where(votes, ratio - 1, 0.0).square().sum())
    evidence = torch.where(votes, (m.mean - mean).square() / v, 0.0).sum()
    w = share * kept(rule.kappa * torch.where(votes, chance, 0.0).sum(), evidence)
    center = mean + w * (m.mean - mean)
    if noise is None:
        return center, (1 - w) * var + w * m.var
    return center, (var.sqrt() + w_sd * (clean - var.sqrt())).square()


def kept(chance, evidence):
    return torch.where(evidence == 0, 0.0, (1 - chance / safe(evidence)).clamp(min=0))


def statistics(rule, m, prior):
    """Center and spread of a rule; a prior is (mean, var, noise), the noise (mean, sd, bias) or None."""
    match rule:
        case BatchStatistics():
            return m.mean, m.var
        case Stein():
            mean = {"sampling": james_stein(m.mean, m.noise), "channel": by_channels(m.mean, 1), None: m.mean}
            var = {"gamma": gamma(m.var, m.count), "channel": by_channels(m.var, 1), None: m.var}
            return mean[rule.mean], var[rule.var]
        case JSNorm():
            return by_channels(m.mean, 0), by_channels(m.var, 0)
        case RobustNorm():
            return m.mean, m.high - m.low
        case MinMaxNorm():
            return m.low, m.high - m.low
        case Ridge():
            return m.mean * m.count / (m.count + rule.strength), m.var / (1 + rule.strength)
        case Lasso():
            return soft(m.mean, rule.strength / (2 * m.count)), soft(m.var, rule.strength / 2)
        case PriorBlend():
            w = 1.0 if math.isinf(rule.strength) else rule.strength / (rule.strength + m.samples)
            return w * prior[0] + (1 - w) * m.mean, w * prior[1] + (1 - w) * m.var
        case SteinBlend():
            return stein_blend(rule, m, prior)
        case Midpoint():
            return (m.low + m.high) / 2, m.var + 0.25 * m.mean.square()
        case Noisy():
            return m.mean / (1 + m.noise), m.var
    raise NotImplementedError(rule)


def scale(rule, spread, eps):
    match rule:
        case MinMaxNorm():
            return spread + eps
        case RobustNorm():
            return torch.where(spread == 0, 0.0, safe(spread) ** rule.power) + eps
        case Noisy():
            return 1 + spread
    return (spread + eps).sqrt()


def tracked(rule, spread, count):
    """What running_var follows."""
    return spread if isinstance(rule, MinMaxNorm | RobustNorm | Noisy) else spread * (count / (count - 1))


def needs_prior(rule):
    return isinstance(rule, PriorBlend | SteinBlend)


def normalize(x, weight, bias, rule, prior, eps, axis=1):
    """The output, center and spread, for float64 tensors."""
    m = moments(x, axis)
    center, spread = statistics(rule, m, prior)
    return affine(x, center, scale(rule, spread, eps), weight, bias, axis), center, spread


def affine(x, center, divisor, weight, bias, axis=1):
    along = [1] * x.ndim
    along[axis] = -1
    y = (x - center.reshape(along)) / divisor.reshape(along)
    y = y if weight is None else y * weight.reshape(along)
    return y if bias is None else y + bias.reshape(along)


def terms(g, y, divisor, weight, axis=1):
    """The size of what the gradient for x is the sum of; the sum may be much smaller."""
    along = [1] * g.ndim
    along[axis] = -1
    weight = torch.ones_like(divisor) if weight is None else weight.detach().double().abs()
    unit = within(y.abs(), axis) / weight.reshape(along)
    size = within(g.abs(), axis) * (weight / divisor).reshape(along).abs() * (1 + unit.square())
    return torch.where(weight.reshape(along) == 0, 0.0, size)


def judged(function, leaves, steps, rounds=3):
    """The results of a function of float64 tensors, and what they change by when these move by a step at most."""
    generator = torch.Generator().manual_seed(0)

    def moved(v, step):
        return v + step * (2 * torch.rand(v.shape, generator=generator, dtype=torch.float64) - 1)

    right = function(*leaves)
    change = [torch.zeros_like(v) for v in right]
    for _ in range(rounds):
        other = function(*(moved(v, s) for v, s in zip(leaves, steps, strict=True)))
        for k, (a, b) in enumerate(zip(right, other, strict=True)):
            difference = torch.where(a.isfinite() & ~b.isfinite(), math.inf, (a - b).abs())
            change[k] = torch.fmax(change[k], difference)
    return right, change


def within(v, axis=None):
    """The largest of every channel, or of a vector, in its place."""
    if axis is None or v.ndim < 2:
        return v
    others = [i for i in range(v.ndim) if i != axis]
    return v.nan_to_num(nan=0.0, posinf=math.inf).amax(others, keepdim=True).expand(v.shape)
