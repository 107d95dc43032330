"""What a blend of statistics costs by simulation, to hold against the bounds of Schneider et al."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkstats.moments import moments
from shrinkstats.prior import blend
from shrinkstats.theory.arguments import at_least, real
from shrinkstats.values import Moments, Statistics, as_pair
from shrinkstats.wasserstein import wasserstein2

CHUNK = 2**18  # numbers held at a time


class Simulated(NamedTuple):
    """A mean over replicates and its standard error, per channel.

    Attributes
    ----------
    mean, error : array of shape (c,)
        The standard error is that of the mean.
    """

    mean: NDArray[np.float64]
    error: NDArray[np.float64]


def simulate_blend_distance(
    source: Statistics | Moments,
    target: Statistics | Moments,
    *,
    n: int,
    strength: ArrayLike,
    replicates: int = 100_000,
    seed: int = 0,
) -> Simulated:
    r"""Mean squared W2 between the target and a blend with statistics estimated from n of its samples.

    The quantity that :func:`shrinkstats.wasserstein_bounds` bounds, for normally distributed samples. Of these only
    the mean and the (biased) variance matter, and they are drawn as such: :math:`N(m_t, \sigma_t^2/n)` and,
    independent of it, :math:`\sigma_t^2 \chi^2_{n-1}/n`.

    Parameters
    ----------
    source, target : Statistics or Moments
        Statistics of the training data, and the true ones of the data to adapt to; vectors of shape (c,).
    n : int
        Samples in the batch, at least 1.
    strength : float or array broadcastable to the vectors
        N, from 0 to infinity.
    replicates : int
        Batches to draw for every channel, at least 2. Memory does not grow with them.
    seed : int
        Same seed, same numbers.

    Returns
    -------
    Simulated
        `mean` and its standard `error`.

    Raises
    ------
    ValueError
        If shapes do not match, a variance or `strength` is negative, `n` is below 1 or `replicates` below 2.
    TypeError
        If the statistics are not pairs of real arrays.

    References
    ----------
    Schneider, Rusak et al. (2020), Proposition 1. Cochran (1934) for the distribution of mean and variance.

    Examples
    --------
    >>> import numpy as np, shrinkstats
    >>> from shrinkstats import Statistics
    >>> from shrinkstats.theory import simulate_blend_distance
    >>> source, target = Statistics(np.zeros(1), np.ones(1)), Statistics(np.array([0.5]), np.array([0.25]))
    >>> mean, error = simulate_blend_distance(source, target, n=8, strength=1)
    >>> lower, upper = shrinkstats.wasserstein_bounds(source, target, n=8, strength=1)
    >>> bool(lower[0] - 4 * error[0] < mean[0] < upper[0] + 4 * error[0])
    True
    """
    _, source, target = as_pair(source=source, target=target)
    images = float(at_least("n", 1, n))
    replicates, seed = at_least("replicates", 2, replicates), at_least("seed", 0, seed)
    if np.ndim(target.mean) != 1 or np.shape(source.mean) != np.shape(target.mean):
        raise ValueError(
            "source and target must be vectors of one length, "
            f"got shapes {np.shape(source.mean)} and {np.shape(target.mean)}"
        )
    channels, samples = len(target.mean), real("strength", strength)
    if samples.shape not in ((), (1,), (channels,)):
        raise ValueError(f"strength must be a number, or one a channel, got shape {samples.shape}")
    sd = np.sqrt(np.asarray(target.var, dtype=np.float64))
    rng = np.random.default_rng(seed)
    total = Moments.empty(channels)
    while total.count < replicates:
        size = (min(max(1, CHUNK // channels), replicates - total.count), channels)
        batch = Statistics(
            target.mean + sd / np.sqrt(images) * rng.standard_normal(size),
            sd * sd / images * (rng.chisquare(images - 1, size) if images > 1 else np.zeros(size)),
        )
        distance = wasserstein2(blend(source, batch, n=images, strength=samples), target)
        total = total + moments(distance, sample_axis=None)
    return Simulated(total.mean, np.sqrt(total.var(ddof=1) / total.count))
