"""Data far from zero, at the ends of the range, constant, not a number: the digits that must survive."""

import numpy as np
import pytest
from naive import moments as naive_moments

import shrinkstats
from shrinkstats.estimators import BatchStatistics

pytestmark = pytest.mark.core

ORDERS = ["C", "channels-last", "F"]


def lay(x, order):
    if order == "channels-last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return np.asarray(x, order=order)


def random(shape=(8, 5, 333), mean=0.0, dtype="float32"):
    return (np.random.default_rng(0).normal(size=shape) + mean).astype(dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mean", [1e4, -1e4])
@pytest.mark.parametrize("shape", [(8, 5, 333), (64, 3, 32, 32), (128, 600)])
def test_variance_far_from_zero(order, mean, shape):
    x = lay(random(shape, mean), order)
    m = shrinkstats.moments(x)
    expected = naive_moments(x)
    np.testing.assert_allclose(m.var(), expected["var"], rtol=1e-5)
    y = shrinkstats.normalize(x, BatchStatistics())
    exact = (np.moveaxis(x.astype(float), 1, -1) - expected["mean"]) / np.sqrt(expected["var"] + 1e-5)
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1e4, 1e8, 1e15])
@pytest.mark.parametrize("where", ["first in memory", "first in every sample", "last"])
def test_heavy_outliers(order, size, where):
    """The pivot comes from the first elements: if these lie far out, no digit may be lost but the outliers' own."""
    x = random()
    at = {"first in memory": np.s_[:1, :, :1], "first in every sample": np.s_[:, :, :1], "last": np.s_[-1:, :, -1:]}
    x[at[where]] = size
    x = lay(x, order)
    expected = naive_moments(x)
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.var(), expected["var"], rtol=1e-5)
    np.testing.assert_allclose(m.mean, expected["mean"], rtol=1e-5)
    # The standard error inherits the rounding of the means: single precision's, of numbers as large as the means.
    np.testing.assert_allclose(
        np.sqrt(m.noise), np.sqrt(expected["noise"]), rtol=1e-5, atol=2e-6 * np.abs(expected["mean"]).max()
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
def test_outliers_wherever_a_pivot_may_be_sought(order, size):
    """Sums around a point far from nearly all of the data would lose the variance in a difference of large numbers."""
    x = random((1, 5, 6000))
    x[:, :, :3] = x[:, :, 2999:3002] = x[:, :, -3:] = size
    x = lay(x, order)
    expected = naive_moments(x)
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.var(), expected["var"], rtol=1e-5)
    np.testing.assert_allclose(m.mean, expected["mean"], rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_an_outlier_in_one_sample_costs_the_others_nothing(order):
    """Sample means, which the noise is made of, in a sample that starts at 1e4 standard deviations."""
    x = random()
    x[:, :, 0] = 1e4
    x[0, :, 0] = 0
    np.testing.assert_allclose(shrinkstats.moments(lay(x, order)).mean, naive_moments(x)["mean"], rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1e25, 1e-25, 1e37, 1e-37, 1e-42])
def test_squares_out_of_the_range_of_single_precision(order, scale):
    x = lay((random().astype(float) * scale).astype("float32"), order)
    expected = naive_moments(x)
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.mean, expected["mean"], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(m.var(), expected["var"], rtol=1e-5)
    np.testing.assert_array_equal(m.maximum, expected["maximum"])


def test_the_whole_range_of_single_precision():
    largest = np.finfo("float32").max
    x = np.tile(np.array([largest, -largest], dtype="float32"), (2, 3, 500))
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.var(), float(largest) ** 2, rtol=1e-12)
    y = shrinkstats.normalize(x, BatchStatistics())
    np.testing.assert_allclose(y, np.sign(x), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_double_precision_of_large_and_small_numbers(scale):
    x = random(dtype="float64") * scale
    np.testing.assert_allclose(shrinkstats.moments(x).var(), naive_moments(x)["var"], rtol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-40, 16777217.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_channels(order, value, dtype):
    """Exactly the value, exactly no variance; and normalized to exactly zero."""
    x = lay(np.full((8, 5, 333), value, dtype=dtype), order)
    m = shrinkstats.moments(x)
    np.testing.assert_array_equal(m.mean, x.flat[0])
    np.testing.assert_array_equal(m.m2, 0)
    np.testing.assert_array_equal(m.noise, 0)
    np.testing.assert_array_equal(shrinkstats.normalize(x, BatchStatistics()), 0)


def test_constant_but_for_one():
    x = np.full((8, 5, 333), 0.1, dtype="float32")
    x[3, 2, 100] = 0.2
    expected = naive_moments(x)
    np.testing.assert_allclose(shrinkstats.moments(x).m2[2], expected["m2"][2], rtol=1e-5)
    assert shrinkstats.moments(x).m2[[0, 1, 3, 4]].max() < 1e-25


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sample_axis", [0, None])
@pytest.mark.parametrize("at", [0, 1, 20, -1])
def test_nan_stays_in_its_channel(dtype, order, sample_axis, at):
    x = random(dtype=dtype)
    clean = shrinkstats.moments(lay(x, order), sample_axis=sample_axis)
    x[3, 2, at] = np.nan
    m = shrinkstats.moments(lay(x, order), sample_axis=sample_axis)
    others = [0, 1, 3, 4]
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        assert np.isnan(getattr(m, name)[2]), name
        np.testing.assert_array_equal(getattr(m, name)[others], getattr(clean, name)[others], err_msg=name)
    y = shrinkstats.normalize(lay(x, order), BatchStatistics())
    assert np.isnan(y[:, 2]).all()
    assert np.isfinite(y[:, others]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 20, -1])
def test_infinity_has_an_infinite_mean_and_no_variance(dtype, order, value, at):
    x = random(dtype=dtype)
    clean = shrinkstats.moments(lay(x, order))
    x[3, 2, at] = value
    m = shrinkstats.moments(lay(x, order))
    assert m.mean[2] == value
    assert np.isnan(m.m2[2])
    assert value in (m.minimum[2], m.maximum[2])
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(m.m2[others], clean.m2[others])


def test_both_infinities_have_no_mean():
    x = random()
    x[1, 2, 0], x[2, 2, 7] = np.inf, -np.inf
    m = shrinkstats.moments(x)
    assert np.isnan(m.mean[2])
    assert (m.minimum[2], m.maximum[2]) == (-np.inf, np.inf)


def test_nan_in_merged_moments():
    x = random()
    x[3, 2, 5] = np.nan
    m = shrinkstats.moments(x[:2]) + shrinkstats.moments(x[2:]) + shrinkstats.Moments.empty(5)
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        np.testing.assert_array_equal(np.isnan(getattr(m, name)), [False, False, True, False, False], err_msg=name)


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
def test_other_libraries_keep_the_digits(library):
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    if library == "jax":
        pytest.skip("JAX computes in float32 by default, where these digits do not exist")
    x = random(mean=1e4)
    m = shrinkstats.moments(module.asarray(x))
    np.testing.assert_allclose(np.asarray(m.var()), naive_moments(x)["var"], rtol=1e-5)
    y = shrinkstats.normalize(module.asarray(x), BatchStatistics())
    np.testing.assert_allclose(np.asarray(y), shrinkstats.normalize(x, BatchStatistics()), rtol=1e-5, atol=1e-5)
