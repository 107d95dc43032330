"""James-Stein means: against the naive formulas, their symmetries, the ends of the range, and by simulation."""

import math

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import shrinkstats

pytestmark = pytest.mark.core

# Entries away from the edge of underflow, so that the naive formulas hold.
numbers = st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3))
means = st.integers(1, 12).flatmap(lambda c: arrays(np.float64, c, elements=numbers))
noises = st.floats(0, 100)


def close(actual, expected, tolerance=1e-10):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max()))


@given(means, noises, st.booleans())
@example(np.zeros(5), 1.0, True)
@example(np.ones(2), 1.0, True)
@example(np.ones(3), 1.0, True)
@example(np.ones(3), 0.0, False)
@example(np.array([1e-3] * 12), 100.0, False)
def test_naive(mean, noise, positive_part):
    estimate, factor = shrinkstats.james_stein(mean, noise, positive_part=positive_part)
    expected = naive.james_stein(mean, noise, positive_part=positive_part)
    close(estimate, expected[0])
    close(factor, expected[1])


@given(st.integers(3, 9).flatmap(lambda c: arrays(np.float64, (3, c), elements=st.floats(0.1, 10))))
@example(np.array([[1.0, 2.0, 3.0], [10.0, 0.1, 0.1], [0.5, 0.5, 0.5]]))  # 2 max v > sum v: no shrinkage
@example(np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]))  # 2 max v = sum v
def test_naive_with_unequal_noise_and_a_target(rows):
    mean, noise, target = rows
    estimate, factor = shrinkstats.james_stein(mean, noise, target=target)
    expected = naive.james_stein(mean, noise, target=target)
    close(estimate, expected[0])
    close(factor, expected[1])


@given(st.integers(4, 9).flatmap(lambda c: arrays(np.float64, c, elements=st.floats(-10, 10), unique=True)), noises)
@example(np.array([1.0, 2.0, 3.0, 5.0]), 0.5)
def test_naive_towards_the_grand_mean(mean, noise):
    deviation = np.abs(mean - mean.mean()).max()
    if deviation < 1e-6:  # rounding of the grand mean would be compared, not the formula
        return
    estimate, factor = shrinkstats.james_stein(mean, noise, target="mean")
    expected = naive.grand_mean_james_stein(mean, noise)
    close(estimate, expected[0], 1e-7)
    close(factor, expected[1], 1e-7)


@given(means)
@example(np.zeros(5))
@example(np.ones(5))
@example(np.ones(2))
def test_channel_james_stein_naive(mean):
    estimate, factor = shrinkstats.channel_james_stein(mean)
    close(estimate, naive.channel_james_stein(mean))
    assert 0 <= factor <= 1


def test_degrees_of_freedom_are_a_factor_of_the_noise():
    mean = [1.0, -2.0, 0.5, 3.0]
    ours = shrinkstats.james_stein(mean, 0.5, df=6)
    close(ours.estimate, naive.james_stein(mean, 0.5 * 6 / 8)[0])
    close(shrinkstats.james_stein(mean, 0.5, df=math.inf).estimate, naive.james_stein(mean, 0.5)[0])


@given(means, noises)
@example(np.zeros(4), 0.0)
@example(np.full(4, 1e-3), 100.0)
def test_the_positive_part_lies_between_zero_and_one(mean, noise):
    for target in (0.0, "mean"):
        factor = shrinkstats.james_stein(mean, noise, target=target).factor
        assert 0 <= factor <= 1


@given(means, noises, st.floats(-1e3, 1e3))
@example(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, 0.0)
@example(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, 1e3)
def test_translating_data_and_target_translates_the_estimate(mean, noise, shift):
    # The shift rounds the deviations to 1e-13: a few of these in the smallest deviation of 1e-3.
    still, moved = (shrinkstats.james_stein(mean + s, noise, target=s) for s in (0.0, shift))
    np.testing.assert_allclose(moved.estimate, still.estimate + shift, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(moved.factor, still.factor, rtol=1e-7, atol=1e-7)


@given(means, noises, st.integers(-400, 400))
@example(np.array([1.0, 2.0, 3.0]), 0.5, 0)
@example(np.array([1.0, 2.0, 3.0]), 0.5, -400)
@example(np.array([1.0, 2.0, 3.0]), 0.5, 400)
def test_scaling_means_and_noise_scales_the_estimate_to_the_bit(mean, noise, power):
    noise = 0.0 if noise < 1e-3 else noise  # so that the scaled noise does not underflow
    one, scaled = (
        shrinkstats.james_stein(mean, noise),
        shrinkstats.james_stein(np.ldexp(mean, power), math.ldexp(noise, 2 * power)),
    )
    np.testing.assert_array_equal(scaled.factor, one.factor)
    np.testing.assert_array_equal(scaled.estimate, np.ldexp(one.estimate, power))


@given(st.permutations(range(6)), st.sampled_from([0.0, "mean"]))
@example([5, 4, 3, 2, 1, 0], "mean")
def test_permuting_channels_permutes_the_estimate(order, target):
    rng = np.random.default_rng(0)
    mean, noise = rng.normal(size=6), rng.uniform(0.1, 0.2, size=6)
    whole = shrinkstats.james_stein(mean, noise, target=target).estimate
    close(shrinkstats.james_stein(mean[order], noise[order], target=target).estimate, whole[order])
    close(shrinkstats.channel_james_stein(mean[order]).estimate, shrinkstats.channel_james_stein(mean).estimate[order])


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e307, 1e-307])
def test_no_intermediate_over_or_underflows(scale):
    mean = np.array([1.0, -2.0, 0.5, 3.0])
    for target in (0.0, "mean"):
        # noise itself, of the squared unit, is 0 or out of range here; what is representable must be right
        kept = shrinkstats.james_stein(mean * scale, 0.0, target=target)
        np.testing.assert_allclose(kept.estimate, mean * scale, rtol=1e-12)
        assert kept.factor == 1
    one, scaled = shrinkstats.channel_james_stein(mean), shrinkstats.channel_james_stein(mean * scale)
    np.testing.assert_allclose(scaled.factor, one.factor, rtol=1e-12)
    np.testing.assert_allclose(scaled.estimate, one.estimate * scale, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_noise_near_the_ends_of_the_range(scale):
    mean = np.array([1.0, -2.0, 0.5, 3.0])
    one, scaled = shrinkstats.james_stein(mean, 0.8), shrinkstats.james_stein(mean * scale, 0.8 * scale * scale)
    np.testing.assert_allclose(scaled.factor, one.factor, rtol=1e-12)


def test_huge_deviations_keep_the_mean_and_tiny_ones_the_target():
    mean = np.array([1.0, -2.0, 0.5, 3.0])
    assert shrinkstats.james_stein(mean * 1e200, 1.0).factor == 1
    assert shrinkstats.james_stein(mean * 1e-200, 1.0).factor == 0
    np.testing.assert_array_equal(shrinkstats.james_stein(mean * 1e-200, 1.0).estimate, 0)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_single_precision_near_the_ends_of_its_range(scale):
    mean = np.array([1.0, -2.0, 0.5, 3.0])
    single = shrinkstats.channel_james_stein((mean * scale).astype("float32"))
    np.testing.assert_allclose(single.factor, shrinkstats.channel_james_stein(mean).factor, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_too_few_channels_to_borrow_from(channels):
    mean = np.full(channels, 0.1)
    kept = shrinkstats.james_stein(mean, 5.0, target="mean")
    assert kept.factor == 1
    np.testing.assert_array_equal(kept.estimate, mean)
    if channels < 3:
        assert shrinkstats.james_stein(mean, 5.0).factor == 1
        assert shrinkstats.channel_james_stein(mean).factor == 1


def test_everything_on_the_target():
    estimate, factor = shrinkstats.james_stein(np.full(4, 2.5), 1.0, target="mean")
    assert factor == 0
    np.testing.assert_array_equal(estimate, 2.5)


def test_nan_spreads_to_what_pools_it():
    mean = np.ones((2, 4))
    mean[1, 2] = np.nan
    for estimate, factor in (shrinkstats.james_stein(mean, 0.1), shrinkstats.channel_james_stein(mean)):
        assert np.isnan(factor).tolist() == [False, True]
        assert np.isnan(estimate[1]).all()
        assert np.isfinite(estimate[0]).all()
    assert np.isnan(shrinkstats.james_stein(np.ones(4), np.nan).factor)
    assert np.isnan(shrinkstats.james_stein(np.ones(4), 0.1, target=np.nan).factor)


def test_infinite_mean_is_never_a_silent_number():
    mean = np.array([1.0, 2.0, np.inf, 3.0])
    estimate, factor = shrinkstats.james_stein(mean, 0.1)
    assert np.isnan(factor) or (factor == 1 and np.isinf(estimate[2]))


@pytest.mark.parametrize(("radius", "target"), [(0.0, 0.0), (2.0, 0.0), (2.0, "mean"), (5.0, 0.0)])
def test_james_stein_beats_the_mean(radius, target):
    """Paired by draw, so that four standard errors are far below the gain at every radius here."""
    channels, noise, draws = 10, 0.5, 20_000
    rng = np.random.default_rng(1)
    true = rng.normal(size=channels)
    true *= radius * math.sqrt(noise) / np.linalg.norm(true)
    x = true + rng.normal(scale=math.sqrt(noise), size=(draws, channels))
    estimate = shrinkstats.james_stein(x, noise, target=target).estimate
    gain = ((x - true) ** 2).sum(axis=1) - ((estimate - true) ** 2).sum(axis=1)
    assert gain.mean() > 4 * gain.std(ddof=1) / math.sqrt(draws)


@pytest.mark.parametrize("value", [-1.79e308, 1.79e308, 0.1, -1 / 3, 1e-320, 0.0])
@pytest.mark.parametrize("channels", [5, 7, 11, 100])
@pytest.mark.parametrize("noise", [0.0, 1e-40, 1e308])
def test_equal_means_are_their_grand_mean(value, channels, noise):
    estimate, factor = shrinkstats.james_stein(np.full(channels, value), noise, target="mean")
    assert factor == 0
    np.testing.assert_array_equal(estimate, value)


def test_gradients_at_equal_means():
    torch = pytest.importorskip("torch")
    mean = torch.full((2, 7), 0.1, dtype=torch.float64, requires_grad=True)
    shrinkstats.james_stein(mean, 1.0, target="mean").estimate.sum().backward()
    np.testing.assert_allclose(mean.grad, 1.0)  # all of it comes from the grand mean, which all of them make
