"""The passes over arrays of any steps (none, backwards, with gaps, in any order), against NumPy on a plain copy.

Every axis gets every kind of step, in every array of a pass, and the arrays of one pass have different ones. With guard
pages (`make bounds`) who reads or writes beyond an array ends the process.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from places import Place

import shrinkstats
from shrinkstats.kernels import cpu, layout, threads

pytestmark = pytest.mark.core

SHAPE = (3, 4, 2, 5)
KINDS = ("next", "none", "back", "gap")
EVERY_KIND = list(itertools.product(KINDS, repeat=4))
ORDERS = {"C": (0, 1, 2, 3), "channels last": (0, 2, 3, 1), "F": (3, 2, 1, 0), "channels outermost": (1, 3, 0, 2)}


def lying(kinds, order, dtype, seed, at_end=True, shape=SHAPE):
    """A random array whose axes have these kinds of steps, outermost first in memory as `order` says."""
    sizes = [{"none": 1, "gap": 3 * n - 2}.get(kind, n) for n, kind in zip(shape, kinds, strict=True)]
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 200, [sizes[i] for i in order]) if dtype == "uint8" else rng.normal(1, 2, sizes)
    values = values.reshape([sizes[i] for i in order]).astype(dtype)
    x = Place(at_end=at_end)(values).transpose(np.argsort(order))
    x = x[tuple({"back": slice(None, None, -1), "gap": slice(None, None, 3)}.get(kind, slice(None)) for kind in kinds)]
    steps = [0 if kind == "none" else step for kind, step in zip(kinds, x.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(x, shape, steps)  # broadcast_to's are read-only, and compiled for anew


def writable(kinds, order, dtype, at_end=True):
    """Room for a result: a step of none has no place there."""
    return lying([{"none": "gap"}.get(kind, kind) for kind in kinds], order, dtype, 9, at_end)


def along(v):
    return v[:, None, None]


def plain_moments(x, sample_axis):
    x = x.astype(np.float64)
    others = (0, 2, 3)
    mean = x.mean(axis=others)
    m2 = ((x - along(mean)) ** 2).sum(axis=others)
    if sample_axis is None:
        between = m2
    else:
        means = x.mean(axis=tuple(i for i in others if i != sample_axis))
        means = means if sample_axis == 0 else means.T
        between = ((means - mean) ** 2).sum(axis=0)
    return mean, m2, x.min(axis=others), x.max(axis=others), between


def close(found, expected, dtype, err_msg=""):
    tolerance = 2e-5 if dtype == "float32" else 1e-11
    scale = max(1.0, float(np.max(np.abs(expected)))) if np.size(expected) else 1.0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=str(err_msg))


@pytest.fixture(params=["one thread", "three threads"])
def shared(request, monkeypatch):
    """Small arrays are shared between threads too."""
    monkeypatch.setattr(threads, "WORTHWHILE", 0 if request.param == "three threads" else 2**40)
    threads.set_num_threads(3)
    yield
    threads.set_num_threads(None)


def cases(shared_order):
    """Every kind of step on every axis, in every order of memory; the other arrays of a pass are the odd ones."""
    for i, kinds in enumerate(EVERY_KIND):
        others = EVERY_KIND[(i * 37 + 11) % len(EVERY_KIND)]
        for order, axes in ORDERS.items():
            wanted = SimpleNamespace(kinds=kinds, order=axes, name=(kinds, order), at_end=i % 2 == 0, other=others)
            wanted.other_order = axes if shared_order else ORDERS["C"]
            if not shared_order or i % 3 == 0:
                yield wanted


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.long), "uint8"])
def test_moments_and_affine(dtype, shared):
    rng = np.random.default_rng(0)
    pivot, a, b = rng.normal(size=(3, SHAPE[1]))
    for case in cases(False):
        x = lying(case.kinds, case.order, dtype, 1, case.at_end)
        plain = np.array(x, order="C")
        for sample_axis in (None, 0, 3):
            for found, expected in zip(cpu.moments(x, 1, sample_axis), plain_moments(plain, sample_axis), strict=True):
                close(found, expected, dtype, (*case.name, sample_axis))
        y = cpu.affine(x, 1, pivot, a, b)
        expected = (plain - along(pivot)) * along(a) + along(b)
        close(y, expected, dtype, case.name)
        if dtype != "uint8":
            out = writable(case.other, case.other_order, dtype, case.at_end)
            close(cpu.affine(x, 1, pivot, a, b, out), expected, dtype, case.name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("same_order", [False, True])
def test_gradients(dtype, same_order, shared):
    rng = np.random.default_rng(0)
    mean, a, b = rng.normal(size=(3, SHAPE[1]))
    d = rng.normal(size=SHAPE[:2])
    for case in cases(same_order):
        x = lying(case.kinds, case.order, dtype, 1, case.at_end)
        g = lying(case.other, case.other_order, dtype, 2, case.at_end)
        wide_x, wide_g = np.array(x, np.float64, order="C"), np.array(g, np.float64, order="C")
        total, product = cpu.reduce_grad(g, x, 1, mean)
        close(total, wide_g.sum(axis=(0, 2, 3)), dtype, case.name)
        close(product, (wide_g * (wide_x - along(mean))).sum(axis=(0, 2, 3)), dtype, case.name)
        out = writable(case.other[::-1], case.order, dtype, case.at_end)
        for rows in (d, d[:1]):
            expected = along(a) * wide_g + along(b) * (wide_x - along(mean)) + rows[:, :, None, None]
            close(cpu.combine(g, x, 1, mean, a, b, rows, out), expected, dtype, case.name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extremes(dtype, shared):
    at_low, at_high = np.random.default_rng(0).normal(size=(2, SHAPE[1]))
    for case in cases(True):
        x = lying(case.kinds, case.order, dtype, 1, case.at_end)
        plain = np.array(x, np.float64, order="C")
        low, high = plain.min(axis=(0, 2, 3)), plain.max(axis=(0, 2, 3))
        for found, end in zip(cpu.count_extremes(x, 1, low, high), (low, high), strict=True):
            np.testing.assert_array_equal(found, (plain == along(end)).sum(axis=(0, 2, 3)), err_msg=str(case.name))
        out = writable(case.other, case.other_order, dtype, case.at_end)
        expected = out.copy() + (plain == along(low)) * along(at_low) + (plain == along(high)) * along(at_high)
        cpu.add_at_extremes(x, 1, low, high, at_low, at_high, out)
        close(out, expected, dtype, case.name)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_that_overlap(axis):
    """Every element is seen several times; neighbours of a run, or of the channels, are one element apart."""
    values = np.random.default_rng(0).normal(size=(6, 20))
    for x in (
        np.lib.stride_tricks.sliding_window_view(values, 5, axis=1, writeable=True),
        np.lib.stride_tricks.sliding_window_view(values, 5, axis=1, writeable=True)[:, ::-2],
        np.lib.stride_tricks.sliding_window_view(values, 5, axis=1, writeable=True).transpose(2, 0, 1),
    ):
        wide = np.moveaxis(np.array(x), axis, 0).reshape(x.shape[axis], -1)
        mean, m2, low, high, _ = cpu.moments(x, axis, None)
        np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(m2, wide.var(axis=1) * wide.shape[1], rtol=1e-12)
        np.testing.assert_array_equal((low, high), (wide.min(axis=1), wide.max(axis=1)))


@pytest.mark.parametrize("outlier", [1e30, np.nan, np.inf])
def test_a_second_look_at_a_step_of_none(outlier):
    """Sums that have lost their digits are taken again; there a step of none is walked as often, too."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 1)).astype(np.float32)
    x[0, 0, 0] = outlier
    x = np.broadcast_to(x, (2, 3, 5, 7))
    with np.errstate(invalid="ignore"):
        for found, expected in zip(cpu.moments(x, 1, 0), plain_moments(np.array(x), 0), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_many_short_rows_cost_no_list():
    """What describes a layout does not grow with it (it is kept, too)."""
    n = 10**6
    grid = layout.layout((n, 3, 2, 4), ((100, 10, 4, 2),), 1, None)
    assert grid.runs * grid.length == 8 * n
    assert grid.walks[0].rows.size < 10
    x = np.random.default_rng(0).normal(size=(50_000, 3, 3, 4))[:, :, ::2, ::2]
    m = shrinkstats.moments(x, sample_axis=None)
    np.testing.assert_allclose(m.mean, x.mean(axis=(0, 2, 3)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(m.var(), x.var(axis=(0, 2, 3)), rtol=1e-12)
