"""Rules by the names that studies, command lines and recorded results know them by."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from shrinkstats.rules.base import Estimator
from shrinkstats.rules.batch_statistics import BatchStatistics
from shrinkstats.rules.js_norm import JSNorm
from shrinkstats.rules.lasso import Lasso
from shrinkstats.rules.min_max_norm import MinMaxNorm
from shrinkstats.rules.prior_blend import PriorBlend
from shrinkstats.rules.ridge import Ridge
from shrinkstats.rules.robust_norm import RobustNorm
from shrinkstats.rules.stein import Stein
from shrinkstats.rules.stein_blend import SteinBlend

RULES: dict[str, Estimator] = {
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


def named(name: str) -> Estimator:
    """The rule of this name.

    Parameters
    ----------
    name : str
        One of `RULES`, or ``module:Rule`` for a user's own.

    Raises
    ------
    ValueError
        If there is none, or if it is no estimator.
    """
    if name in RULES:
        return RULES[name]
    if ":" not in name:
        raise ValueError(f"there is no rule {name!r}: expected module:Rule, or one of {', '.join(RULES)}")
    rule = imported(name)
    if not isinstance(rule, Estimator):
        raise ValueError(f"{name} is {type(rule).__name__}, expected a subclass of shrinkstats.estimators.Estimator")
    return rule


def imported(name: str, *arguments: float) -> Any:
    """What ``module:Rule`` names, in a module that is installed or lies in the working directory.

    A class is called with the arguments; anything else is the rule itself, and takes none.

    Raises
    ------
    ValueError
        If there is no such module or name, or the class does not take the arguments.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # not first: a file here must not stand in for an installed package
    try:
        place = import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: {error}") from error
    if not hasattr(place, attribute):
        raise ValueError(f"{name}: {module} has no {attribute!r}")
    found = getattr(place, attribute)
    if not isinstance(found, type):
        if arguments:
            raise ValueError(f"{name} is made already: there is no constant to set")
        return found
    try:
        return found(*arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
