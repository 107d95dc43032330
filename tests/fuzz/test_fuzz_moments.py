"""Moments of arrays of any library, layout and values, whole and in parts, against naive formulas."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import assume
from hypothesis import strategies as st
from laying import BROKEN, EXTREME, FINITE, INTEGERS, arrays
from libraries import as_library, host, widths
from oracle import check_moments, moments

import shrinkstats

NUMPY = ("float32", "float64", "float16")
LIBRARIES = ("jax", "jax x64", "array_api_strict", "dask")


def axes(draw, laid):
    """The axis of samples: any other, or none."""
    return draw(st.sampled_from([None, *(i for i in range(len(laid.shape)) if i != laid.axis)]))


def compare(data, library, laid, sample_axis):
    x, context = as_library(library, laid, data)
    with context, np.errstate(all="ignore"):
        ours = shrinkstats.moments(x, axis=laid.axis, sample_axis=sample_axis)
        plain, dtype = laid.plain(), laid.dtype
        if (library in ("torch", "jax") and dtype in INTEGERS) or library == "jax":  # what these libraries promote to
            plain, dtype = plain.astype(np.float32).astype(np.float64), "float32"
        right = moments(plain, laid.axis, sample_axis, widths(library), dtype)
        check_moments(ours, right, host, widths(library))


@fuzz(6, data=st.data(), laid=arrays(dtypes=(*NUMPY, *INTEGERS), values=FINITE + EXTREME + BROKEN))
def test_numpy(data, laid):
    compare(data, "numpy", laid, axes(data.draw, laid))


@fuzz(
    3,
    data=st.data(),
    laid=arrays(
        dtypes=(*NUMPY, "bfloat16", "uint8", "int64", "bool"), values=FINITE + EXTREME + BROKEN, negative=False
    ),
)
def test_torch(data, laid):
    pytest.importorskip("torch")
    compare(data, "torch", laid, axes(data.draw, laid))


FEW = [(4, 3), (3, 4, 5), (2, 3, 5, 2), (1, 5, 7, 3)]
"""Shapes for libraries that compile for each."""
FAR = ("far",) * 6
"""Where statistics in single precision lose their digits."""


@fuzz(0.4, data=st.data(), laid=arrays(values=FINITE + BROKEN + FAR, axis=1, shapes=FEW))
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries(library, data, laid):
    compare(data, library, laid, data.draw(st.sampled_from([0, None])))


@fuzz(0.25, data=st.data(), laid=arrays(values=EXTREME, axis=1, shapes=FEW))
@pytest.mark.parametrize("library", ["jax x64", "array_api_strict", "dask"])
def test_squares_out_of_the_range_of_single_precision(library, data, laid):
    if library == "jax x64" and laid.values == "tiny":
        return  # which XLA takes for zero
    compare(data, library, laid, data.draw(st.sampled_from([0, None])))


@fuzz(1, data=st.data(), laid=arrays(dtypes=("float64",), values=("end",), axis=1, shapes=FEW))
@pytest.mark.parametrize("library", ["numpy", "torch", *LIBRARIES])
def test_the_end_of_the_range(library, data, laid):
    """The mean fits where the sum does not."""
    laid = replace(laid, strides=tuple(map(abs, laid.strides)), dtype=widths(library))
    compare(data, library, laid, data.draw(st.sampled_from([0, None])))


@fuzz(2, data=st.data(), laid=arrays(values=("end",), ndim=(1, 4)))
def test_parts_at_the_end_of_the_range_add_up(data, laid):
    add_up(data, laid)


@fuzz(3, data=st.data(), laid=arrays(dtypes=NUMPY, values=FINITE + EXTREME + BROKEN, ndim=(1, 4)))
def test_parts_add_up(data, laid):
    """In any order and grouping, with nothing between, through files and iterators."""
    add_up(data, laid)


def add_up(data, laid):
    sample_axis = axes(data.draw, laid)
    cut = sample_axis
    if cut is None:
        others = [i for i in range(len(laid.shape)) if i != laid.axis]
        assume(others)
        cut = data.draw(st.sampled_from(others))
    x = laid.numpy()
    n = x.shape[cut]
    ends = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=4))})
    pieces = [np.take(x, range(a, b), cut) for a, b in itertools.pairwise(ends)]
    parts = [shrinkstats.moments(p, axis=laid.axis, sample_axis=sample_axis) for p in pieces]
    parts = data.draw(
        st.permutations([*parts, *[shrinkstats.Moments.empty(laid.channels)] * data.draw(st.integers(0, 2))])
    )
    if data.draw(st.booleans()):
        parts[0] = through_a_file(parts[0])
    with np.errstate(all="ignore"):
        while len(parts) > 1:
            i = data.draw(st.integers(0, len(parts) - 2))
            a, b = parts[i : i + 2]
            there, back = a + b, b + a
            for name in ("mean", "m2", "noise"):  # commutative up to rounding: what is not finite is the same at least
                np.testing.assert_array_equal(
                    np.isnan(getattr(there, name)), np.isnan(getattr(back, name)), err_msg=name
                )
            parts[i : i + 2] = [data.draw(st.sampled_from([there, back]))]
        right = moments(laid.plain(), laid.axis, sample_axis, data_dtype=laid.dtype)
        check_moments(parts[0], right)
        stream = shrinkstats.moments(iter(pieces), axis=laid.axis, sample_axis=sample_axis)
        check_moments(stream, right)
        check_moments(sum([stream]), right)


def through_a_file(m):
    with tempfile.TemporaryDirectory() as folder:
        m.save(Path(folder, "moments.npz"))
        return shrinkstats.Moments.load(Path(folder, "moments.npz"))


@fuzz(1, data=st.data(), laid=arrays(values=FINITE + BROKEN, ndim=(2, 4), axis=1))
def test_samples_of_different_sizes(data, laid):
    """Images of two sizes: the noise is that of their means, each weighted by the square of its size."""
    small = replace(laid, shape=(*laid.shape[:2], *(1 for _ in laid.shape[2:])), seed=laid.seed + 1)
    both = [laid, small]
    ours = sum(shrinkstats.moments(p.numpy()) for p in data.draw(st.permutations(both)))
    images = [image.reshape(laid.channels, -1) for p in both for image in p.plain()]
    joined = np.concatenate(images, axis=1)[None]
    right = moments(joined, 1, 0, data_dtype=laid.dtype)
    finite = np.isfinite(joined).all(axis=(0, 2))
    with np.errstate(all="ignore"):
        mean = joined.mean(axis=(0, 2))
        squares = sum((image.shape[1] * (image.mean(axis=1) - mean)) ** 2 for image in images)
        s, n = len(images), joined.shape[2]
        noise = np.where(finite, squares * s / (s - 1) / n / n, np.nan)
        size = np.abs(joined).max(axis=(0, 2))
        spread = joined.max(axis=(0, 2)) - joined.min(axis=(0, 2))
        delta = 16 * (2.0**-23 if laid.dtype == "float32" else 2.0**-52) * spread + 32 * 2.0**-52 * size
        tolerance = 4 * (np.sqrt(noise) * delta + delta**2) * s
    right |= {"samples": s, "noise": (noise, np.where(finite, tolerance, 0))}
    check_moments(ours, right)
