"""The colour and the marker of every method in all pictures.

Colours are mostly those of Okabe and Ito, told apart by everyone; markers tell lines apart without colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

LOOKS = {
    "trained": ("#666666", "s"),  # the statistics of training, as they are
    "batch_norm": ("#0072B2", "o"),
    "stein_blend": ("#D55E00", "D"),
    "prior_blend": ("#009E73", "^"),
    "stein_sampling": ("#882255", "p"),
    "stein_published": ("#CC79A7", "v"),
    "robust_norm": ("#E69F00", ">"),
    "js_norm": ("#56B4E9", "<"),
    "min_max_norm": ("#999933", "8"),
    "ridge": ("#44AA99", "h"),
    "lasso": ("#AA4499", "H"),
    "group_norm": ("#8C510A", "P"),
    "none": ("#999999", "*"),  # no normalization at all
    "abnn": ("#000000", "X"),
}
OTHERS = (("#332288", "d"), ("#661100", "1"), ("#117733", "2"), ("#DDCC77", "3"), ("#6699CC", "4"), ("#444444", "+"))


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Those of some methods; of a user's own, or another member of a family, one that no other method has."""
    others = cycle(OTHERS)
    return {name: LOOKS[name] if name in LOOKS else next(others) for name in names}
