"""The compiled passes over NumPy arrays of any layout, against two passes of NumPy in float64."""

import itertools

import numpy as np
import pytest
from naive import moments as naive_moments

import shrinkstats
from shrinkstats.estimators import BatchStatistics
from shrinkstats.kernels import compiled, cpu, layout

pytestmark = pytest.mark.core


def random(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, size=shape).astype(dtype)


def naive_affine(x, axis, m):
    wide = np.moveaxis(x.astype(np.float64), axis, -1)
    return np.moveaxis((wide - m["mean"]) / np.sqrt(m["var"] + 1e-5), -1, axis)


def check(x, axis, sample_axis=None, *, affine=True):
    """Moments, and the affine pass through normalize, of x as it lies in memory."""
    expected = naive_moments(x, axis, sample_axis)
    m = shrinkstats.moments(x, axis=axis, sample_axis=sample_axis)
    single = x.dtype.itemsize <= 4 and x.dtype.kind == "f"
    tolerance = 5e-6 if single else 1e-12
    assert (m.count, m.samples) == (expected["count"], expected["samples"])
    for name in ("mean", "m2", "noise"):
        np.testing.assert_allclose(
            getattr(m, name), expected[name], rtol=tolerance, atol=tolerance, equal_nan=True, err_msg=name
        )
    np.testing.assert_array_equal(m.minimum, expected["minimum"])
    np.testing.assert_array_equal(m.maximum, expected["maximum"])
    if affine:
        y = shrinkstats.normalize(x, BatchStatistics(), axis=axis)
        assert y.shape == x.shape
        np.testing.assert_allclose(
            y, naive_affine(x, axis, expected), rtol=1e-5 if single else 1e-10, atol=1e-5 if single else 1e-10
        )


def every_axis(ndim):
    for axis in range(ndim):
        for sample_axis in (None, *range(ndim)):
            if sample_axis != axis:
                yield axis, sample_axis


@pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_axis_of_every_rank(ndim, dtype):
    x = random((4, 3, 5, 2, 3, 2)[:ndim], dtype)
    for order in ("C", "F"):
        for axis, sample_axis in every_axis(ndim):
            check(np.asarray(x, order=order), axis, sample_axis)
            check(np.asarray(x, order=order), axis - ndim, sample_axis)


def test_every_order_of_axes_in_memory():
    x = random((4, 3, 5, 2))
    for order in itertools.permutations(range(4)):
        lying = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        for axis, sample_axis in every_axis(4):
            check(lying, axis, sample_axis)


def strided():
    big = random((8, 9, 10, 11))
    pairs = np.zeros((6, 5, 7), dtype=[("a", "i1"), ("b", "f4"), ("c", "f8")])  # b starts at byte 1: unaligned
    pairs["b"], pairs["c"] = random((6, 5, 7)), random((6, 5, 7), "float64", seed=1)
    even = np.zeros((6, 5, 7), dtype=[("b", "f4"), ("c", "f4")])
    even["b"] = random((6, 5, 7))
    return {
        "a slice of each axis": big[1:7:2, 2:8:3, ::4, 1::2],
        "backwards": big[::-1, ::-1, ::-1, ::-1],
        "backwards, some axes": big[:, ::-2, 3:, ::-3],
        "channels-last, backwards": np.moveaxis(random((6, 7, 5)), -1, 1)[::-1, ::-1],
        "channels-last, a slice of the channels": np.moveaxis(random((6, 7, 20)), -1, 1)[:, 3:17:2],
        "broadcast samples": np.broadcast_to(random((5, 7)), (6, 5, 7)),
        "broadcast channels": np.broadcast_to(random((6, 1, 7)), (6, 5, 7)),
        "broadcast inside": np.broadcast_to(random((6, 5, 1)), (6, 5, 7)),
        "broadcast inside, several values a channel": np.broadcast_to(random((4, 3, 5, 1)), (4, 3, 5, 6)),
        "one number": np.broadcast_to(np.float32(2.0), (6, 5, 7)),
        "overlapping windows": np.lib.stride_tricks.sliding_window_view(random((6, 20)), 5, axis=1),
        "unaligned field": pairs["b"],
        "field of an odd step": pairs["c"],
        "field of an even step": even["b"],
        "a size of one with any stride": np.lib.stride_tricks.as_strided(random((6, 5, 7)), (6, 5, 1), (140, 28, 12)),
    }


@pytest.mark.parametrize("name", strided())
def test_strides(name):
    x = strided()[name]
    for axis, sample_axis in every_axis(x.ndim):
        check(x, axis, sample_axis)


@pytest.mark.parametrize("name", ["C", "F", "channels-last", "a slice of each axis", "backwards", "broadcast samples"])
def test_no_copy(name, monkeypatch):
    """Whole element strides are read in place: the kernels see the memory that came in."""
    x = {"C": random((8, 5, 7)), "F": np.asfortranarray(random((8, 5, 7))),
         "channels-last": np.moveaxis(random((8, 7, 5)), -1, 1)}.get(name)  # fmt: skip
    x = strided()[name] if x is None else x
    seen = []
    for module in (cpu, compiled):
        monkeypatch.setattr(module, "flat", lambda v: seen.append(layout.flat(v)) or seen[-1])
    shrinkstats.moments(x)
    shrinkstats.normalize(x, BatchStatistics())
    assert len(seen) == 4  # moments; moments, input and output of normalize
    for memory, _ in seen[:3]:
        assert np.shares_memory(memory, x)


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "f2", "f4", "f8", ">f4", ">f8", ">i4", ">u2"]
)
def test_dtypes(dtype):
    x = np.random.default_rng(0).integers(0, 100, size=(6, 5, 7)).astype(dtype)
    layouts = [x, np.asfortranarray(x)]
    if dtype in ("i1", "u1", "i8", "f4", "f8"):  # each type is compiled anew, which takes seconds
        layouts.append(np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1))
    for lying in layouts:
        expected = naive_moments(x)
        m = shrinkstats.moments(lying)
        np.testing.assert_allclose(m.mean, expected["mean"], rtol=1e-6)
        np.testing.assert_allclose(m.m2, expected["m2"], rtol=1e-6)
        np.testing.assert_array_equal(m.maximum, expected["maximum"])
        y = shrinkstats.normalize(lying, BatchStatistics())
        assert y.dtype == (x.dtype if x.dtype.kind == "f" else np.float64)
        step = 2e-3 if dtype == "f2" else 1e-5
        np.testing.assert_allclose(y, naive_affine(x, 1, expected), rtol=step, atol=step)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_integers_near_the_end_of_their_range(dtype):
    x = np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max], [np.iinfo(dtype).max, np.iinfo(dtype).min]], dtype)
    wide = x.astype(np.float64)
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(m.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(m.var(), wide.var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 2047, 2048, 2049, 4097, 6151])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lengths_of_a_run(length, dtype):
    check(random((2, 3, length), dtype), 1, 0)
    check(np.moveaxis(random((2, length, 3), dtype), -1, 1), 1, 0)


@pytest.mark.parametrize("channels", [1, 2, 3, 16, 64, 255, 256, 257, 511, 512, 513, 1000, 1025])
def test_channels_last(channels):
    for samples, length in [(1, 1), (1, 40), (3, 1), (3, 37), (40, 5)]:
        x = random((samples, length, channels))
        for lying in (np.moveaxis(x, -1, 1), np.moveaxis(x[:, ::2], -1, 1)):
            check(lying, 1, 0)
            check(lying, 1, None)


@pytest.mark.parametrize("channels", [1, 3, 64, 513])
def test_channels_last_of_more_than_a_segment(channels):
    length = 2048 * (2 if channels > 64 else 512 // channels) + 13
    check(random((1, length, channels)), 2, 0)


@pytest.mark.parametrize("order", ["C", "F", "channels-last", "backwards", "slice"])
def test_output_keeps_the_order_of_memory(order):
    x = random((6, 5, 4, 7))
    x = {"C": x, "F": np.asfortranarray(x), "channels-last": np.moveaxis(random((6, 4, 7, 5)), -1, 1),
         "backwards": x[:, ::-1, ::-1], "slice": np.moveaxis(x, 1, -1)[:, ::2]}[order]  # fmt: skip
    y = shrinkstats.normalize(x, BatchStatistics())
    assert np.argsort(np.abs(y.strides)).tolist() == np.argsort(np.abs(x.strides)).tolist()
    assert y.flags.writeable
    assert not np.shares_memory(x, y)


def test_input_is_left_as_it_was():
    x = random((6, 5, 7))
    before = x.copy()
    x.flags.writeable = False
    check(x, 1, 0)
    check(x[:, ::-1], 1, 0)
    np.testing.assert_array_equal(x, before)


def test_a_subclass_of_ndarray_is_read_as_an_array():
    class Named(np.ndarray):
        pass

    x = random((6, 5, 7))
    np.testing.assert_array_equal(shrinkstats.moments(x.view(Named)).mean, shrinkstats.moments(x).mean)
