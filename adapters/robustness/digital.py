"""The corruptions by processing: images from 0 to 1 of shape (n, 32, 32, 3), a strength, a generator for each image."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from scipy import ndimage

from shrinkstats.adapters.robustness import filters
from shrinkstats.adapters.robustness.filters import Array
from shrinkstats.adapters.robustness.noise import Generators


def contrast(x: Array, factor: float, _: Generators) -> Array:
    """Distances from the mean of each channel reduced."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def elastic_transform(x: Array, strength: tuple[float, float, float], generators: Generators) -> Array:
    """A random affine map, then smooth random displacements; lengths are shares of the image's size."""
    size = x.shape[1]
    amplitude, smoothness, affine = (size * part for part in strength)
    corners = size // 2 + (size // 3) * np.array([[1, 1], [1, -1], [-1, -1]])  # (x, y) of three corners of a square
    moved = corners + np.stack([generator.uniform(-affine, affine, (3, 2)) for generator in generators])
    # The matrix B of (x, y) = (x', y', 1) B, which takes the places that the corners are moved to back to the corners.
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(x), 3, 1))], axis=2), corners[None])
    rows, columns = np.mgrid[:size, :size].astype(float)
    source = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back[:, None]
    x = filters.resample(x, source[..., 1], source[..., 0], "mirror")
    shifts = np.stack([generator.uniform(-1, 1, (2, size, size)) for generator in generators], axis=1)
    shifts = amplitude * ndimage.gaussian_filter(shifts, (0, 0, smoothness, smoothness), mode="reflect", truncate=3)
    return filters.resample(x, rows + shifts[1], columns + shifts[0], "reflect")


def pixelate(x: Array, factor: float, _: Generators) -> Array:
    """Fewer pixels and back again."""
    from PIL.Image import Resampling  # Pillow is needed here and below alone

    small = (int(32 * factor),) * 2
    return _each(x, lambda image: image.resize(small, Resampling.BOX).resize((32, 32), Resampling.BOX))


def jpeg_compression(x: Array, quality: int, _: Generators) -> Array:
    """Through a JPEG file."""
    from PIL import Image

    def compress(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(x, compress)


def _each(x: Array, change: Callable[[Any], Any]) -> Array:
    from PIL import Image

    pixels = np.rint(255 * x).astype(np.uint8)
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels]) / 255


def saturate(x: Array, strength: tuple[float, float], _: Generators) -> Array:
    """The saturation of HSV changed, hue and value kept; grey, which has no hue, counts as red."""
    factor, more = strength
    value = x.max(axis=-1, keepdims=True)
    below = value - x
    chroma = below.max(axis=-1, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    # How far each channel lies below the largest one, from 0 to 1: red is (0, 1, 1).
    hue = np.where(chroma > 0, below / np.where(chroma > 0, chroma, 1), [0, 1, 1])
    return value - value * np.clip(factor * saturation + more, 0, 1) * hue
