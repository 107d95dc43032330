"""How well a class for every pixel was predicted: scores, tables and pictures."""

import warnings

from .overlay import Example, draw_overlays
from .published import PublishedScores, scores_counting_void
from .scores import ClassScore, Confusion, SegmentationScores

__all__ = [
    "ClassScore",
    "Confusion",
    "Example",
    "PublishedScores",
    "SegmentationScores",
    "draw_overlays",
    "scores_counting_void",
]

if not __name__.startswith("benchmarks."):  # installed for one release more by its old name, hence no full names above
    warnings.warn(
        f"{__name__} is benchmarks.lab.segmentation of the repository now; the next release does not install it",
        DeprecationWarning,
        stacklevel=2,
    )
