"""Normalizations in a segmenter of street scenes: ``python -m benchmarks.cityscapes``."""
