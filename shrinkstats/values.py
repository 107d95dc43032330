"""The values that kernels, rules and layers hand to each other: what lies below them all."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_cupy_array, is_dask_array

from shrinkstats import _moments_file
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
    whole_number,
)


class Statistics(NamedTuple):
    """A mean and a variance per channel.

    Attributes
    ----------
    mean, var : array of shape (..., c)
        The vectors of channels. Variances are what normalizes: ddof=0 where they come from data.
    """

    mean: Array
    var: Array


def _by_name(cls: Any) -> Any:
    """Let a class take its fields by name alone, but for Dask, which puts back all of them in order."""
    init, names = cls.__init__, [f.name for f in fields(cls)]

    @wraps(init)
    def by_name(self: Any, *all_fields: Any, **named: Any) -> None:
        if 0 < len(all_fields) < len(names):
            raise TypeError(f"{cls.__name__} takes its fields by name: {', '.join(f'{name}=' for name in names)}")
        init(self, **dict(zip(names, all_fields, strict=False)), **named)

    cls.__init__ = by_name
    return cls


@_by_name
@dataclass(frozen=True, eq=False, kw_only=True)
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
        where `m2` is not: of float32 statistics (JAX) beyond 1e14, of others beyond 1e149. `noise` is NaN there.
    equal_samples : bool
        Whether the samples are known to be of one size, so that `sample_mean` is `mean`. Files do not keep it.

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
    equal_samples: bool = False

    @classmethod
    def of_equal_samples(
        cls,
        *,
        count: int,
        samples: int,
        mean: Array,
        m2: Array,
        minimum: Array,
        maximum: Array,
        sample_m2: Array,
    ) -> Moments:
        """The moments of samples that are all of one size, whose weights and mean follow.

        Parameters
        ----------
        count, samples, mean, m2, minimum, maximum, sample_m2
            The attributes of these names.
        """
        size = 1.0 * (count // samples)  # which a graph of PyTorch may leave open: `float` would not
        return cls(
            count=count,
            samples=samples,
            mean=mean,
            m2=m2,
            minimum=minimum,
            maximum=maximum,
            sample_weight=size * size * samples,
            sample_mean=mean,
            sample_m2=sample_m2,
            equal_samples=True,
        )

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
        return cls(
            count=0,
            samples=0,
            mean=nan,
            m2=zero,
            minimum=zero + math.inf,
            maximum=zero - math.inf,
            sample_weight=0.0,
            sample_mean=nan,
            sample_m2=zero,
            equal_samples=True,
        )

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
        return self._unless_lost(self._sample_squares * self.noise_scale)

    def _unless_lost(self, noise: Array) -> Array:
        """The noise; NaN where it is infinite though the deviations that it comes from are not."""
        if is_numpy(noise) and np.isfinite(noise).all():
            return noise
        xp = namespace(noise=noise)
        return xp.where(xp.isinf(noise) & xp.isfinite(self.m2), xp.full_like(noise, math.nan), noise)

    def _noise_of_any_number(self) -> Array:
        """The same in array operations alone, for a graph that leaves open how many samples there are."""
        xp = namespace(m2=self.m2)
        one = xp.ones_like(self.m2)
        samples, count = one * self.samples, one * self.count
        alone = samples < 2
        among = self._sample_squares / xp.where(alone, one, samples - 1) * samples / count
        return self._unless_lost(xp.where(alone, self.m2 / (count - 1), among) / count)

    @property
    def _sample_squares(self) -> Array:
        """The sum of squared deviations of the samples' means from `mean`, by their weights."""
        if self.equal_samples:
            return self.sample_m2
        offset = self.sample_mean - self.mean
        return self.sample_m2 + self.sample_weight * offset * offset

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
        _moments_file.write(Path(path), {name: _on_host(getattr(here, name)) for name in _moments_file.FIELDS})

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
        of_one_size = self.sample_weight * other.count == other.sample_weight * self.count
        equal_samples = of_one_size and self.equal_samples and other.equal_samples
        if equal_samples:
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
            equal_samples=equal_samples,
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


class Cotangent(NamedTuple):
    """Gradient of a loss with respect to the moments of a batch; None is zero."""

    mean: Array | None = None
    m2: Array | None = None
    minimum: Array | None = None
    maximum: Array | None = None
    sample_m2: Array | None = None


class SamplingNoise(NamedTuple):
    """How far the statistics of a batch scatter around the training data's without any shift.

    Attributes
    ----------
    mean : array of shape (..., c)
        Sampling variance of the batch mean.
    sd, sd_bias : array of shape (..., c)
        Variance and mean of sd_batch / sd_source - 1 over training batches of the size at hand.
    """

    mean: Array
    sd: Array
    sd_bias: Array


class Prior(NamedTuple):
    """Training statistics together with the noise to expect of a batch, as an estimator takes them.

    Attributes
    ----------
    mean, var : array of shape (..., c)
        The training statistics.
    noise : SamplingNoise, array or None
        What :func:`stein_blend` takes; None leaves it to the batch.
    """

    mean: Array
    var: Array
    noise: SamplingNoise | Array | None = None


def register_with_jax() -> None:
    """Make Moments a tree of vectors for JAX, whose counts are constants of what it compiles."""
    import jax

    constants = ("count", "samples", "sample_weight", "equal_samples")
    vectors = [f.name for f in fields(Moments) if f.name not in constants]
    jax.tree_util.register_dataclass(Moments, data_fields=vectors, meta_fields=list(constants))


def _on_host(x: Any) -> np.ndarray[Any, Any]:
    """x as a NumPy array."""
    if is_torch_array(x):
        x = x.detach().cpu()
    return np.asarray(x.get() if is_cupy_array(x) else x)


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


def as_prior(prior: Any) -> Prior:
    """Statistics, Prior or Moments as a Prior; the moments' own noise is that of the training mean, not a batch's."""
    if isinstance(prior, Prior):
        return prior
    return Prior(*as_statistics("prior", prior))
