"""Readers for the official layouts of public data sets; files are never trusted."""

from shrinkstats.adapters.datasets.archive import Problem, Scan
from shrinkstats.adapters.datasets.augmentation import Augmentation
from shrinkstats.adapters.datasets.cifar import read_cifar10, read_cifar100
from shrinkstats.adapters.datasets.cifar_c import read_cifar10c, read_cifar100c
from shrinkstats.adapters.datasets.cityscapes import Cityscapes
from shrinkstats.adapters.datasets.harmonization import harmonize
from shrinkstats.adapters.datasets.imagenet_c import ImageNetC
from shrinkstats.adapters.datasets.mixed import MixedSet
from shrinkstats.adapters.datasets.ppmi import PPMI, Volumes
from shrinkstats.adapters.datasets.subjects import cross_validation, split_subjects

__all__ = [
    "PPMI",
    "Augmentation",
    "Cityscapes",
    "ImageNetC",
    "MixedSet",
    "Problem",
    "Scan",
    "Volumes",
    "cross_validation",
    "harmonize",
    "read_cifar10",
    "read_cifar10c",
    "read_cifar100",
    "read_cifar100c",
    "split_subjects",
]
