"""The corruptions of CIFAR-10-C, made from clean images (Hendrycks & Dietterich 2019).

Parameters are those of the authors' ``make_cifar_c.py``, which differ from ImageNet-C's. Images made here have the
statistics of the published ones and other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkstats.adapters.robustness import blur, digital, noise, weather
from shrinkstats.adapters.robustness.spatter import spatter

CHUNK = 1000  # images at once: float64 copies of them take some 25 MB each


class Corruption(NamedTuple):
    """A function of images, strength and generators, and its strengths at severities 1 to 5."""

    function: Callable[..., NDArray[np.float64]]
    strengths: tuple[Any, Any, Any, Any, Any]


NOISE = {
    "gaussian_noise": Corruption(noise.gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(noise.shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(noise.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
}
BLUR = {
    # radius, smoothing of the edge
    "defocus_blur": Corruption(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    # sigma, rounds
    "glass_blur": Corruption(blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    # radius, sigma
    "motion_blur": Corruption(blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Corruption(blur.zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
}
WEATHER = {
    # mean, standard deviation, zoom, threshold, radius, sigma, colour
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    # image, ice
    "frost": Corruption(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    # thickness, decay of roughness
    "fog": Corruption(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(weather.brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
}
DIGITAL = {
    "contrast": Corruption(digital.contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    # amplitude, smoothness, affine part
    "elastic_transform": Corruption(
        digital.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Corruption(digital.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption(digital.jpeg_compression, (80, 65, 58, 50, 40)),
}
EXTRA = {
    "speckle_noise": Corruption(noise.speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": Corruption(blur.gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    # mean, standard deviation, sigma, threshold, amount, mud or water
    "spatter": Corruption(
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
    ),
    # factor, addend
    "saturate": Corruption(digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
ALL = NOISE | BLUR | WEATHER | DIGITAL | EXTRA

GROUPS = {
    "noise": tuple(NOISE),
    "blur": tuple(BLUR),
    "weather": tuple(WEATHER),
    "digital": tuple(DIGITAL),
}
"""The fifteen corruptions of the benchmark by kind."""

CORRUPTIONS = tuple(name for group in GROUPS.values() for name in group)
"""The fifteen corruptions of the benchmark in the order of its tables."""

HOLDOUT = tuple(EXTRA)
"""The four further corruptions, meant for choosing methods."""


def corrupt(
    images: ArrayLike,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    frost: Sequence[NDArray[np.uint8]] | None = None,
) -> NDArray[np.uint8]:
    """Images as CIFAR-10-C has them.

    Parameters
    ----------
    images : uint8 array of shape (n, 3, 32, 32) or (n, 32, 32, 3)
        Clean images.
    name : str
        One of `CORRUPTIONS` or `HOLDOUT`.
    severity : {1, 2, 3, 4, 5}
        How strong.
    seed : int
        Chooses the random numbers, which differ between corruptions, severities and images.
    ids : sequence of int, optional
        A number for each image, which chooses its random numbers; 0, 1, 2, ... if not given. An image with the same
        number gets the same corruption in whatever array it comes.
    frost : sequence of uint8 arrays of shape (height, width, 3), optional
        The pictures of frost, for the corruption of that name; at least 160 pixels each way. The authors' program
        takes the first five of the pictures that come with it.

    Returns
    -------
    uint8 array of the shape of `images`
        The corrupted images.

    Raises
    ------
    ValueError
        If the images have another shape or type, or the name, severity or pictures will not do.

    Notes
    -----
    Parameters and formulas are those of ``make_cifar_c.py`` in hendrycks/robustness at ca36008. Where that
    program calls OpenCV or ImageMagick, their results are computed here; distances in "spatter" at severities 1
    to 3 are exact where OpenCV's are approximate. Values are cut, not rounded, to whole numbers, as there.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.adapters.robustness import corrupt
    >>> grey = np.full((2, 3, 32, 32), 128, dtype=np.uint8)
    >>> noisy = corrupt(grey, "gaussian_noise", 3)
    >>> noisy.shape
    (2, 3, 32, 32)
    >>> bool(np.array_equal(corrupt(grey[1:], "gaussian_noise", 3, ids=[1]), noisy[1:]))
    True
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] not in ((3, 32, 32), (32, 32, 3)):
        found = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"images must be uint8 of shape (n, 3, 32, 32) or (n, 32, 32, 3), got {found}")
    if name not in ALL:
        raise ValueError(f"unknown corruption {name!r}; there is {', '.join(ALL)}")
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    numbers = range(len(images)) if ids is None else ids
    if len(numbers) != len(images):
        raise ValueError(f"expected one id for each of the {len(images)} images, got {len(numbers)}")
    function = ALL[name].function
    if name == "frost":
        function = partial(function, pictures=_checked(frost))
    channels_first = images.shape[1] == 3
    result = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        x = images[part].transpose(0, 2, 3, 1) if channels_first else images[part]
        generators = [np.random.default_rng([seed, crc32(name.encode()), severity, int(i)]) for i in numbers[part]]
        y = function(x / 255, ALL[name].strengths[severity - 1], generators)
        # Cut as published; the addend keeps errors of the last place from deciding where a value is whole.
        y = np.floor(255 * np.clip(y, 0, 1) + 1e-6).astype(np.uint8)
        result[part] = y.transpose(0, 3, 1, 2) if channels_first else y
    return result


def _checked(pictures: Sequence[NDArray[np.uint8]] | None) -> list[NDArray[np.uint8]]:
    if pictures is None or not len(pictures):
        raise ValueError(
            "frost needs pictures of frost: pass frost=[...], for example those that come with the authors' program "
            "(ImageNet-C/create_c/frost*.png and *.jpg in hendrycks/robustness)"
        )
    checked = [np.asarray(picture) for picture in pictures]
    for picture in checked:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < 160:
            found = f"{picture.dtype} of shape {picture.shape}"
            raise ValueError(f"a picture of frost must be uint8 of shape (160 or more, 160 or more, 3), got {found}")
    return checked
