"""The corruptions by noise: images from 0 to 1 of shape (n, 32, 32, 3), a strength, a generator for each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkstats.adapters.robustness.filters import Array

Generators = Sequence[np.random.Generator]


def _normal(x: Array, generators: Generators) -> Array:
    return np.stack([generator.standard_normal(x.shape[1:]) for generator in generators])


def gaussian_noise(x: Array, std: float, generators: Generators) -> Array:
    """The same normal noise everywhere."""
    return x + std * _normal(x, generators)


def shot_noise(x: Array, photons: float, generators: Generators) -> Array:
    """Counts of photons, of which white has `photons`: Poisson noise."""
    return np.stack([g.poisson(image * photons) for g, image in zip(generators, x, strict=True)]) / photons


def impulse_noise(x: Array, amount: float, generators: Generators) -> Array:
    """A share `amount` of all values set to 0 or 1, as often to one as to the other."""
    hit, salt = np.stack([g.random((2, *x.shape[1:])) for g in generators], axis=1)
    return np.where(hit < amount, salt < 0.5, x)


def speckle_noise(x: Array, std: float, generators: Generators) -> Array:
    """Normal noise in proportion to the light."""
    return x + x * std * _normal(x, generators)
