"""Blends with training statistics."""

import math

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import shrinkstats
from shrinkstats import Moments, SamplingNoise, Statistics
from shrinkstats.prior import shrunken_blend

pytestmark = pytest.mark.core


def pair(channels=5, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: Statistics(rng.normal(size=channels), rng.uniform(0.5, 3.0, size=channels))  # noqa: E731
    return draw(), draw()


def close(actual, expected, tolerance=1e-12):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@given(st.integers(0, 99), st.integers(1, 1000), st.floats(0, 1e6))
@example(0, 8, 16.0)
@example(0, 1, 0.0)
@example(0, 1, math.inf)
@example(0, 8, 1e308)
def test_blend_naive(seed, n, strength):
    source, target = pair(seed=seed)
    close(shrinkstats.blend(source, target, n=n, strength=strength), naive.blend(source, target, n, strength))


def test_strength_zero_gives_the_batch_and_infinity_the_prior():
    source, target = pair()
    close(shrinkstats.blend(source, target, n=3, strength=0), target, 0)
    close(shrinkstats.blend(source, target, n=3, strength=math.inf), source, 0)
    mixed = shrinkstats.blend(source, target, n=3, strength=[0, math.inf, 3, 0, math.inf])
    assert mixed.mean[0] == target.mean[0]
    assert mixed.mean[1] == source.mean[1]
    assert mixed.var[2] == (source.var[2] + target.var[2]) / 2


@given(st.integers(0, 99), st.floats(0, 2), st.floats(0, 3))
@example(0, 0.0, 1.0)
@example(0, 0.05, 0.0)
@example(0, 0.05, 1.0)
@example(0, 1e6, 1.0)
def test_stein_blend_naive(seed, noise, kappa):
    source, target = pair(seed=seed)
    ours = shrinkstats.stein_blend(source, target, noise=noise, kappa=kappa)
    close(ours, naive.stein_blend(source, target, noise, kappa=kappa))


@given(st.integers(0, 99), st.floats(0, 0.5), st.floats(0, 0.5), st.sampled_from([1, 3.5, 64, math.inf]))
@example(0, 0.05, 0.01, math.inf)
@example(0, 0.0, 0.0, 1)
@example(0, 0.05, 100.0, 2)
@example(0, 100.0, 0.01, 2)
def test_stein_blend_with_calibrated_noise_naive(seed, noise, sd_noise, n):
    source, target = pair(seed=seed)
    rng = np.random.default_rng(seed)
    calibrated = SamplingNoise(noise * rng.uniform(size=5), sd_noise * rng.uniform(size=5), 0.01 * rng.normal(size=5))
    ours = shrinkstats.stein_blend(source, target, noise=calibrated)
    close(ours, naive.stein_blend(source, target, *calibrated))
    close(shrunken_blend(source, target, calibrated, 1.0, n), naive.stein_blend(source, target, *calibrated, n=n))


def test_stein_blend_is_a_blend_of_its_own_strength():
    source, target = pair()
    n, noise = 8, 0.1
    ours = shrinkstats.stein_blend(source, target, noise=noise)
    w = ((ours.mean - source.mean) / (target.mean - source.mean))[0]
    assert 0 < w < 1
    close(shrinkstats.blend(source, target, n=n, strength=n * (1 - w) / w), ours, 1e-10)


def test_given_n_the_training_data_count_as_a_sample_at_least():
    source, target = pair()
    close(shrunken_blend(source, target, 0.0, 1.0, 4), shrinkstats.blend(source, target, n=4, strength=1))


def test_stein_blend_takes_the_noise_of_moments():
    x = np.random.default_rng(0).normal(0.3, 1.0, size=(6, 5, 4))
    m, (source, _) = shrinkstats.moments(x), pair()
    close(shrinkstats.stein_blend(source, m), naive.stein_blend(source, (m.mean, m.var()), m.noise))


def test_stein_blend_without_noise_gives_the_batch_and_without_shift_the_prior():
    source, target = pair()
    close(shrinkstats.stein_blend(source, target, noise=0.0), target)
    close(shrinkstats.stein_blend(source, source, noise=0.1), source)
    far = Statistics(source.mean + 1e3, target.var)
    close(shrinkstats.stein_blend(source, far, noise=1e-9), far, 1e-9)


def test_calibrated_noise_without_end_leaves_the_prior():
    source, target = pair()
    close(shrinkstats.stein_blend(source, target, noise=SamplingNoise(1e6, 1e6, 0.0)), source, 1e-15)


def test_a_dead_channel_does_not_vote():
    source, target = pair()
    source.var[2] = 0.0
    rest = [0, 1, 3, 4]
    expected = naive.stein_blend([v[rest] for v in source], [v[rest] for v in target], 0.1)
    close([v[rest] for v in shrinkstats.stein_blend(source, target, noise=0.1)], expected)


def test_nan_spreads_to_what_pools_it():
    source, target = pair()
    target.mean[2] = np.nan
    blended = shrinkstats.blend(source, target, n=8, strength=16)
    assert np.isnan(blended.mean).tolist() == [False, False, True, False, False]
    assert np.isfinite(blended.var).all()
    assert np.isnan(shrinkstats.stein_blend(source, target, noise=0.1).mean).all()


@given(st.permutations(range(5)))
@example([4, 3, 2, 1, 0])
def test_permuting_channels(order):
    source, target = pair()
    whole = shrinkstats.stein_blend(source, target, noise=0.1)
    turned = shrinkstats.stein_blend(*(Statistics(*(v[order] for v in s)) for s in (source, target)), noise=0.1)
    close(turned, [v[order] for v in whole])


def test_statistics_may_be_moments():
    x = np.random.default_rng(0).normal(size=(6, 5, 4))
    m, (source, _) = shrinkstats.moments(x), pair()
    assert isinstance(m, Moments)
    close(shrinkstats.blend(source, m, n=6, strength=2), naive.blend(source, (m.mean, m.var()), 6, 2))
    close(shrinkstats.blend(m, source, n=6, strength=2), naive.blend((m.mean, m.var()), source, 6, 2))


@given(
    st.integers(0, 999), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 3), st.sampled_from([1, 3]),
    st.sampled_from([1, 8, math.inf]),
)  # fmt: skip
@example(0, 0.05, 0.01, 1.0, 1, 2)
@example(0, 0.0, 0.0, 0.0, 1, math.inf)
@example(0, 100.0, 0.01, 1.0, 1, 1)
@example(0, 0.01, 100.0, 1.0, 3, 1)
def test_the_compiled_blend_of_a_network_is_the_blend(seed, noise, sd_noise, kappa, groups, n):
    rng = np.random.default_rng(seed)
    source = pair(seed=seed)[0]
    mean, m2 = rng.normal(size=(groups, 5)), rng.uniform(0.5, 30, size=(groups, 5))
    mean, m2 = (mean[0], m2[0]) if groups == 1 else (mean, m2)
    batch = batch_of(10, mean, m2)
    parts = SamplingNoise(noise * rng.uniform(size=5), sd_noise * rng.uniform(size=5), rng.uniform(-0.5, 0.1, size=5))
    close(
        shrunken_blend(source, batch, parts, kappa, n),
        shrunken_blend(source, Statistics(mean, m2 / 10), parts, kappa, n),
    )


def batch_of(n, mean, m2):
    """Moments of n observations of which nobody asks for the extremes."""
    return Moments.of_equal_samples(count=n, samples=n, mean=mean, m2=m2, minimum=mean, maximum=mean, sample_m2=m2)


AWKWARD = {
    "a dead channel": lambda v: v["var"].__setitem__(2, 0.0),
    "no spread": lambda v: v["m2"].__setitem__(slice(None), 0.0),
    "one number a channel": lambda v: (v["bias"].__setitem__(slice(None), -1.0), v["m2"].__setitem__(slice(None), 0.0)),
    "not a number": lambda v: v["target"].__setitem__(1, np.nan),
    "far away": lambda v: v["target"].__setitem__(1, 1e200),
    "large": lambda v: v["m2"].__setitem__(1, 1e300),
    "no shift": lambda v: v["target"].__setitem__(slice(None), v["mean"]),
}


@pytest.mark.parametrize("what", AWKWARD)
def test_the_compiled_blend_leaves_awkward_numbers_to_the_general_one(what):
    rng = np.random.default_rng(0)
    v = {name: rng.uniform(0.5, 2, size=5) for name in ("mean", "var", "target", "m2", "noise", "sd")}
    v["bias"] = rng.uniform(-0.1, 0.1, size=5)
    AWKWARD[what](v)
    source, noise = Statistics(v["mean"], v["var"]), SamplingNoise(0.1 * v["noise"], 0.1 * v["sd"], v["bias"])
    batch = batch_of(2, v["target"], v["m2"])
    with np.errstate(all="ignore"):
        ours = shrinkstats.stein_blend(source, batch, noise=noise)
        close(ours, shrinkstats.stein_blend(source, Statistics(v["target"], v["m2"] / 2), noise=noise))
    if what == "one number a channel":
        close([ours.var], [v["var"]])  # which says nothing of its spread


def test_the_compiled_blend_checks_too():
    source, noise = pair()[0], SamplingNoise(np.full(5, -1.0), np.ones(5), np.zeros(5))
    batch = shrinkstats.moments(np.random.default_rng(0).normal(size=(6, 5, 4)))
    with pytest.raises(ValueError, match=r"noise\.mean"):
        shrinkstats.stein_blend(source, batch, noise=noise)
    with pytest.raises(ValueError, match="channels"):
        shrinkstats.stein_blend(source, batch, noise=SamplingNoise(*[np.ones(4)] * 3))


def test_a_strength_for_each_problem_of_a_stack():
    rng = np.random.default_rng(0)
    source, target = (shrinkstats.Statistics(rng.normal(size=(2, 3)), rng.uniform(1, 2, (2, 3))) for _ in range(2))
    strength = np.array([[1.0], [2.0]])
    full = np.broadcast_to(strength, (2, 3))
    functions = (shrinkstats.blend, shrinkstats.wasserstein_bounds)
    for function in functions:
        for found, expected in zip(*(function(source, target, n=4, strength=s) for s in (strength, full)), strict=True):
            np.testing.assert_array_equal(found, expected)
        with pytest.raises(ValueError, match="leading axes do not broadcast"):
            function(source, target, n=4, strength=np.ones((3, 1)))
        with pytest.raises(ValueError, match="different numbers of channels"):
            function(source, target, n=4, strength=np.ones((2, 2)))


def test_a_noise_for_each_problem_of_a_stack():
    rng = np.random.default_rng(0)
    source, target = (Statistics(rng.normal(size=(2, 3)), rng.uniform(1, 2, (2, 3))) for _ in range(2))
    noise = np.array([[0.1], [0.02]])
    second = [Statistics(v.mean[1], v.var[1]) for v in (source, target)]
    for kind in (lambda v: v, lambda v: SamplingNoise(v, v / 2, -v)):
        expected = shrinkstats.stein_blend(source, target, noise=kind(np.broadcast_to(noise, (2, 3))))
        found = shrinkstats.stein_blend(source, target, noise=kind(noise))
        alone = shrinkstats.stein_blend(*second, noise=kind(noise[1]))
        for a, b, c in zip(found, expected, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
            np.testing.assert_allclose(c, b[1], rtol=1e-14)
        with pytest.raises(ValueError, match="leading axes do not broadcast"):
            shrinkstats.stein_blend(source, target, noise=kind(np.ones((3, 1))))
        with pytest.raises(ValueError, match="different numbers of channels"):
            shrinkstats.stein_blend(source, target, noise=kind(np.ones((2, 2))))
