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


def test_affine_vectors_and_running_buffers():
    rng = np.random.default_rng(2)
    center, scale, weight, bias = rng.normal(size=(4, 7))
    pivot = np.empty(7, np.float32)
    slope, shift = vectors.affine_vectors(center, scale, weight, bias, pivot)
    x = rng.normal(size=7)
    np.testing.assert_allclose((x - pivot) * slope + shift, weight * (x - center) / scale + bias, rtol=1e-9)
    nothing = np.empty(0, np.float32)
    np.testing.assert_array_equal(vectors.affine_vectors(center, scale, nothing, nothing, pivot)[0], 1 / scale)
    buffer = np.ones(7, np.float32)
    vectors.follow(buffer, center, 0.1)
    np.testing.assert_allclose(buffer, 0.9 + 0.1 * center, rtol=1e-6)
