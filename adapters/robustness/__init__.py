"""Robustness to common corruptions: making them, and the mean corruption error."""

from shrinkstats.adapters.robustness.corruptions import CORRUPTIONS, GROUPS, HOLDOUT, corrupt
from shrinkstats.adapters.robustness.mce import (
    ALEXNET,
    ALEXNET_CLEAN,
    corruption_errors,
    mean_corruption_error,
    relative_mean_corruption_error,
)

__all__ = [
    "ALEXNET",
    "ALEXNET_CLEAN",
    "CORRUPTIONS",
    "GROUPS",
    "HOLDOUT",
    "corrupt",
    "corruption_errors",
    "mean_corruption_error",
    "relative_mean_corruption_error",
]
