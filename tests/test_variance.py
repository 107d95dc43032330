"""Stein-type variances and the regularized baselines."""

import math

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import shrinkstats
from shrinkstats import Statistics

pytestmark = pytest.mark.core

variances = st.integers(1, 12).flatmap(
    lambda c: arrays(np.float64, c, elements=st.one_of(st.just(0.0), st.floats(1e-3, 1e3)))
)


@given(variances, st.integers(1, 1000))
@example(np.array([1.0]), 1)
@example(np.array([2.0, 8.0]), 1)
@example(np.array([2.0, 0.0, 8.0]), 24)
@example(np.zeros(3), 24)
def test_gamma_stein_naive(var, n):
    np.testing.assert_allclose(shrinkstats.gamma_stein(var, n), naive.gamma_stein(var, n), rtol=1e-12)


@given(st.permutations(range(6)))
@example([5, 4, 3, 2, 1, 0])
def test_gamma_stein_permutes_with_the_channels(order):
    var = np.random.default_rng(0).uniform(0.1, 5.0, size=6)
    np.testing.assert_allclose(
        shrinkstats.gamma_stein(var[order], 8), shrinkstats.gamma_stein(var, 8)[order], rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_gamma_stein_scales_with_the_variances(scale):
    var = np.random.default_rng(0).uniform(0.1, 5.0, size=600)
    np.testing.assert_allclose(
        shrinkstats.gamma_stein(var * scale, 8), shrinkstats.gamma_stein(var, 8) * scale, rtol=1e-12
    )


def test_gamma_stein_nan_and_infinity():
    var = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [0.0, np.nan, 3.0], [1.0, np.inf, 3.0]])
    estimate = shrinkstats.gamma_stein(var, 8)
    assert np.isfinite(estimate[0]).all()
    assert np.isnan(estimate[1:3]).all()
    assert np.isinf(estimate[3]).all()


def test_gamma_stein_of_infinitely_many_observations_in_the_limit():
    var = np.array([0.5, 2.0, 1.25])
    np.testing.assert_allclose(shrinkstats.gamma_stein(var, 1e15), var, rtol=1e-12)


@given(variances, st.integers(1, 100), st.floats(0, 100))
@example(np.array([1.0]), 1, 0.0)
@example(np.array([1.0, 0.5, 0.0]), 4, 1.0)
def test_regularized_naive(var, n, strength):
    mean = np.linspace(-1, 1, var.size)
    batch = Statistics(mean, var)
    ridge = shrinkstats.ridge(batch, n=n, strength=strength)
    np.testing.assert_allclose(ridge.mean, [m * n / (n + strength) for m in mean], rtol=1e-12)
    np.testing.assert_allclose(ridge.var, [v / (1 + strength) for v in var], rtol=1e-12)
    lasso = shrinkstats.soft_threshold(batch, n=n, strength=strength)
    soft = [math.copysign(max(0.0, abs(m) - strength / (2 * n)), m) for m in mean]
    np.testing.assert_allclose(lasso.mean, soft, rtol=1e-12)
    np.testing.assert_allclose(lasso.var, [max(0.0, v - strength / 2) for v in var], rtol=1e-12)


def test_the_published_strength_is_the_default():
    batch = Statistics(np.array([1.0]), np.array([2.0]))
    assert shrinkstats.ridge(batch, n=4).var[0] == 2 / 1.001
    assert shrinkstats.soft_threshold(batch, n=4).var[0] == 2 - 0.0005
