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
from shrinkstats.estimators import (
    BatchStatistics,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)

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
    JSNorm(): lambda m, p: (naive.js_norm(m["mean"]), naive.js_norm(m["var"])),
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


@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 1, 1), (2, 2, 3)])
def test_min_max_norm_naive(shape):
    x, _ = data(*shape, 0)
    check(
        MinMaxNorm(), lambda m, p: (m["minimum"], m["maximum"] - m["minimum"]), x, None,
        scale_of=lambda spread: spread + EPS,
    )  # fmt: skip
    y = shrinkstats.normalize(x, MinMaxNorm(), eps=0.0)
    np.testing.assert_allclose(y.min(axis=(0, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose(y.max(axis=(0, 2)), 1.0, rtol=1e-12)


number = st.floats(-100, 100).map(lambda v: v if abs(v) > 1e-100 else 0.0)  # whose squares the naive formula can take
vectors = st.lists(number, min_size=3, max_size=12).map(np.array)


def batch_of(n, mean, m2, sample_m2):
    """Moments of n observations of which nobody asks for the extremes."""
    return Moments.of_equal_samples(
        count=n, samples=n, mean=mean, m2=m2, minimum=mean, maximum=mean, sample_m2=sample_m2
    )


@given(vectors, st.integers(-400, 400))
@example(np.zeros(4), 0)
@example(np.array([1.0, -1.0, 0.0]), 0)  # the factor's least value, 2/c
@example(np.full(5, 3.0), 0)
def test_js_norm_factors_lie_between_2_over_c_and_1(mean, exponent):
    """For every scale of the data: nothing over- or underflows."""
    c, zero = len(mean), np.zeros_like(mean)
    mean = np.ldexp(mean, exponent)
    center, var = JSNorm().statistics(batch_of(2, mean, 2 * np.abs(mean), zero), None)
    for estimate, sample in ((center, mean), (var, np.abs(mean))):
        assert (np.abs(estimate) <= np.abs(sample)).all()
        assert (np.abs(estimate) >= 2 / c * (1 - 1e-12) * np.abs(sample)).all()
        np.testing.assert_allclose(estimate, np.ldexp(naive.js_norm(np.ldexp(sample, -exponent)), exponent), rtol=1e-9)


def test_js_norm_is_its_published_neighbour_without_the_correction():
    """1 - factor is c/(c+1) times as large in the reference code of the later paper."""
    m = shrinkstats.moments(data(4, 5, 6, 0)[0])
    ours, theirs = JSNorm().statistics(m, None), Stein(mean="channel", var="channel").statistics(m, None)
    for a, b, sample in ((ours.mean, theirs.mean, m.mean), (ours.var, theirs.var, m.var())):
        np.testing.assert_allclose((sample - b) / (sample - a), 5 / 6, rtol=1e-12)


def test_js_norm_does_not_vanish_with_the_sample():
    """Its noise is the spread of the true means: more data leave the factor where it is."""
    mean = np.array([0.5, -1.0, 2.0, 0.0, 1.5])
    zero = np.zeros(5)
    centers = [JSNorm().statistics(batch_of(n, mean, n * np.ones(5), zero), None).mean for n in (4, 4_000_000)]
    np.testing.assert_array_equal(*centers)
    assert abs(centers[0][2]) < 1.5


def test_stein_blend_with_a_calibrated_prior():
    x, prior = data(4, 5, 6, 0)
    noise = with_calibrated_noise(5)
    check(
        SteinBlend(),
        lambda m, p: naive.stein_blend(p[:2], (m["mean"], m["var"]), *noise, n=m["samples"]),
        x,
        Prior(*prior, noise),
    )


def test_one_sample_falls_back_on_its_elements():
    x, prior = data(1, 5, 6, 0)
    check(Stein(), RULES[Stein()], x, prior)
    check(SteinBlend(), RULES[SteinBlend()], x, prior)
    check(PriorBlend(16), RULES[PriorBlend(16)], x, prior)


def test_a_vector_alone_is_a_batch_of_its_own():
    x = np.array([1.0, 2.0, 4.0, 7.0])
    np.testing.assert_array_equal(shrinkstats.normalize(x, BatchStatistics(), axis=0), 0)


@pytest.mark.parametrize("rule", [*RULES, RobustNorm(), MinMaxNorm()], ids=str)
def test_rules_are_frozen_and_compare_by_value(rule):
    assert rule == dataclasses.replace(rule)
    assert hash(rule) == hash(dataclasses.replace(rule))
    assert eval(repr(rule), vars(estimators) | {"inf": math.inf}) == rule
    for field in dataclasses.fields(rule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(rule, field.name, 1.0)


@pytest.mark.parametrize("rule", [*RULES, RobustNorm(), MinMaxNorm()], ids=str)
def test_nan_stays_where_nothing_pools(rule):
    x, prior = data(4, 5, 6, 0)
    x[1, 2, 3] = np.nan
    y = shrinkstats.normalize(x, rule, prior=prior)
    if rule in (PriorBlend(math.inf),):  # the batch's statistics have weight zero, and 0 NaN is NaN
        assert np.isnan(y[:, 2]).any()
        return
    assert np.isnan(y[:, 2]).all()
    pooled = isinstance(rule, Stein | SteinBlend | JSNorm)
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
