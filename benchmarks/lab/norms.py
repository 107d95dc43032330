"""The normalizations that studies compare, as tables, legends and pictures call them."""

from __future__ import annotations

from shrinkstats.rules.base import label_of
from shrinkstats.rules.registry import RULES

WITHOUT_RULE = {"group_norm": "group norm", "none": "none (Fixup)", "abnn": "ABNN"}
NAMES = {**{name: label_of(rule) for name, rule in RULES.items()}, **WITHOUT_RULE}
DRAWN = (  # the others are in the tables
    *("batch_norm", "robust_norm", "stein_sampling", "stein_published", "js_norm", "stein_blend"),
    *WITHOUT_RULE,
)


def norm_name(norm: str) -> str:
    """What tables and legends call it."""
    return NAMES.get(norm, norm)
