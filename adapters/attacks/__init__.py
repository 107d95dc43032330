"""Attacks on networks, what they raise and cost, and guards against believing too much in what they leave.

Attacks of other libraries are in :mod:`shrinkstats.adapters.attacks.library`.
"""

from shrinkstats.adapters.attacks.attack import Attack
from shrinkstats.adapters.attacks.gradients import BIM, FGSM, PGD, Gradient
from shrinkstats.adapters.attacks.guards import (
    Guard,
    black_box_no_better,
    falls_to_chance,
    other_mates,
    stronger_is_worse,
)
from shrinkstats.adapters.attacks.losses import Classification, classification, margin, segmentation
from shrinkstats.adapters.attacks.mates import over_mates, regrouped
from shrinkstats.adapters.attacks.noise import ClippedCauchyNoise, GaussianNoise
from shrinkstats.adapters.attacks.occlusion import Occlusion
from shrinkstats.adapters.attacks.passes import Passes, count_passes
from shrinkstats.adapters.attacks.standardized import Standardized

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "Attack",
    "Classification",
    "ClippedCauchyNoise",
    "GaussianNoise",
    "Gradient",
    "Guard",
    "Occlusion",
    "Passes",
    "Standardized",
    "black_box_no_better",
    "classification",
    "count_passes",
    "falls_to_chance",
    "margin",
    "other_mates",
    "over_mates",
    "regrouped",
    "segmentation",
    "stronger_is_worse",
]
