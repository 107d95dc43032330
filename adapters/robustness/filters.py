"""Blurs and resampling of many images at once; every image is treated alike, whatever the others are."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Integers = NDArray[np.signedinteger[Any]]


def gaussian(x: Array, sigma: float) -> Array:
    """Gaussian blur over axes 1 and 2, cut at 4 sigma, borders repeated (the defaults of scikit-image)."""
    return ndimage.gaussian_filter(x, (0, sigma, sigma) + (0,) * (x.ndim - 3), mode="nearest", truncate=4.0)


def correlate(x: Array, kernel: Array) -> Array:
    """Correlation with a small kernel over axes 1 and 2, borders mirrored at the last pixel (OpenCV's default)."""
    reach = len(kernel) // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * (x.ndim - 3), mode="reflect")
    total = np.zeros_like(x)
    for (row, column), weight in np.ndenumerate(kernel):
        if weight:
            total += weight * padded[:, row : row + x.shape[1], column : column + x.shape[2]]
    return total


def motion_blur(x: Array, radius: int, sigma: float, angles: Array) -> Array:
    """Images from 0 to 1 moved along lines, as ImageMagick's ``MotionBlurImage`` does; results have 8 bits.

    The kernel is one half of a Gaussian with 2 radius + 1 taps, at the pixels nearest to a line at `angles`, one for
    each image in degrees. Borders are repeated.
    """
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    direction = np.deg2rad(angles)[:, None]
    n, height, width = x.shape[:3]
    image = np.arange(n)[:, None, None]
    total = np.zeros_like(x)
    for tap, weight in zip(taps, weights / weights.sum(), strict=True):
        down = np.ceil(tap * np.sin(direction) - 0.5).astype(int)
        right = np.ceil(tap * np.cos(direction) - 0.5).astype(int)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        total += weight * x[image, rows[:, :, None], columns[:, None, :]]
    return np.rint(255 * total) / 255


def magnification(factor: float, size: int) -> Array:
    """The matrix that enlarges the middle of `size` pixels and keeps `size` of them, interpolating linearly."""
    kept = int(np.ceil(size / factor))
    enlarged = round(kept * factor)
    place = np.linspace(0, kept - 1, enlarged)[(enlarged - size) // 2 :][:size]
    hat = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(kept)))
    first = (size - kept) // 2
    return np.pad(hat, [(0, 0), (first, size - kept - first)])


def resample(x: Array, rows: Array, columns: Array, border: Literal["mirror", "reflect"]) -> Array:
    """Bilinear interpolation of images (n, height, width, channels) at places of shape (n, any, any).

    Beyond the border an image goes on as its mirror image, in which the last pixel is there once ("mirror") or twice
    ("reflect").
    """
    n, height, width = x.shape[:3]
    top, left = np.floor(rows), np.floor(columns)
    pixels = x.reshape(n * height * width, -1)
    first = np.arange(n)[:, None, None] * (height * width)
    total = np.zeros((*rows.shape, x.shape[3]))
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(top + down - rows)) * (1 - np.abs(left + right - columns))
            inside = _fold(top + down, height, border) * width + _fold(left + right, width, border)
            total += weight[..., None] * pixels[first + inside]
    return total


def _fold(index: Array, size: int, border: str) -> Integers:
    """Places beyond the border as the places of the pixels that are mirrored there."""
    again = int(border == "reflect")
    period = 2 * (size - 1 + again)
    index = np.mod(index, period).astype(np.int64)
    return np.where(index < size, index, period - again - index)
