"""Normalizations in a 3D network on brain volumes: ``python -m benchmarks.ppmi``."""
