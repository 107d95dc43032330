"""The corruptions by weather: images from 0 to 1 of shape (n, 32, 32, 3), a strength, a generator for each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.robustness import filters
from shrinkstats.adapters.robustness.filters import Array
from shrinkstats.adapters.robustness.noise import Generators


def snow(x: Array, strength: tuple[float, float, float, float, int, float, float], generators: Generators) -> Array:
    """Flakes that fall, from noise that is enlarged, cut and moved; the light grows paler."""
    mean, std, zoom, threshold, radius, sigma, colour = strength
    flakes = mean + std * np.stack([generator.standard_normal(x.shape[1:3]) for generator in generators])
    matrix = filters.magnification(zoom, x.shape[1])
    flakes = matrix @ flakes @ matrix.T
    flakes = np.where(flakes < threshold, 0, np.minimum(flakes, 1))
    flakes = np.floor(255 * flakes + 1e-6) / 255
    angles = np.array([generator.uniform(-135, -45) for generator in generators])
    flakes = filters.motion_blur(flakes, radius, sigma, angles)[..., None]
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    pale = colour * x + (1 - colour) * np.maximum(x, 1.5 * grey + 0.5)
    return pale + flakes + flakes[:, ::-1, ::-1]


def frost(
    x: Array, strength: tuple[float, float], generators: Generators, pictures: Sequence[NDArray[np.uint8]]
) -> Array:
    """A piece of a picture of frost, reduced to a fifth, laid over the image."""
    image, ice = strength
    # Bilinear reduction to a fifth without smoothing is every fifth pixel.
    small = [picture[2::5, 2::5] / 255 for picture in pictures]
    layers = []
    for generator in generators:
        picture = small[generator.integers(len(small))]
        top, left = (generator.integers(0, size - 31) for size in picture.shape[:2])
        layers.append(picture[top : top + 32, left : left + 32])
    return image * x + ice * np.stack(layers)


def fog(x: Array, strength: tuple[float, float], generators: Generators) -> Array:
    """A plasma fractal added, the whole darkened so that the brightest value stays."""
    thickness, decay = strength
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + thickness * plasma(x.shape[1], decay, generators)[..., None]) * brightest / (brightest + thickness)


def plasma(size: int, decay: float, generators: Generators) -> Array:
    """Height maps from 0 to 1, of shape (n, size, size) with a power of two, by the diamond-square algorithm."""
    draws = np.stack([generator.uniform(-1, 1, size**2 - 1) for generator in generators])
    used = 0

    def rough(total: Array) -> Array:
        nonlocal used
        count = total[0].size
        random = draws[:, used : used + count].reshape(total.shape)
        used += count
        return total / 4 + wibble**2 * random

    heights = np.zeros((len(draws), size, size))
    step, wibble = size, 100.0
    while step > 1:
        half = step // 2
        corners = heights[:, ::step, ::step]
        rows = corners + np.roll(corners, -1, axis=1)
        centres = rough(rows + np.roll(rows, -1, axis=2))
        heights[:, half::step, half::step] = centres
        sides = corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = rough(centres + np.roll(centres, 1, axis=1) + sides)
        sides = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = rough(centres + np.roll(centres, 1, axis=2) + sides)
        step, wibble = half, wibble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def brightness(x: Array, more: float, _: Generators) -> Array:
    """The value of HSV raised, hue and saturation kept: colours in proportion; black turns grey."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
