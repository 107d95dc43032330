"""The normalizations that studies compare: their estimators, names in tables and legends, colours and markers."""

from __future__ import annotations

from shrinkstats.estimators import (
    BatchStatistics,
    Estimator,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)

ESTIMATORS: dict[str, Estimator] = {
    "batch_norm": BatchStatistics(),
    "robust_norm": RobustNorm(),  # equation 14 of its paper
    "stein_sampling": Stein(),
    "stein_published": Stein.published(),
    "stein_sampling_mean_only": Stein(var=None),
    "stein_published_mean_only": Stein(mean="channel", var=None),
    "js_norm": JSNorm(),
    "min_max_norm": MinMaxNorm(),  # equation 11
    **{f"robust_norm_{power:g}": RobustNorm(power) for power in (0.05, 0.1, 0.3, 0.5, 1.0)},  # 1 is equation 12
    "ridge": Ridge(),
    "lasso": Lasso(),
    "prior_blend": PriorBlend(16.0),
    "stein_blend": SteinBlend(),
}
NAMES = {
    "batch_norm": "batch norm",
    "robust_norm": "RobustNorm",
    "min_max_norm": "min-max norm",
    "stein_sampling": "Stein, sampling noise",
    "stein_published": "Stein, as published",
    "stein_sampling_mean_only": "Stein, sampling noise, mean only",
    "stein_published_mean_only": "Stein, as published, mean only",
    "js_norm": "JSNorm",
    "ridge": "ridge",
    "lasso": "lasso",
    "prior_blend": "prior blend",
    "stein_blend": "Stein blend",
    "group_norm": "group norm",
    "none": "none (Fixup)",
    "abnn": "ABNN",
}
LOOKS = {  # norm -> colour and marker; the others are in the tables
    "batch_norm": ("#0072B2", "o"),
    "robust_norm": ("#D55E00", "D"),
    "stein_sampling": ("#009E73", "^"),
    "stein_published": ("#CC79A7", "v"),
    "js_norm": ("#56B4E9", "<"),
    "stein_blend": ("#E69F00", ">"),
    "group_norm": ("#8c510a", "P"),
    "none": ("#666666", "s"),
    "abnn": ("#000000", "X"),
}


def norm_name(norm: str) -> str:
    """As tables and legends call it."""
    family, _, power = norm.rpartition("_")
    return f"{NAMES[family]}, p = {power}" if norm not in NAMES and family in NAMES else NAMES.get(norm, norm)
