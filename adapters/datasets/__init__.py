"""Readers for the official layouts of public data sets; files are never trusted."""

from shrinkstats.adapters.datasets.cifar import read_cifar10, read_cifar100
from shrinkstats.adapters.datasets.cifar_c import read_cifar10c, read_cifar100c
from shrinkstats.adapters.datasets.imagenet_c import ImageNetC
from shrinkstats.adapters.datasets.mixed import MixedSet

__all__ = ["ImageNetC", "MixedSet", "read_cifar10", "read_cifar10c", "read_cifar100", "read_cifar100c"]
