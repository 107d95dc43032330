"""Scenes at a random scale, cropped and mirrored together with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]

BORDER = (124, 116, 104)  # where a scene ends within a crop: ImageNet's mean colour, 0 for a network that expects it


@dataclass(frozen=True)
class Augmentation:
    """What training does to street scenes, as for the published HRNet.

    Parameters
    ----------
    crop : (int, int)
        Height and width of what comes out.
    scale : (float, float)
        The scale is drawn from this interval, uniformly.
    flip : float
        How often scenes are mirrored.
    void : int
        The label of what lies outside of the scene.

    Raises
    ------
    ValueError
        If these are no such numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.adapters.datasets import Augmentation
    >>> image, labels = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8)
    >>> image, labels = Augmentation(crop=(32, 32), scale=(1, 1))(image, labels, np.random.default_rng(0))
    >>> image.shape, labels.shape
    ((32, 32, 3), (32, 32))
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    void: int = 255

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop must be a height and a width, got {self.crop}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise ValueError(f"scale must be two positive numbers, the smaller first, got {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must lie between 0 and 1, got {self.flip}")

    def __call__(self, image: NDArray[np.uint8], labels: NDArray[np.uint8], rng: np.random.Generator) -> Scene:
        """The scene as one draw shows it.

        Parameters
        ----------
        image : uint8 array of shape (height, width, 3)
            The scene.
        labels : uint8 array of shape (height, width)
            The class of every pixel.
        rng : numpy.random.Generator
            Draws scale, place and mirroring.

        Returns
        -------
        (image, labels)
            Of the crop's height and width.
        """
        scale = rng.uniform(*self.scale)
        # Cut out first what the crop shows, then resize that alone.
        size = np.minimum(np.ceil(np.array(self.crop) / scale).astype(int), labels.shape)
        top, left = rng.integers(np.array(labels.shape) - size + 1)
        window = slice(top, top + size[0]), slice(left, left + size[1])
        height, width = np.clip(np.rint(size * scale).astype(int), 1, self.crop)
        part, classes = resized(image[window], labels[window], (int(height), int(width)))
        top, left = rng.integers(np.array(self.crop) - (height, width) + 1)
        place = slice(top, top + height), slice(left, left + width)
        shown = np.full((*self.crop, 3), BORDER, np.uint8)
        known = np.full(self.crop, self.void, np.uint8)
        shown[place], known[place] = part, classes
        return (shown[:, ::-1], known[:, ::-1]) if rng.random() < self.flip else (shown, known)


def resized(image: NDArray[np.uint8], labels: NDArray[np.uint8], size: tuple[int, int]) -> Scene:
    """A scene at another size: colours interpolated linearly, labels from the nearest pixel."""
    if labels.shape == size:
        return image, labels
    from PIL import Image  # an optional extra

    target = size[1], size[0]
    return (
        np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(labels).resize(target, Image.Resampling.NEAREST)),
    )
