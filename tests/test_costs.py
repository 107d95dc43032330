"""Costs of defences, and Popoviciu's inequality behind RobustNorm."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import shrinkstats
from shrinkstats.estimators import RobustNorm
from shrinkstats.theory.costs import training_passes
from shrinkstats.theory.popoviciu import robustnorm_scale_bounds, variance_bounds

pytestmark = pytest.mark.core


def test_the_published_table():
    """No defence 2N, ABNN 3N, and PGD adversarial training with five steps 12N."""
    assert [training_passes(d, steps=5) for d in ("none", "ABNN", "PGD-AT")] == [2, 3, 12]


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_passes_counted_one_by_one(steps):
    attack = sum(2 for _ in range(steps))
    assert training_passes("PGD-AT", steps=steps) == attack + 2
    assert training_passes("ABNN", steps=steps) == 3
    assert training_passes("FGSM-AT", steps=steps) == training_passes("PGD-AT", steps=1)
    assert training_passes("PGD-AT", steps=steps) / training_passes("ABNN") == pytest.approx(2 / 3 * (steps + 1))


def test_bad_costs():
    with pytest.raises(ValueError, match="none, ABNN, FGSM-AT, PGD-AT, got 'PGD'"):
        training_passes("PGD")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        training_passes("PGD-AT", steps=0)


@given(st.integers(2, 40).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6))))
@example(np.array([-1.0, 1.0]))
@example(np.array([0.0, 0.0, 0.0]))
def test_the_variance_lies_between(x):
    lower, upper = variance_bounds(np.ptp(x), n=len(x))
    rounding = 1e-12 * np.max(x * x)
    assert lower - rounding <= x.var() <= upper + rounding


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_both_bounds_are_reached(n):
    x = np.zeros(n)
    x[0], x[-1] = -1, 1
    lower, upper = variance_bounds(2.0, n=n)
    np.testing.assert_allclose(x.var(), lower, rtol=1e-12)
    x = np.sign(np.arange(n) - (n - 1) / 2)
    if n % 2 == 0:
        np.testing.assert_allclose(x.var(), upper, rtol=1e-12)


@given(
    st.integers(2, 40).flatmap(lambda n: arrays(np.float64, (n, 3), elements=st.floats(-100, 100))),
    st.floats(0.05, 0.95),
)
def test_robustnorm_scales_and_slopes(x, power):
    """Where its slope is sure to be below batch norm's, where above, and how much of the spread it leaves."""
    sd, n = x.std(axis=0), len(x)
    moved = sd > 1e-3  # where rounding does not show
    x, sd = x[:, moved], sd[moved]
    if not sd.size:
        return
    _, scale = RobustNorm(power)(shrinkstats.moments(x), eps=0.0)
    lower, upper = robustnorm_scale_bounds(sd, n, power=power)
    assert np.all(lower * (1 - 1e-9) <= scale)
    assert np.all(scale <= upper * (1 + 1e-9))
    turn = power / (1 - power)
    assert np.all((scale > sd)[sd < 2**turn * (1 - 1e-9)])
    assert np.all((scale < sd)[sd > (2 * n) ** (turn / 2) * (1 + 1e-9)])
    left = shrinkstats.normalize(x, RobustNorm(power), eps=0.0).std(axis=0)
    assert np.all(left <= 2**-power * sd ** (1 - power) * (1 + 1e-9))
    assert np.all(left >= (2 * n) ** (-power / 2) * sd ** (1 - power) * (1 - 1e-9))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (variance_bounds, {"spread": [1, -2], "n": 3}, "spread must not be negative, got -2"),
        (variance_bounds, {"spread": 1, "n": 1}, "n must be at least 2, got 1"),
        (robustnorm_scale_bounds, {"sd": -1, "n": 3}, "sd must not be negative"),
        (robustnorm_scale_bounds, {"sd": 1, "n": 1}, "n must be at least 2"),
        (robustnorm_scale_bounds, {"sd": 1, "n": 3, "power": 0}, "power must be above 0"),
    ],
)
def test_bad_bounds(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(**arguments)


def test_nan_stays():
    assert np.isnan(variance_bounds([np.nan, 1], n=3)[0]).tolist() == [True, False]
    assert np.isnan(robustnorm_scale_bounds([np.nan, 1], n=3)[1]).tolist() == [True, False]


@pytest.mark.parametrize("n", [2**63, 10**30, 2**1023])
def test_bounds_take_any_whole_number(n):
    lower, upper = variance_bounds([1.0, 2.0], n=n)
    np.testing.assert_allclose(lower * float(n), [0.5, 2.0])
    assert lower.dtype == upper.dtype == np.float64
    lower, upper = robustnorm_scale_bounds([1.0, 2.0], n)
    np.testing.assert_allclose(upper / lower, math.exp(0.1 * (math.log(n) - math.log(2))), rtol=1e-12)
