"""Statistics in float32, as JAX has them, and GPUs without compiled passes: data far from zero keep their digits."""

import numpy as np
import pytest
from naive import moments as naive_moments

import shrinkstats
from shrinkstats import _arrays
from shrinkstats.kernels import generic

pytestmark = pytest.mark.core

OFFSETS = [0.0, 1e3, 1e5, -1e6, 1e7]


@pytest.fixture(params=["jax", "torch", "array_api_strict"])
def single(request, monkeypatch):
    """A library whose statistics are float32; on a CPU, PyTorch and array-api-strict are told so."""
    if request.param == "jax":
        jax = pytest.importorskip("jax")
        with jax.enable_x64(False):
            yield jax.numpy.asarray
        return
    module = pytest.importorskip(request.param)
    monkeypatch.setattr(generic, "statistics_dtype", lambda x, xp: xp.float32)
    monkeypatch.setattr(shrinkstats.kernels, "backend", lambda x: generic)
    yield module.asarray


def data(offset, shape=(16, 3, 12, 12), skew=False):
    rng = np.random.default_rng(3)
    draws = rng.exponential(size=shape) if skew else rng.normal(size=shape)
    return (draws + offset).astype("float32")


@pytest.mark.parametrize("sample_axis", [0, 3, None])
@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("offset", OFFSETS)
def test_far_from_zero(single, offset, skew, sample_axis):
    x = data(offset, skew=skew)
    m = shrinkstats.moments(single(x), sample_axis=sample_axis)
    assert "float32" in str(m.mean.dtype)
    expected = naive_moments(x, sample_axis=sample_axis)
    np.testing.assert_allclose(np.asarray(m.mean), expected["mean"], rtol=2e-7, atol=1e-6)
    for name in ("m2", "noise"):
        np.testing.assert_allclose(np.asarray(getattr(m, name)), expected[name], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("size", [1e4, 1e8])
def test_an_outlier_costs_the_others_nothing(single, size):
    x = data(5.0)
    x[0, :, 0, 0] = size
    expected = naive_moments(x)
    m = shrinkstats.moments(single(x))
    np.testing.assert_allclose(np.asarray(m.mean), expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(m.m2), expected["m2"], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(m.noise), expected["noise"], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 16777216.0, 3e38])
def test_constant_channels(single, value):
    m = shrinkstats.moments(single(np.full((4, 3, 2), value, "float32")))
    np.testing.assert_array_equal(np.asarray(m.mean), np.float32(value))
    np.testing.assert_array_equal(np.asarray(m.m2), 0)
    np.testing.assert_array_equal(np.asarray(m.noise), 0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # array-api-strict computes with NumPy
def test_what_is_not_finite(single):
    x = data(0.0, (4, 5, 6))
    x[1, 0, 2], x[2, 1, 3], x[3, 2, 0] = np.nan, np.inf, -np.inf
    x[0, 3, 1], x[1, 3, 1] = np.inf, -np.inf
    m = shrinkstats.moments(single(x))
    np.testing.assert_array_equal(np.asarray(m.mean)[:4], [np.nan, np.inf, -np.inf, np.nan])
    assert np.isnan(np.asarray(m.m2)).tolist() == [True] * 4 + [False]
    assert np.isnan(np.asarray(m.noise)).tolist() == [True] * 4 + [False]
    np.testing.assert_array_equal(np.asarray(m.minimum)[1:4], [x[:, 1].min(), -np.inf, -np.inf])


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_merging_samples_of_one_size(single, offset):
    """The mean of the samples is the mean: rounded apart, they would add noise of their own."""
    x = data(offset, (30, 3, 49))
    parts = [shrinkstats.moments(single(part)) for part in np.split(x, [7, 11, 24])]
    merged, expected = sum(parts), naive_moments(x)
    # Parts know their means to the last bit of float32, of which differences are taken.
    step = float(np.spacing(np.float32(offset))) ** 2
    np.testing.assert_allclose(np.asarray(merged.m2), expected["m2"], rtol=1e-5, atol=4 * step * x.size / 3)
    np.testing.assert_allclose(np.asarray(merged.noise), expected["noise"], rtol=1e-5, atol=step)


def test_gradients_are_those_of_the_formulas():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        x = data(1e5, (6, 2, 5))
        exact = x.astype(float)
        n, mean = 30, exact.mean(axis=(0, 2), keepdims=True)

        def of(name):
            return lambda v: getattr(shrinkstats.moments(v), name).sum()

        np.testing.assert_allclose(jax.grad(of("mean"))(x), np.full(x.shape, 1 / n), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(of("m2"))(x), 2 * (exact - mean), rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(jax.jit(jax.grad(of("m2")))(x), 2 * (exact - mean), rtol=1e-3, atol=1e-2)
        means = exact.mean(axis=2, keepdims=True)
        noise = np.broadcast_to(2 * (means - mean) / 5 / 30, x.shape)
        np.testing.assert_allclose(jax.grad(of("noise"))(x), noise, rtol=1e-3, atol=1e-4)
        tangent = np.random.default_rng(0).normal(size=x.shape).astype("float32")
        _, second = jax.jvp(jax.grad(of("m2")), (x,), (tangent,))
        np.testing.assert_allclose(
            second, 2 * (tangent - tangent.mean(axis=(0, 2), keepdims=True)), rtol=1e-4, atol=1e-5
        )


def test_under_vmap():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        stack = np.stack([data(offset, (8, 3, 20)) for offset in OFFSETS])
        noise = jax.vmap(lambda v: shrinkstats.moments(v).noise)(stack)
        expected = [naive_moments(x)["noise"] for x in stack]
        np.testing.assert_allclose(noise, expected, rtol=2e-5)


def test_float32_is_what_a_gpu_would_use():
    torch = pytest.importorskip("torch")
    x = torch.empty(3, device="meta")
    assert _arrays.statistics_dtype(x, torch) == torch.float32
