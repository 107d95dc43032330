"""What a batch says about each channel, in one read of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import device

from shrinkstats import kernels
from shrinkstats._arrays import (
    Array,
    as_real,
    is_numpy,
    is_torch_array,
    namespace,
    statistics_dtype,
    where_it_lies,
    whole_number,
)
from shrinkstats.kernels import generic
from shrinkstats.kernels.layout import outermost
from shrinkstats.values import Moments
from shrinkstats.values import Statistics as Statistics  # whose home this was

BLOCK = 2**20
"""Elements converted, or groups kept, at a time, so that memory does not grow with the data."""


def moments(x: Array | Iterator[Array], *, axis: int = 1, sample_axis: int | None = 0) -> Moments:
    """Count, mean, squared deviations, extremes and sampling noise per channel, in one read of the data.

    Parameters
    ----------
    x : array, or iterator of arrays
        Data of any number of axes; float16, bfloat16, float32 or float64, or integers, which are promoted
        (NumPy's longdouble is rounded to float64).
        NumPy arrays of any strides are read in place, `numpy.memmap` too: memory does not grow with the file.
        Dask arrays may have any chunks. Of an iterator (a generator, ``iter(loader)``) all arrays together.
    axis : int
        The axis of the channels; statistics are over all others.
    sample_axis : int or None
        Slices along it are independent samples (images): the noise of the mean comes from their dispersion.
        None makes every element its own sample.

    Returns
    -------
    Moments
        Vectors of the kind and on the device of `x`: float64 on a CPU, float32 or better elsewhere. An array
        without observations gives what :meth:`Moments.empty` gives. NaN in a channel makes that channel NaN.
        Dask's vectors are deferred: ``dask.compute(m)`` gives the same Moments with NumPy vectors, in one pass
        (one vector computed alone reads all the data).

    Raises
    ------
    ValueError
        If an axis does not exist, both axes are the same, or there are no channels; if an iterator yields nothing, or
        the chunks of a Dask array are of unknown size.
    TypeError
        If the data are not real numbers.

    Notes
    -----
    Variances are computed around a point close to the data, never as a difference of large squares, so data far
    from zero lose nothing. Squares of float32 data (and of PyTorch's bfloat16) are added in float32 over short
    stretches, and these in float64: variances are good to about 1e-6 of themselves. Other data on a CPU are summed in
    float64.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> images = np.random.default_rng(0).normal(5.0, 2.0, size=(8, 3, 16, 16)).astype(np.float32)
    >>> m = shrinkstats.moments(images)
    >>> m
    Moments(3 channels, count=2048, samples=8)
    >>> bool(abs(m.mean - 5).max() < 0.2), m.var().dtype
    (True, dtype('float64'))
    >>> shrinkstats.moments(batch for batch in np.split(images, 4))
    Moments(3 channels, count=2048, samples=8)
    """
    if isinstance(x, Iterator):
        return _of_stream(x, axis, sample_axis)
    with where_it_lies(x):
        return _of_array(x, axis, sample_axis)


def _of_array(x: Array, axis: int, sample_axis: int | None) -> Moments:
    xp = namespace(x=x)
    backend = kernels.backend(x)
    if is_torch_array(x) and backend is not generic:
        whole: Moments = backend.moments(x, *check_axes(x, axis, sample_axis))
        return whole
    if is_numpy(x) and not kernels.supports(x):
        as_real("x", np.empty_like(x, shape=0), xp)  # other than numbers is an error; conversion waits
    elif not kernels.supports(x):
        real = as_real("x", x, xp)
        if real is not x:  # which other passes may read
            return _of_array(real, axis, sample_axis)
    axis, sample_axis = check_axes(x, axis, sample_axis)
    if math.prod(x.shape) == 0:
        blank = Moments.empty(x.shape[axis])
        place = {"dtype": statistics_dtype(x, xp), "device": device(x)}
        return replace(
            blank, **{k: xp.asarray(v, **place) for k, v in vars(blank).items() if isinstance(v, np.ndarray)}
        )
    if is_numpy(x):
        cut, pieces = _cut(x, axis, sample_axis) if x.size > BLOCK else (axis, 1)
        if pieces > 1:
            return _in_blocks(x, axis, sample_axis, cut, pieces)
        x = x if kernels.supports(x) else x.astype(np.float64)
    backend = kernels.backend(x)
    count = math.prod(x.shape) // x.shape[axis]
    if sample_axis is None:
        mean, m2, low, high, _ = backend.moments(x, axis, None)
        return Moments.of_equal_samples(
            count=count, samples=count, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=m2
        )
    mean, m2, low, high, sample_m2 = backend.moments(x, axis, sample_axis)
    samples = x.shape[sample_axis]
    size = 1.0 * (count // samples)  # a graph of PyTorch may leave it open
    return Moments.of_equal_samples(
        count=count, samples=samples, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=size * size * sample_m2
    )


def _of_stream(arrays: Iterator[Array], axis: int, sample_axis: int | None) -> Moments:
    """The moments of all arrays together, one in memory at a time."""
    total = sum(moments(x, axis=axis, sample_axis=sample_axis) for x in arrays)
    if not isinstance(total, Moments):
        raise ValueError(
            "the iterator yielded no array (was it used before?): nothing says how many channels there are"
        )
    return total


def _cut(x: np.ndarray[Any, Any], axis: int, sample_axis: int | None) -> tuple[int, int]:
    """The axis to cut x along, and the number of pieces that keeps memory small."""
    cut = sample_axis
    if cut is None or x.shape[cut] == 1:
        cut = outermost(x, axis)
    if cut is None:  # one element a channel
        return axis, 1
    if not kernels.supports(x):  # each piece is converted
        return cut, min(-(-x.size // BLOCK), x.shape[cut])
    groups = x.shape[axis] * x.shape[cut]  # the kernels keep statistics of each, unless it is a single element
    return cut, 1 if groups == x.size else min(-(-groups // BLOCK), x.shape[cut])


def _in_blocks(x: np.ndarray[Any, Any], axis: int, sample_axis: int | None, cut: int, pieces: int) -> Moments:
    """The sum over pieces along one axis."""
    total = _of_stream(iter(np.array_split(x, pieces, axis=cut)), axis, sample_axis)
    if sample_axis in (None, cut):
        return total
    # The pieces are of one sample.
    weight = float(total.count) * total.count
    nothing = np.zeros_like(total.mean)
    return replace(
        total,
        samples=1,
        sample_weight=weight,
        sample_mean=total.mean,
        sample_m2=nothing,
        equal_samples=True,
    )


def check_axes(x: Array, axis: int, sample_axis: int | None) -> tuple[int, int | None]:
    """Both axes as non-negative numbers."""
    shape = tuple(x.shape)
    if any(isinstance(n, float) for n in shape):
        raise ValueError(f"x has chunks of unknown size (shape {shape}); call x.compute_chunk_sizes() first")

    def resolve(name: str, value: int) -> int:
        index = whole_number(name, value)
        if not -len(shape) <= index < len(shape):
            hint = "; of a vector, say axis=0 if every entry is a channel, or pass x[:, None] if all are of one"
            raise ValueError(f"{name}={value} is out of bounds for x of shape {shape}{hint if len(shape) == 1 else ''}")
        return index % len(shape)

    axis = resolve("axis", axis)
    if sample_axis is not None:
        sample_axis = resolve("sample_axis", sample_axis)
        if sample_axis == axis:
            raise ValueError(f"axis and sample_axis are both {axis}; pass sample_axis=None if there are no samples")
    if shape[axis] == 0:
        raise ValueError(f"x of shape {shape} has no channels along axis {axis}")
    return axis, sample_axis
