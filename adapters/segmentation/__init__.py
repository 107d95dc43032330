"""How well a class for every pixel was predicted: scores, tables and pictures."""

from shrinkstats.adapters.segmentation.overlay import Example, draw_overlays
from shrinkstats.adapters.segmentation.published import PublishedScores, scores_counting_void
from shrinkstats.adapters.segmentation.scores import ClassScore, Confusion, SegmentationScores

__all__ = [
    "ClassScore",
    "Confusion",
    "Example",
    "PublishedScores",
    "SegmentationScores",
    "draw_overlays",
    "scores_counting_void",
]
