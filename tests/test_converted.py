"""Types that no kernel is compiled for, piece by piece: half precision and integers, against NumPy in float64."""

import numpy as np
import pytest

import shrinkstats
from shrinkstats.estimators import BatchStatistics
from shrinkstats.kernels import converted, cpu, threads

pytestmark = pytest.mark.core

DTYPES = ["float16", "bfloat16", "int8", "int16", "uint16", "int32", "int64", "uint64", ">f4", ">i2"]
SHAPES = {  # and the axis of the samples
    "images": ((6, 3, 4, 5), 0), "one image": ((1, 3, 20, 9), 0), "no samples": ((6, 3, 4, 5), None),
    "a table": ((200, 3), 0), "few samples": ((2, 3, 40, 7), 0), "samples inside": ((4, 3, 10, 9), 3),
    "one number a channel": ((1, 3), 0),
}  # fmt: skip
ORDERS = {
    "C": lambda x: x,
    "F": np.asfortranarray,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "repeated": lambda x: np.broadcast_to(x[:1], x.shape),
}


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes, for bfloat16, is not installed").bfloat16)
    return np.dtype(name)


def random(shape, name, seed=0):
    x = np.random.default_rng(seed).normal(20, 9, size=shape)
    return (np.abs(x) if "u" in name else x).astype(dtype_of(name))


def along(v, x):
    return v.reshape(-1, *[1] * (x.ndim - 2))


@pytest.fixture(params=["whole", "cut", "cut, three threads"])
def cut(request, monkeypatch):
    """Small arrays are cut into pieces of a few elements, and these again."""
    monkeypatch.setattr(converted, "PIECE", 2**20 if request.param == "whole" else 8)
    monkeypatch.setattr(threads, "WORTHWHILE", 0 if "three" in request.param else 2**40)
    threads.set_num_threads(3)
    yield
    threads.set_num_threads(None)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_moments(name, shape, cut):
    sizes, sample_axis = SHAPES[shape]
    for order in ORDERS.values():
        x = order(random(sizes, name))
        wide = x.astype(np.float64)
        others = tuple(i for i in range(x.ndim) if i != 1)
        tolerance = 1e-5 if converted.work_type(x) is np.float32 else 1e-12
        m = shrinkstats.moments(x, sample_axis=sample_axis)
        assert m.mean.dtype == m.m2.dtype == m.minimum.dtype == np.float64
        expected = shrinkstats.moments(wide, sample_axis=sample_axis)  # for the noise
        np.testing.assert_allclose(m.mean, wide.mean(axis=others), rtol=tolerance)
        np.testing.assert_allclose(m.var(), wide.var(axis=others), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(m.minimum, wide.min(axis=others))
        np.testing.assert_array_equal(m.maximum, wide.max(axis=others))
        np.testing.assert_allclose(m.sample_m2, expected.sample_m2, rtol=10 * tolerance, atol=1e-3 * tolerance)


@pytest.mark.parametrize("name", DTYPES)
def test_affine_and_gradients(name, cut):
    dtype = dtype_of(name)
    mean, a, b = np.random.default_rng(1).normal(size=(3, 3))
    for order in ORDERS.values():
        x, g = order(random((6, 3, 4, 5), name)), random((6, 3, 4, 5), name, seed=1)
        wide_x, wide_g = x.astype(np.float64), g.astype(np.float64)
        y = cpu.affine(x, 1, mean, a, b)
        assert y.dtype == (dtype if dtype.kind in "fV" else np.float64)
        step = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(name, 1e-5)
        np.testing.assert_allclose(
            y.astype(np.float64), (wide_x - along(mean, x)) * along(a, x) + along(b, x), rtol=step, atol=10 * step
        )
        total, product = cpu.reduce_grad(g, x, 1, mean)
        np.testing.assert_allclose(total, wide_g.sum(axis=(0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(product, (wide_g * (wide_x - along(mean, x))).sum(axis=(0, 2, 3)), rtol=1e-5)
        for d in np.random.default_rng(2).normal(size=(6, 3)), np.random.default_rng(3).normal(size=(1, 3)):
            out = np.empty_like(x, dtype=y.dtype)
            assert cpu.combine(g, x, 1, mean, a, b, d, out) is out
            expected = wide_g * along(a, x) + (wide_x - along(mean, x)) * along(b, x) + d[:, :, None, None]
            np.testing.assert_allclose(out.astype(np.float64), expected, rtol=step, atol=20 * step)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int16"])
def test_normalize(name, cut):
    x = random((6, 3, 4, 5), name)
    y = shrinkstats.normalize(x, BatchStatistics())
    assert y.dtype == (np.float64 if name == "int16" else dtype_of(name))
    expected = shrinkstats.normalize(x.astype(np.float64), BatchStatistics())
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=1e-2, atol=1e-2)


def test_what_is_not_finite_or_too_large_passes_through(cut):
    x = random((6, 3, 4, 5), "float16")
    x[2, 0, 1, 1], x[3, 1, 0, 0] = np.nan, np.inf
    m = shrinkstats.moments(x)
    assert np.isnan([m.mean[0], m.m2[0], m.m2[1], m.minimum[0]]).all()
    assert m.mean[1] == m.maximum[1] == np.inf
    assert np.isfinite([m.mean[2], m.m2[2]]).all()
    y = cpu.affine(x, 1, np.zeros(3), np.full(3, 1e4), np.zeros(3))
    assert np.isinf(y[:, 2]).any()


@pytest.mark.parametrize("name", ["float16", "int32"])
def test_bits_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    monkeypatch.setattr(converted, "PIECE", 100)
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    x, found = random((40, 3, 9, 9), name), []
    try:
        for count in (1, 2, 5):
            threads.set_num_threads(count)
            found.append([v.tobytes() for v in cpu.moments(x, 1, 0)])
    finally:
        threads.set_num_threads(None)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("shape", "order"), [((70, 5000), "C"), ((70, 5000), "F"), ((3, 5000, 40), "C"), ((2, 200_000), "C")]
)
def test_more_channels_than_a_piece_holds(shape, order):
    rng = np.random.default_rng(0)
    x = np.asarray(rng.integers(-99, 99, shape), dtype="int16", order=order)
    found, right = shrinkstats.moments(x), shrinkstats.moments(x.astype("float64"))
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=1e-11, atol=1e-11)
    g = rng.normal(size=shape).astype("float32")
    sums = zip(
        cpu.reduce_grad(g, x, 1, right.mean),
        cpu.reduce_grad(g.astype("float64"), x.astype("float64"), 1, right.mean),
        strict=True,
    )
    for ours, theirs in sums:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-6)
