"""Moments: a mergeable value, and a noise that tells the truth about clustered data."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from naive import moments as naive_moments

import shrinkstats
from shrinkstats import Moments

pytestmark = pytest.mark.core

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")


def random(samples, channels=3, length=4, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, size=(samples, channels, length))


def check_equal(a, b, tolerance=1e-12):
    assert (a.count, a.samples) == (b.count, b.samples)
    for name in VECTORS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance, err_msg=name)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
@example([1], None, True)
@example([0], None, True)
@example([1, 1], None, True)
@example([0, 5, 0], None, False)
@example([9, 1, 0, 9], None, True)
def test_parts_in_any_split_and_order_make_the_whole(sizes, rng, samples):
    options = {"sample_axis": 0 if samples else None}
    x = random(sum(sizes))
    parts = [shrinkstats.moments(p, **options) for p in np.split(x, np.cumsum(sizes)[:-1])]
    if rng is not None:
        rng.shuffle(parts)
    whole = shrinkstats.moments(x, **options)
    check_equal(sum(parts), whole)
    check_equal(sum(parts, Moments.empty(3)), whole)
    while len(parts) > 1:  # as a tree
        parts = [sum(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    check_equal(parts[0], whole)


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([0, 2, None]))
@example(1, 1, 0)
@example(2, 1, 0)
@example(1, 5, None)
def test_naive(samples, length, sample_axis):
    x = random(samples, length=length)
    m, expected = shrinkstats.moments(x, sample_axis=sample_axis), naive_moments(x, 1, sample_axis)
    assert (m.count, m.samples) == (expected["count"], expected["samples"])
    for name in VECTORS:
        np.testing.assert_allclose(getattr(m, name), expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_merging_in_other_libraries(xp):
    x = random(6)
    parts = [shrinkstats.moments(xp.array(p)) for p in np.split(x, [1, 1, 4])]
    merged = sum(parts)
    whole = shrinkstats.moments(x)
    for name in VECTORS:
        np.testing.assert_allclose(xp.host(getattr(merged, name)), getattr(whole, name), rtol=1e-12)


def test_empty_is_the_zero():
    m = shrinkstats.moments(random(4))
    assert m + Moments.empty(3) is m
    assert Moments.empty(3) + m is m
    nothing = Moments.empty(3) + Moments.empty(3)
    assert (nothing.count, nothing.samples) == (0, 0)
    assert np.isnan(nothing.mean).all()
    assert np.isnan(nothing.var()).all()
    assert np.isnan(nothing.noise).all()


def test_an_array_without_observations_is_empty(xp):
    m = shrinkstats.moments(xp.array(np.empty((0, 3, 4), "float32"), "float32"))
    assert (m.count, m.samples) == (0, 0)
    np.testing.assert_array_equal(xp.host(m.minimum), np.full(3, np.inf))
    np.testing.assert_array_equal(xp.host(m.m2), np.zeros(3))
    whole = shrinkstats.moments(xp.array(random(4)))
    assert m + whole is whole


@given(st.permutations(range(5)))
@example([4, 3, 2, 1, 0])
def test_permuting_channels_permutes_statistics(order):
    x = random(6, channels=5)
    m, permuted = shrinkstats.moments(x), shrinkstats.moments(x[:, order])
    for name in VECTORS:
        np.testing.assert_allclose(getattr(permuted, name), getattr(m, name)[order], rtol=1e-12, err_msg=name)


@given(st.integers(-300, 300), st.floats(-1e3, 1e3))
@example(0, 0.0)
@example(400, 0.0)
@example(-400, 0.0)
def test_scaling_and_translation(power, shift):
    x = random(6)
    m, scaled = shrinkstats.moments(x), shrinkstats.moments(np.ldexp(x, power))
    moved = shrinkstats.moments(x + shift)
    np.testing.assert_allclose(scaled.mean, np.ldexp(m.mean, power), rtol=1e-15)
    np.testing.assert_allclose(scaled.m2, np.ldexp(m.m2, 2 * power), rtol=1e-12)
    np.testing.assert_allclose(moved.mean, m.mean + shift, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moved.m2, m.m2, rtol=1e-10)


def test_var_ddof():
    x = random(4)
    np.testing.assert_allclose(shrinkstats.moments(x).var(), x.var(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(shrinkstats.moments(x).var(1), x.var(axis=(0, 2), ddof=1), rtol=1e-12)
    single = shrinkstats.moments(x[:1, :, :1])
    np.testing.assert_array_equal(single.var(), 0)
    assert np.isnan(single.var(1)).all()


def test_noise_of_one_sample_takes_its_elements_as_independent():
    x = random(1)
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.noise, x.var(axis=(0, 2), ddof=1) / 4, rtol=1e-12)
    assert np.isnan(shrinkstats.moments(x[:, :, :1]).noise).all()


def test_noise_is_unbiased_for_clustered_data():
    """Images share an offset: the mean's variance is many times var / count, and noise estimates it."""
    repeats, samples, pixels, between, within = 4000, 5, 8, 1.0, 0.5
    rng = np.random.default_rng(0)
    x = rng.normal(scale=between, size=(samples, repeats, 1)) + rng.normal(
        scale=within, size=(samples, repeats, pixels)
    )
    noise = shrinkstats.moments(x).noise  # the repeats are the channels
    true = between**2 / samples + within**2 / (samples * pixels)
    error = noise.std(ddof=1) / np.sqrt(repeats)
    assert abs(noise.mean() - true) < 4 * error
    naive = shrinkstats.moments(x, sample_axis=None).noise
    assert naive.mean() < true - 40 * error


def test_noise_of_parts_of_different_sizes():
    """Each sample counts by the square of its size, as in the cluster-robust variance of a ratio."""
    sizes = (2, 3, 7)
    parts = [random(1, length=n, seed=n) for n in sizes]
    m = sum(shrinkstats.moments(p) for p in parts)
    mean = np.concatenate(parts, axis=2).mean(axis=(0, 2))
    offsets = np.array([n * (p.mean(axis=(0, 2)) - mean) for n, p in zip(sizes, parts, strict=True)])
    np.testing.assert_allclose(m.noise, (offsets**2).sum(axis=0) / 12**2 * 3 / 2, rtol=1e-12)


def test_moments_cannot_be_changed():
    m = shrinkstats.moments(random(2))
    with pytest.raises(AttributeError):
        m.count = 3
    assert repr(m) == "Moments(3 channels, count=8, samples=2)"


def test_fields_are_given_by_name():
    m = shrinkstats.moments(np.ones((2, 3)))
    with pytest.raises(TypeError, match="takes its fields by name"):
        shrinkstats.Moments(2, 2, m.mean, m.m2, m.minimum, m.maximum, 2.0, m.mean, m.m2)
