"""Every estimator through normalize equals its naive formula; the contract of the estimators themselves."""

import dataclasses
import math

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import shrinkstats
from shrinkstats import Moments, Prior, SamplingNoise, Statistics, estimators
from shrinkstats.estimators import BatchStatistics, Lasso, PriorBlend, Ridge, RobustNorm, Stein, SteinBlend

pytestmark = pytest.mark.core

EPS = 1e-5


def soft(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


def with_calibrated_noise(c):
    return SamplingNoise(np.linspace(0.01, 0.05, c), np.linspace(0.001, 0.02, c), np.linspace(-0.01, 0.01, c))


# Each rule with its formula: from the naive moments m and the prior p to the center, and the variance or the scale.
RULES = {
    BatchStatistics(): lambda m, p: (m["mean"], m["var"]),
    Stein(): lambda m, p: (naive.james_stein(m["mean"], m["noise"])[0], naive.gamma_stein(m["var"], m["count"])),
    Stein.published(): lambda m, p: (
        naive.channel_james_stein(m["mean"]),
        naive.gamma_stein(m["var"], m["count"]),
    ),
    Stein(mean="channel", var="channel"): lambda m, p: (
        naive.channel_james_stein(m["mean"]),
        naive.channel_james_stein(m["var"]),
    ),
    Stein(mean=None, var="gamma"): lambda m, p: (m["mean"], naive.gamma_stein(m["var"], m["count"])),
    Stein(mean="sampling", var=None): lambda m, p: (naive.james_stein(m["mean"], m["noise"])[0], m["var"]),
    Ridge(0.5): lambda m, p: (m["mean"] * m["count"] / (m["count"] + 0.5), m["var"] / 1.5),
    Lasso(0.5): lambda m, p: (soft(m["mean"], 0.25 / m["count"]), soft(m["var"], 0.25)),
    PriorBlend(16): lambda m, p: naive.blend(p[:2], (m["mean"], m["var"]), m["samples"], 16),
    PriorBlend(0): lambda m, p: (m["mean"], m["var"]),
    PriorBlend(math.inf): lambda m, p: p[:2],
    SteinBlend(): lambda m, p: naive.stein_blend(p[:2], (m["mean"], m["var"]), m["noise"]),
    SteinBlend(kappa=0.5): lambda m, p: naive.stein_blend(p[:2], (m["mean"], m["var"]), m["noise"], kappa=0.5),
}


def data(samples, channels, length, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(size=(channels, 1)), rng.uniform(0.5, 2, (channels, 1)), (samples, channels, length))
    return x, Statistics(rng.normal(size=channels), rng.uniform(0.5, 2.0, size=channels))


def check(rule, formula, x, prior, scale_of=lambda var: np.sqrt(var + EPS)):
    expected_center, var = formula(naive.moments(x), prior)
    weight, bias = np.linspace(-1, 2, x.shape[1]), np.linspace(3, -2, x.shape[1])
    center, scale = rule(shrinkstats.moments(x), prior=prior)
    np.testing.assert_allclose(center, expected_center, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scale, scale_of(var), rtol=1e-9)
    y = shrinkstats.normalize(x, rule, weight=weight, bias=bias, prior=prior)
    expected = (x - expected_center[:, None]) / scale_of(var)[:, None] * weight[:, None] + bias[:, None]
    np.testing.assert_allclose(y, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(shape=st.tuples(st.integers(2, 6), st.integers(1, 6), st.integers(1, 5)), seed=st.integers(0, 99))
@example(shape=(2, 1, 1), seed=0)
@example(shape=(2, 2, 3), seed=0)
@example(shape=(2, 3, 1), seed=0)
@example(shape=(4, 5, 6), seed=0)
def test_naive(rule, shape, seed):
    x, prior = data(*shape, seed)
    check(rule, RULES[rule], x, prior)


@pytest.mark.parametrize("power", [0.2, 0.5, 1.0])
def test_robust_norm_naive(power):
    x, _ = data(4, 5, 6, 0)
    check(
        RobustNorm(power), lambda m, p: (m["mean"], m["maximum"] - m["minimum"]), x, None,
        scale_of=lambda spread: spread**power + EPS,
    )  # fmt: skip


def test_stein_blend_with_a_calibrated_prior():
    x, prior = data(4, 5, 6, 0)
    noise = with_calibrated_noise(5)
    check(
        SteinBlend(), lambda m, p: naive.stein_blend(p[:2], (m["mean"], m["var"]), *noise), x, Prior(*prior, noise)
    )  # fmt: skip


def test_one_sample_falls_back_on_its_elements():
    x, prior = data(1, 5, 6, 0)
    check(Stein(), RULES[Stein()], x, prior)
    check(SteinBlend(), RULES[SteinBlend()], x, prior)
    check(PriorBlend(16), RULES[PriorBlend(16)], x, prior)


def test_a_vector_alone_is_a_batch_of_its_own():
    x = np.array([1.0, 2.0, 4.0, 7.0])
    np.testing.assert_array_equal(shrinkstats.normalize(x, BatchStatistics(), axis=0), 0)


@pytest.mark.parametrize("rule", [*RULES, RobustNorm()], ids=str)
def test_rules_are_frozen_and_compare_by_value(rule):
    assert rule == dataclasses.replace(rule)
    assert hash(rule) == hash(dataclasses.replace(rule))
    assert eval(repr(rule), vars(estimators) | {"inf": math.inf}) == rule
    for field in dataclasses.fields(rule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(rule, field.name, 1.0)


@pytest.mark.parametrize("rule", [*RULES, RobustNorm()], ids=str)
def test_nan_stays_where_nothing_pools(rule):
    x, prior = data(4, 5, 6, 0)
    x[1, 2, 3] = np.nan
    y = shrinkstats.normalize(x, rule, prior=prior)
    if rule in (PriorBlend(math.inf),):  # the batch's statistics have weight zero, and 0 NaN is NaN
        assert np.isnan(y[:, 2]).any()
        return
    assert np.isnan(y[:, 2]).all()
    pooled = isinstance(rule, Stein | SteinBlend)
    assert np.isnan(y[:, [0, 1, 3, 4]]).all() if pooled else np.isfinite(y[:, [0, 1, 3, 4]]).all()


def test_a_rule_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Median(estimators.Estimator):
        def statistics(self, moments, prior):
            return Statistics((moments.minimum + moments.maximum) / 2, moments.var())

    x, _ = data(4, 5, 6, 0)
    center, _ = Median()(shrinkstats.moments(x))
    np.testing.assert_allclose(center, (x.min(axis=(0, 2)) + x.max(axis=(0, 2))) / 2)
    with pytest.raises(NotImplementedError, match="statistics"):
        estimators.Estimator()(shrinkstats.moments(x))


@pytest.mark.parametrize("rule", [PriorBlend(16), SteinBlend()], ids=str)
def test_a_blend_needs_a_prior(rule):
    with pytest.raises(ValueError, match="prior"):
        rule(shrinkstats.moments(data(4, 5, 6, 0)[0]))


@pytest.mark.parametrize("make", [
    lambda: Stein(mean="mean"), lambda: Stein(var="sampling"), lambda: RobustNorm(0), lambda: RobustNorm(-1),
    lambda: Ridge(-1), lambda: Lasso(math.nan), lambda: PriorBlend(-1), lambda: SteinBlend(-1), lambda: Ridge(math.inf),
])  # fmt: skip
def test_bad_settings(make):
    with pytest.raises(ValueError, match=r"mean|var|power|strength|kappa"):
        make()


def test_bad_moments():
    with pytest.raises(TypeError, match="Moments"):
        BatchStatistics()(np.zeros(3))
    with pytest.raises(ValueError, match="empty"):
        BatchStatistics()(Moments.empty(3))
