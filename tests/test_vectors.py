"""The compiled arithmetic of the layers is that of the estimators."""

import numpy as np
import pytest

import shrinkstats
from shrinkstats.estimators import Stein
from shrinkstats.kernels import vectors

pytestmark = pytest.mark.core


def batch(shape, seed=0, spread=1.0, offset=0.3):
    rng = np.random.default_rng(seed)
    return shrinkstats.moments(rng.normal(offset * rng.normal(size=(1, shape[1], 1)), spread, size=shape))


@pytest.mark.parametrize("mean", ["sampling", "channel", None])
@pytest.mark.parametrize("var", ["gamma", "channel", None])
@pytest.mark.parametrize("shape", [(8, 64, 9), (4, 3, 5), (4, 2, 5), (4, 1, 5), (1, 16, 7), (16, 5, 1)])
@pytest.mark.parametrize("offset", [0.0, 0.02, 0.3, 10.0])
def test_stein(mean, var, shape, offset):
    rule, m = Stein(mean=mean, var=var), batch(shape, offset=offset)
    for ours, theirs in zip(
        vectors.stein(m.mean, m.m2, m.noise, m.count, *rule.rules), rule.statistics(m, None), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("mean", ["sampling", "channel", None])
@pytest.mark.parametrize("var", ["gamma", "channel", None])
@pytest.mark.parametrize("what", ["zero", "nan", "constant channel"])
def test_stein_on_odd_data(mean, var, what):
    x = np.random.default_rng(1).normal(size=(8, 6, 5))
    if what == "zero":
        x[:] = 0
    else:
        x[:, 2] = np.nan if what == "nan" else 3.0
    rule, m = Stein(mean=mean, var=var), shrinkstats.moments(x)
    for ours, theirs in zip(
        vectors.stein(m.mean, m.m2, m.noise, m.count, *rule.rules), rule.statistics(m, None), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("copies", [1, 3])
def test_affine_lines(copies):
    rng = np.random.default_rng(2)
    center, scale, weight, bias = rng.normal(size=(4, 7))
    lines = np.empty((3, copies * 7), np.float32)
    np.testing.assert_allclose(vectors.affine_lines(center, scale, weight, bias, lines), weight / scale, rtol=1e-12)
    np.testing.assert_array_equal(lines[:, :7], lines[:, -7:])
    pivot, slope, shift = lines[:, :7].astype(np.float64)
    x = rng.normal(size=7)
    np.testing.assert_allclose((x - pivot) * slope + shift, weight * (x - center) / scale + bias, rtol=1e-5, atol=1e-6)
    nothing = np.empty(0, np.float32)
    np.testing.assert_array_equal(vectors.affine_lines(center, scale, nothing, nothing, lines), 1 / scale)


def test_running_buffers():
    means, variances = np.ones(7, np.float32), np.full(7, 2, np.float32)
    mean, variance = np.random.default_rng(2).normal(size=(2, 7))
    vectors.follow(means, variances, mean, variance, 0.1)
    np.testing.assert_allclose(means, 0.9 + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(variances, 1.8 + 0.1 * variance, rtol=1e-6)
