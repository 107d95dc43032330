"""What a batch says about each channel: counts, means, squared deviations and extremes, as a mergeable value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device, is_cupy_array, is_dask_array

from shrinkstats import _moments_file, kernels
from shrinkstats._arrays import (
    Array,
    Namespace,
    as_constant,
    as_real,
    check_channels,
    is_numpy,
    is_torch_array,
    leaves_open,
    namespace,
    nonnegative,
    statistics_dtype,
    where_it_lies,
    whole_number,
)
from shrinkstats.kernels import generic
from shrinkstats.kernels.layout import outermost

BLOCK = 2**20
"""Elements converted, or groups kept, at a time, so that memory does not grow with the data."""

MANY = 2.0**60
"""A unit for weights of samples, more than a sample has observations: in it sums are in range where `m2` is."""


class Statistics(NamedTuple):
    """A mean and a variance per channel.

    Attributes
    ----------
    mean, var : array of shape (..., c)
        The vectors of channels. Variances are what normalizes: ddof=0 where they come from data.
    """

    mean: Array
    var: Array


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of a batch, per channel; ``a + b`` are those of both batches together.

    Addition is commutative and associative up to rounding, with :meth:`Moments.empty` as its zero, so that
    moments of parts (a stream, the chunks of a large array, the ranks of a cluster) merge into those of the
    whole, in any order.

    Attributes
    ----------
    count : int
        Observations per channel.
    samples : int
        Independent samples (images) they come from.
    mean : array of shape (c,)
        Sample means.
    m2 : array of shape (c,)
        Sums of squared deviations from the mean. Where such a sum is infinite so is the variance, though it may be in
        range itself: of float64 statistics that happens beyond 1e150.
    minimum, maximum : array of shape (c,)
        Extremes; infinity and minus infinity where nothing was counted.
    sample_weight : float
        Sum over samples of the squared number of observations in each. With `sample_mean` and `sample_m2`,
        the mean and the sum of squared deviations of the samples' means under these weights, it makes `noise`
        mergeable when samples differ in size.
    sample_mean, sample_m2 : array of shape (c,)
        See `sample_weight`. Weights are as large as the square of a sample's size, so `sample_m2` may be infinite
        where `m2` is not: of float32 statistics (JAX) beyond 1e14, of others beyond 1e149. In NumPy's vectors `noise`
        is right nevertheless, but cannot be saved; elsewhere it is NaN.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", for the merge.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> x = np.arange(24.0).reshape(4, 2, 3)
    >>> whole = shrinkstats.moments(x[:1]) + shrinkstats.moments(x[1:])
    >>> print(whole.mean, whole.var(), whole.noise)
    [10. 13.] [45.66666667 45.66666667] [15. 15.]

    In JAX, counts are constants of what is compiled, whose type `jax.lax.scan` and its like do not let a sum change: a
    loop puts out the parts. Adding them is arithmetic on short vectors, which outside of `jax.jit` compiles nothing
    anew::

        _, parts = jax.lax.scan(lambda _, x: (None, shrinkstats.moments(x)), None, batches)
        whole = sum(jax.tree.map(lambda v: v[i], parts) for i in range(len(batches)))
    """

    count: int
    samples: int
    mean: Array
    m2: Array
    minimum: Array
    maximum: Array
    sample_weight: float
    sample_mean: Array
    sample_m2: Array
    _less: Array | None = None  # `sample_m2` over MANY, if that is out of range in a channel; NumPy's vectors alone

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """The moments of nothing: adding them changes nothing.

        Parameters
        ----------
        channels : int
            The number of channels, at least 1.

        Raises
        ------
        ValueError
            If `channels` is below 1.
        """
        channels = whole_number("channels", channels)
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        zero, nan = np.zeros(channels), np.full(channels, math.nan)
        return cls(0, 0, nan, zero, zero + math.inf, zero - math.inf, 0.0, nan, zero)

    def var(self, ddof: int = 0) -> Array:
        """Variances: the sum of squared deviations over count - ddof.

        Parameters
        ----------
        ddof : int
            0 (the default, as `numpy.var`; it normalizes in every batch norm) or 1 (unbiased; PyTorch's
            ``correction=1`` and what its running variances follow).

        Returns
        -------
        array of shape (c,)
            NaN where count does not exceed `ddof`.
        """
        divisor = self.count - whole_number("ddof", ddof)
        return self.m2 / divisor if divisor > 0 else self.m2 * math.nan

    @property
    def noise(self) -> Array:
        r"""Estimated sampling variance of `mean`, from the dispersion of the samples' means.

        Observations within one sample (the pixels of an image) are not independent; samples are. For S > 1
        samples of equal size it is :math:`\sum_s (m_s - m)^2 / (S (S - 1))`, the cluster-robust variance; samples
        of other sizes count by their squared weight. A single sample falls back on ``var(ddof=1) / count``, as
        if its elements were independent, which as a rule is too small. A single observation gives NaN.
        """
        if leaves_open(self.m2, self.samples):
            return self._noise_of_any_number()
        if self.samples < 2:
            return self.var(ddof=1) / self.count if self.count else self.m2 * math.nan
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity pass through
            noise = _squares(self.sample_m2, self.sample_weight, self._offset) * self.noise_scale
            if is_numpy(noise) and np.isfinite(noise).all():
                return noise
            instead = None
            if self._less is not None:
                instead = _squares(self._less, self.sample_weight / MANY, self._offset) * (self.noise_scale * MANY)
            return self._instead_of_overflow(noise, instead)

    def _instead_of_overflow(self, noise: Array, instead: Array | None = None) -> Array:
        """The noise, and something else, NaN, where it is infinite though the deviations that it comes from are not."""
        xp = namespace(noise=noise)
        instead = xp.full_like(noise, math.nan) if instead is None else instead
        return xp.where(xp.isinf(noise) & xp.isfinite(self.m2), instead, noise)

    def _noise_of_any_number(self) -> Array:
        """The same in array operations alone, for a graph that leaves open how many samples there are."""
        xp = namespace(m2=self.m2)
        one = xp.ones_like(self.m2)
        samples, count = one * self.samples, one * self.count
        alone = samples < 2
        squares = _squares(self.sample_m2, self.sample_weight, self._offset)
        among = squares / xp.where(alone, one, samples - 1) * samples / count
        noise = xp.where(alone, self.m2 / (count - 1), among) / count
        return self._instead_of_overflow(noise)

    @property
    def _offset(self) -> Array | None:
        """What `mean` is away from the samples' weighted mean; None if nothing."""
        return None if self._equal_samples else self.sample_mean - self.mean

    @property
    def _equal_samples(self) -> bool:
        """Whether the samples are known to be of one size; where it is forgotten, the means still are equal."""
        return self.sample_mean is self.mean

    @property
    def noise_scale(self) -> float:
        """What turns `sample_m2` into `noise`, for two samples or more."""
        return self.samples / (self.samples - 1) / self.count / self.count

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file, whole or not at all; :meth:`Moments.load` reads it.

        Parameters
        ----------
        path : path
            The file; by habit it ends in .npz. One that exists is replaced. It holds plain NumPy arrays. Dask's vectors
            are computed, in one pass.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If `sample_m2` is out of the range of its type, and `noise` is not.

        Examples
        --------
        A pass over data that stops and goes on: `samples` says how far it came.

        >>> import numpy as np, shrinkstats, tempfile, pathlib
        >>> from itertools import islice
        >>> images = np.random.default_rng(0).normal(size=(10, 3, 8, 8))
        >>> def batches(start):
        ...     return (images[i : i + 2] for i in range(start, len(images), 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "images.npz")
        ...     shrinkstats.moments(islice(batches(0), 3)).save(path)
        ...     done = shrinkstats.Moments.load(path)
        >>> done
        Moments(3 channels, count=384, samples=6)
        >>> done + shrinkstats.moments(batches(done.samples))
        Moments(3 channels, count=640, samples=10)
        """
        here = self
        if is_dask_array(self.mean):
            import dask

            (here,) = dask.compute(self)
        if here._less is not None:
            raise ValueError("numbers so large have a sample_m2 beyond the range of a file; divide them by a constant")
        names = [f.name for f in fields(self) if f.name != "_less"]
        _moments_file.write(Path(path), {name: _on_host(getattr(here, name)) for name in names})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Moments:
        """What :meth:`Moments.save` wrote, as NumPy vectors.

        Parameters
        ----------
        path : path
            The file. It is not trusted: nothing in it is run, and its contents are checked.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, or something else.
        """
        return cls(**_moments_file.read(Path(path)))

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        check_channels(left=self.mean, right=other.mean)
        if not other.count or not self.count:
            return self if self.count else other
        xp = namespace(left=self.mean, right=other.mean)
        with np.errstate(over="ignore", invalid="ignore"):  # infinity has a mean, and no variance
            mean, m2 = _merge(self.count, self.mean, self.m2, other.count, other.mean, other.m2, xp)
            sample_mean, sample_m2 = _merge(
                self.sample_weight, self.sample_mean, self.sample_m2,
                other.sample_weight, other.sample_mean, other.sample_m2, xp,
            )  # fmt: skip
            less = None
            if is_numpy(sample_m2) and np.isinf(sample_m2).any():
                a, b = (m.sample_m2 / MANY if m._less is None else m._less for m in (self, other))
                _, less = _merge(
                    self.sample_weight / MANY, self.sample_mean, a, other.sample_weight / MANY, other.sample_mean, b, xp
                )
        of_one_size = self.sample_weight * other.count == other.sample_weight * self.count
        if of_one_size and self._equal_samples and other._equal_samples:
            sample_mean = mean  # which it is but for rounding
        return Moments(
            count=self.count + other.count,
            samples=self.samples + other.samples,
            mean=mean,
            m2=m2,
            minimum=xp.minimum(self.minimum, other.minimum),
            maximum=xp.maximum(self.maximum, other.maximum),
            sample_weight=self.sample_weight + other.sample_weight,
            sample_mean=sample_mean,
            sample_m2=sample_m2,
            _less=less,
        )

    __array_ufunc__ = None  # or an array would add every element of its own

    def __radd__(self, other: Any) -> Moments:
        """Let ``sum(parts)`` work, which starts from the number 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __repr__(self) -> str:
        return f"Moments({self.mean.shape[-1]} channels, count={self.count}, samples={self.samples})"


def _merge(
    n_a: float, mean_a: Array, m2_a: Array, n_b: float, mean_b: Array, m2_b: Array, xp: Namespace
) -> tuple[Array, Array]:
    """Chan's formula: mean and sum of squared deviations of two weighted groups together."""
    share_a, share_b = n_a / (n_a + n_b), n_b / (n_a + n_b)
    difference = mean_b - mean_a
    apart = ~xp.isfinite(difference)  # infinity, or numbers as far apart as can be
    mean = xp.where(apart, mean_a * share_a + mean_b * share_b, mean_a + difference * share_b)
    m2 = m2_a + m2_b + difference * (difference * (n_a * share_b))
    return mean, xp.where(xp.isinf(mean), xp.full_like(m2, math.nan), m2)


def _squares(m2: Array, weight: float, offset: Array | None) -> Array:
    """From the sum of squared deviations around a weighted mean to that around a point away from it."""
    return m2 if offset is None else m2 + weight * offset * offset


def weighted(squares: Array, size: Any) -> tuple[Array, Array | None]:
    """`sample_m2` of samples of one size, from the squared deviations of their means; and over MANY if it overflows."""
    with np.errstate(over="ignore"):
        sample_m2 = size * size * squares
        overflows = is_numpy(squares) and np.isinf(sample_m2).any()
        return sample_m2, size * (size / MANY) * squares if overflows else None


def register_with_jax() -> None:
    """Make Moments a tree of vectors for JAX, whose counts are constants of what it compiles."""
    import jax

    constants = ("count", "samples", "sample_weight")
    vectors = [f.name for f in fields(Moments) if f.name not in constants]
    jax.tree_util.register_dataclass(Moments, data_fields=vectors, meta_fields=list(constants))


def _on_host(x: Any) -> np.ndarray[Any, Any]:
    """x as a NumPy array."""
    if is_torch_array(x):
        x = x.detach().cpu()
    return np.asarray(x.get() if is_cupy_array(x) else x)


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
        vectors = {k: xp.asarray(v, **place) for k, v in vars(blank).items() if isinstance(v, np.ndarray)}
        return Moments(count=0, samples=0, sample_weight=0.0, **vectors)
    if is_numpy(x):
        cut, pieces = _cut(x, axis, sample_axis) if x.size > BLOCK else (axis, 1)
        if pieces > 1:
            return _in_blocks(x, axis, sample_axis, cut, pieces)
        x = x if kernels.supports(x) else x.astype(np.float64)
    backend = kernels.backend(x)
    count = math.prod(x.shape) // x.shape[axis]
    if sample_axis is None:
        mean, m2, low, high, _ = backend.moments(x, axis, None)
        return Moments(count, count, mean, m2, low, high, float(count), mean, m2)
    mean, m2, low, high, sample_m2 = backend.moments(x, axis, sample_axis)
    samples = x.shape[sample_axis]
    size = 1.0 * (count // samples)  # which a graph of PyTorch may leave open: `float` would not
    return Moments(count, samples, mean, m2, low, high, size * size * samples, mean, *weighted(sample_m2, size))


def _of_stream(arrays: Iterator[Array], axis: int, sample_axis: int | None) -> Moments:
    """Of all arrays together, one in memory at a time."""
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
    zero = np.zeros_like(total.mean)
    return replace(total, samples=1, sample_weight=weight, sample_mean=total.mean, sample_m2=zero, _less=None)


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


def as_statistics(name: str, x: Any) -> Statistics:
    """A (mean, var) pair from Statistics, Moments or any pair, checked."""
    if isinstance(x, Moments):
        return Statistics(x.mean, x.var())
    mean, var = getattr(x, "mean", None), getattr(x, "var", None)
    if not isinstance(x, tuple) or len(x) < 2:
        raise TypeError(f"{name} must be Statistics(mean, var) or Moments, got {type(x).__name__}")
    if mean is None or var is None:
        if len(x) > 2:
            raise TypeError(f"{name} must be a pair, Statistics(mean, var), or Moments; got a tuple of {len(x)}")
        mean, var = x
    xp = namespace(**{f"{name}.mean": mean, f"{name}.var": var})
    mean = as_real(f"{name}.mean", mean, xp)
    var = nonnegative(f"{name}.var", as_real(f"{name}.var", var, xp), xp)
    check_channels(**{f"{name}.mean": mean, f"{name}.var": var})
    return Statistics(mean, var)


def as_pair(**pair: Any) -> tuple[Namespace, Statistics, Statistics]:
    """Two sets of statistics that go together, given by the names that the caller knows them by."""
    checked = {name: as_statistics(name, x) for name, x in pair.items()}
    means = {name: x.mean for name, x in checked.items()}
    xp = namespace(**means)
    check_channels(**means)
    first, second = (Statistics(*(as_constant(v, xp) for v in x)) for x in checked.values())
    return xp, first, second
