"""Long runs cut into blocks for the threads, and channels that are looked at again: against two passes of NumPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shrinkstats
from shrinkstats.kernels import compiled, cpu, threads

pytestmark = pytest.mark.core

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")


def random(*shape, dtype="float32"):
    return np.random.default_rng(0).normal(3.0, 2.0, size=shape).astype(dtype)


def naive(x):
    """Of a table, by two passes in float64."""
    x = x.astype(np.float64)
    n = len(x)
    mean = x.mean(axis=0)
    m2 = ((x - mean) ** 2).sum(axis=0)
    return {"mean": mean, "m2": m2, "minimum": x.min(axis=0), "maximum": x.max(axis=0), "noise": m2 / (n * (n - 1))}


def check(m, expected, tolerance=3e-6):
    for name in VECTORS:
        np.testing.assert_allclose(getattr(m, name), expected[name], rtol=tolerance, err_msg=name)


@pytest.fixture
def cut(monkeypatch):
    """Small tables are cut too."""
    monkeypatch.setattr(threads, "WORTHWHILE", 0)


@pytest.fixture
def shared(monkeypatch):
    """Into how many items the passes divide their work."""
    seen, share = [], threads.share
    monkeypatch.setattr(threads, "share", lambda task, items, size: seen.append(items) or share(task, items, size))
    return seen


ROWS = compiled.SEGMENT
ORDERS = {
    "C": lambda x: x,
    "F": np.asfortranarray,
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "a slice": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", [ROWS, 2 * ROWS - 1, 2 * ROWS, 2 * ROWS + 1, 3 * ROWS + 700])
@pytest.mark.parametrize("channels", [1, 3, 40, 513])
def test_any_number_of_rows(rows, channels, order, cut):
    x = random(rows, channels)
    check(shrinkstats.moments(ORDERS[order](x)), naive(x))


def test_exact_in_double_precision(cut):
    x = random(3 * ROWS + 700, 5, dtype="float64") + 1e6
    check(shrinkstats.moments(x), naive(x), 1e-11)


LARGE = {  # arrays of 4 MB and more: the channels' axis, and theirs as (rows, channels)
    "a table": ((11_000, 100), 1),
    "a table of a few long columns, Fortran order": ((2, 600_000), 0),
    "one column": ((1_200_000, 1), 1),
    "one row": ((1, 1_200_000), 0),
    "wide": ((50, 22_000), 1),
    "one image of one channel": ((1, 1, 1000, 1100), 1),
    "one image, channels last": ((1, 600, 600, 3), 3),
    "every element a sample, channels last": ((20, 150, 150, 3), 3),
}


@pytest.mark.parametrize("name", LARGE)
def test_threads_share_it_and_leave_no_trace(name, shared):
    shape, axis = LARGE[name]
    x = random(*shape)
    sample_axis = None if "every" in name else 1 if axis == 0 else 0
    results = []
    try:
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            results.append(shrinkstats.moments(x, axis=axis, sample_axis=sample_axis))
    finally:
        threads.set_num_threads(None)
    assert shared[0] >= 16
    for m in results[1:]:
        for field in (*VECTORS, "sample_m2"):
            np.testing.assert_array_equal(getattr(m, field), getattr(results[0], field), err_msg=field)
    m, flat = results[0], np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    expected = naive(flat)
    if m.samples == 1:
        np.testing.assert_array_equal(m.sample_m2, 0)
    check(m, expected)


@pytest.mark.parametrize("at", [0, 5, ROWS, 3 * ROWS - 1, 3 * ROWS + 699])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_any_block(at, value, cut):
    x = random(3 * ROWS + 700, 3)
    clean = shrinkstats.moments(x)
    x[at, 1] = value
    m = shrinkstats.moments(x)
    np.testing.assert_array_equal(m.mean, [clean.mean[0], value, clean.mean[2]])
    assert np.isnan(m.m2[1])
    assert value in (m.minimum[1], m.maximum[1]) if np.isinf(value) else np.isnan(m.minimum[1])
    np.testing.assert_array_equal(m.m2[[0, 2]], clean.m2[[0, 2]])


@pytest.mark.parametrize("value", [0.1, -1e30, 1e-40])
def test_a_constant_is_exact(value, cut):
    x = np.full((3 * ROWS + 700, 3), value, "float32")
    m = shrinkstats.moments(x)
    np.testing.assert_array_equal(m.mean, x[0])
    np.testing.assert_array_equal(m.m2, 0)


# --- looked at again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@given(st.data())
def test_channels_that_are_looked_at_again_and_their_neighbours(order, data):
    """Leading rows far away, squares out of range, not numbers: in some channels of wide and of narrow tables."""
    channels = data.draw(st.sampled_from([1, 3, 7, 127, 128, 129, 200, 515]))
    x = random(data.draw(st.sampled_from([3, 4, 9, 50])), channels)
    clean = shrinkstats.moments(ORDERS[order](x))
    some = st.lists(st.integers(0, channels - 1), max_size=3)
    far, tiny, nan = (data.draw(some) for _ in range(3))
    x[:2, far] = 1e5
    x[:, tiny] *= np.float32(1e-25)
    x[-1, nan] = np.nan
    m = shrinkstats.moments(ORDERS[order](x))
    check(m, naive(x), 1e-5)
    others = np.setdiff1d(np.arange(channels), [*far, *tiny, *nan])
    for name in VECTORS:
        np.testing.assert_array_equal(getattr(m, name)[others], getattr(clean, name)[others], err_msg=name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [3, 200])
def test_images_with_a_border(order, channels):
    """The leading elements are the border's, for every channel."""
    images = np.random.default_rng(0).integers(100, 120, size=(40 * 40, channels)).astype("uint8")
    images[:120] = 0
    check(shrinkstats.moments(ORDERS[order](images)), naive(images), 1e-12)


def test_squares_that_vanish_are_no_constant():
    """Half of 1e-30 above zero, half below: sums and squares of single precision are 0, and the variance is not."""
    x = np.zeros((50, 3), "float32")
    x[20], x[30] = 1e-30, -1e-30
    np.testing.assert_allclose(shrinkstats.moments(x).m2, 2e-60, rtol=1e-6)


def test_groups_without_extremes():
    """What layers ask for: constant and distant channels among others, in both orders of memory."""
    x = random(4, 6, 50)
    x[:, 1], x[:, 2, :3], x[1, 4, 7] = 0.25, 1e5, np.nan
    expected = x.astype(np.float64)
    for lying, extremes in itertools.product((x, np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)), (False, True)):
        groups = cpu.group_moments(lying, 1, 0, extremes=extremes)
        np.testing.assert_allclose(groups.mean, expected.mean(axis=2), rtol=1e-5)
        np.testing.assert_allclose(groups.m2, expected.var(axis=2) * 50, rtol=1e-5)
        assert groups.low.shape == ((4, 6) if extremes else (0, 6))
