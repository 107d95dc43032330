"""Infinity and the ends of the range: what can be represented comes out, wherever the way there leads."""

import itertools

import numpy as np
import pytest

import shrinkstats

pytestmark = pytest.mark.core

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")


def infinite(dtype="float64"):
    x = np.random.default_rng(0).normal(size=(6, 7, 4)).astype(dtype)
    x[0, 0, 0] = np.inf
    x[5, 1, 0] = -np.inf
    x[0, 2, 0], x[4, 2, 1] = np.inf, -np.inf
    x[1, 3, 0], x[3, 3, 0] = np.inf, np.inf
    x[2, 4, 3], x[3, 4, 0] = np.nan, np.inf
    x[:, 5] = np.inf
    return x


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("sample_axis", [0, None])
def test_parts_with_infinity_make_the_whole_in_any_order(kind, sample_axis):
    array = np.asarray if kind == "numpy" else pytest.importorskip("jax.numpy" if kind == "jax" else kind).asarray
    x = infinite("float32")
    whole = shrinkstats.moments(array(x), sample_axis=sample_axis)
    np.testing.assert_array_equal(np.asarray(whole.mean)[:6], [np.inf, -np.inf, np.nan, np.inf, np.nan, np.inf])
    parts = [shrinkstats.moments(array(x[i : i + 2]), sample_axis=sample_axis) for i in (0, 2, 4)]
    for order in itertools.permutations(parts):
        total = sum(order)
        for name in VECTORS:
            np.testing.assert_allclose(
                np.asarray(getattr(total, name)), np.asarray(getattr(whole, name)), rtol=1e-5, err_msg=name
            )


def test_one_observation_each():
    x = infinite()[:, :, :1]
    whole = shrinkstats.moments(x)
    total = sum(shrinkstats.moments(row) for row in np.split(x, 6))
    for name in VECTORS:
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12, err_msg=name)


def test_merging_the_whole_range():
    largest = np.finfo(float).max
    a, b = (shrinkstats.moments(np.full((n, 3, 2), v)) for n, v in ((3, largest), (1, -largest)))
    np.testing.assert_allclose((a + b).mean, largest / 2)
    np.testing.assert_allclose((b + a).mean, largest / 2)
    np.testing.assert_array_equal((a + b).m2, np.inf)  # its size is not representable
    a, b = (shrinkstats.moments(np.full((1, 3, 1), v * 1.2e154)) for v in (0.5, 2.0))
    np.testing.assert_allclose((a + b).m2, 1.5 * 1.2e154 * (0.75 * 1.2e154))  # whose difference squared overflows


def images_beyond(scale):
    """Images whose deviations can be squared and added, but not times the square of their number of pixels."""
    rng = np.random.default_rng(0)
    return (5 + 0.1 * rng.normal(size=(8, 4, 1, 1)) + 0.1 * rng.normal(size=(8, 4, 100, 100))) * scale


SCALE = 2.0**504


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "dask"])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_noise_that_is_lost_is_missing(kind):
    """Where squares of the samples' sizes leave the range, infinite noise would shrink every mean to nothing."""
    if kind == "numpy":
        x = images_beyond(SCALE)
    elif kind == "jax":
        x = pytest.importorskip("jax.numpy").asarray(images_beyond(3e16).astype(np.float32))
    elif kind == "torch":
        x = pytest.importorskip("torch").asarray(images_beyond(SCALE))
    else:
        x = pytest.importorskip("dask.array").from_array(images_beyond(SCALE), chunks=(3, 2, 100, 100))
    m = shrinkstats.moments(x)
    assert np.isfinite(np.asarray(m.m2)).all()
    assert np.isnan(np.asarray(m.noise)).all()
