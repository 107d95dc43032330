"""How theory reads its arguments: as strictly as the core, and then as NumPy's float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkstats._arrays import as_real, constant, namespace, whole_number


def real(name: str, x: Any) -> NDArray[np.float64]:
    """x as real numbers, of whatever library that has them in memory."""
    array = as_real(name, x, namespace(**{name.rpartition(" ")[2]: x}))
    try:
        return np.asarray(constant(array), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # on another device, or without values
        raise TypeError(f"{name} cannot be read as a NumPy array: {error}") from error


def number(name: str, x: Any) -> float:
    """x as a finite float of either sign."""
    try:
        if isinstance(x, (str, bytes)) or bool(getattr(x, "ndim", 0)) or np.iscomplexobj(x):
            raise TypeError
        value = float(x)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number, got {type(x).__name__}") from error
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value:g}")
    return value


def at_least(name: str, minimum: int, x: Any) -> int:
    """x as a whole number that is not smaller, and not so large that no float is near it."""
    value = whole_number(name, x)
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > 2**1023:
        raise ValueError(f"{name} is larger than any floating-point number")
    return value


def check_rules(**rules: Any) -> None:
    """Check that each can be called with data: a class makes rules, and is none."""
    for name, rule in rules.items():
        if isinstance(rule, type) or not callable(rule):
            raise TypeError(f"{name} must be a rule such as Stein(), or a callable; got {rule!r}")
