"""Drops of water or mud on the lens: images from 0 to 1 of shape (n, 32, 32, 3), a strength, generators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shrinkstats.adapters.robustness import filters
from shrinkstats.adapters.robustness.filters import Array
from shrinkstats.adapters.robustness.noise import Generators

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
SHARPEN = np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
BOX = np.full((3, 3), 1 / 9)


def spatter(x: Array, strength: tuple[float, float, float, float, float, int], generators: Generators) -> Array:
    """Noise, blurred and cut, makes drops: of water that reflects light, or of mud that hides the image."""
    mean, std, sigma, threshold, amount, is_mud = strength
    liquid = mean + std * np.stack([generator.standard_normal(x.shape[1:3]) for generator in generators])
    liquid = filters.gaussian(liquid, sigma)
    liquid = np.where(liquid < threshold, 0, liquid)
    if is_mud:
        cover = filters.gaussian((liquid > threshold).astype(float), amount)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return (1 - cover) * x + cover * MUD
    light = _reflection(np.floor(255 * liquid))
    largest = light.max(axis=(1, 2), keepdims=True)
    return x + amount * (light / np.where(largest > 0, largest, 1))[..., None] * WATER


def _reflection(liquid: Array) -> Array:
    """Light along the rims of the drops, which are given with values from 0 to 255."""
    edges = _canny(liquid, 50, 150)
    # Distances to the nearest edge in the same image: the other images are out of reach.
    distance = ndimage.distance_transform_edt(~edges, sampling=(1e3, 1, 1)) if edges.any() else np.inf
    distance = np.minimum(np.broadcast_to(distance, liquid.shape), 20)
    distance = _equalize(np.floor(filters.correlate(distance, BOX) + 1e-6).astype(np.uint8))
    distance = np.clip(filters.correlate(distance, SHARPEN), 0, 255)
    return liquid * np.rint(filters.correlate(distance, BOX))


def _canny(x: Array, low: float, high: float) -> NDArray[np.bool_]:
    """Canny's edges with OpenCV's conventions: Sobel filters, gradients measured by |dx| + |dy|."""
    dy = ndimage.correlate1d(ndimage.correlate1d(x, [-1, 0, 1], axis=1, mode="nearest"), [1, 2, 1], 2, mode="nearest")
    dx = ndimage.correlate1d(ndimage.correlate1d(x, [-1, 0, 1], axis=2, mode="nearest"), [1, 2, 1], 1, mode="nearest")
    strength = np.abs(dx) + np.abs(dy)
    around = np.pad(strength, [(0, 0), (1, 1), (1, 1)])

    def neighbour(down: int, right: int) -> Array:
        return around[:, 1 + down : 33 + down, 1 + right : 33 + right]

    tangent = np.tan(np.pi / 8)
    flat, steep = np.abs(dy) < tangent * np.abs(dx), np.abs(dx) < tangent * np.abs(dy)
    falling = np.where(
        dx * dy < 0,
        (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1)),
        (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1)),
    )
    thin = np.where(
        flat,
        (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1)),
        np.where(steep, (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0)), falling),
    )
    weak = thin & (strength > low)
    within = np.zeros((3, 3, 3))
    within[1] = 1  # neighbours in the same image, diagonal ones too
    parts, count = ndimage.label(weak, within)
    strong = np.zeros(count + 1, bool)
    strong[parts[weak & (strength > high)]] = True
    return strong[parts]


def _equalize(x: NDArray[np.uint8]) -> Array:
    """Histograms made even, image by image; an image of one value stays."""
    size = x[0].size
    counts = np.stack([np.bincount(image.ravel(), minlength=256) for image in x])
    lowest = counts[np.arange(len(x)), x.reshape(len(x), -1).min(axis=1)][:, None]
    table = np.rint((counts.cumsum(axis=1) - lowest) * (255 / np.maximum(size - lowest, 1)))
    table = np.where(lowest == size, np.arange(256), table)
    return table[np.arange(len(x))[:, None, None], x]
