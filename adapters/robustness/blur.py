"""The corruptions by blur: images from 0 to 1 of shape (n, 32, 32, 3), a strength, a generator for each image."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from shrinkstats.adapters.robustness import filters
from shrinkstats.adapters.robustness.filters import Array
from shrinkstats.adapters.robustness.noise import Generators


def defocus_blur(x: Array, strength: tuple[float, float], _: Generators) -> Array:
    """A disk of some radius, its edge smoothed by a Gaussian of 3x3 pixels."""
    radius, smoothing = strength
    place = np.arange(-2, 3)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(float)
    taps = np.exp(-(place[1:4] ** 2) / (2 * smoothing**2))
    edge = np.outer(taps, taps) / taps.sum() ** 2
    return filters.correlate(x, ndimage.convolve(disk / disk.sum(), edge, mode="constant"))


def glass_blur(x: Array, strength: tuple[float, int], generators: Generators) -> Array:
    """Pixels replaced by neighbours, once or twice, between two Gaussian blurs.

    The published program walks from the last pixel back and means to swap each with its neighbour above, to the left,
    or both; as NumPy's views share memory, it copies the neighbour and leaves that as it was. A pixel is thus copied
    from one that the walk has not reached, so that all can be copied at once.
    """
    sigma, rounds = strength
    x = np.floor(255 * filters.gaussian(x, sigma) + 1e-6) / 255
    inner = np.arange(2, 32)
    image = np.arange(len(x))[:, None, None]
    steps = np.stack([g.integers(-1, 1, (rounds, 2, len(inner), len(inner))) for g in generators], axis=2)
    for down, right in steps:
        x[:, 2:, 2:] = x[image, inner[:, None] + down, inner + right]
    return filters.gaussian(x, sigma)


def motion_blur(x: Array, strength: tuple[int, float], generators: Generators) -> Array:
    """A movement at up to 45 degrees from the horizontal."""
    angles = np.array([generator.uniform(-45, 45) for generator in generators])
    return filters.motion_blur(x, *strength, angles)


def zoom_blur(x: Array, last: float, _: Generators) -> Array:
    """The mean of the image and of enlargements of its middle, in steps of 1%, up to less than `last`."""
    # numpy.arange as published: its rounding errors decide whether `last` itself is among the factors.
    factors = np.arange(1, last, 0.01)
    size = x.shape[1]
    matrices = [filters.magnification(factor, size) for factor in factors]
    mean = (np.eye(size**2) + sum(np.kron(matrix, matrix) for matrix in matrices)) / (len(factors) + 1)
    return np.einsum("pq,nqc->npc", mean, x.reshape(len(x), size**2, -1), optimize=True).reshape(x.shape)


def gaussian_blur(x: Array, sigma: float, _: Generators) -> Array:
    """A Gaussian of `sigma` pixels."""
    return filters.gaussian(x, sigma)
