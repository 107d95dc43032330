"""Readers for the official layouts of public data sets; files are never trusted."""

from shrinkstats.adapters.datasets.cifar import read_cifar10

__all__ = ["read_cifar10"]
