"""Whether what is known of a class (a theorem, a closed form, a law) holds for an object."""

from __future__ import annotations

from typing import Any

# What every class has of its own, and what a dataclass decorator adds: nothing that an estimate could depend on, since
# fields are read from the object and not from its class.
NEUTRAL = {
    "__module__",
    "__qualname__",
    "__doc__",
    "__dict__",
    "__weakref__",
    "__annotations__",
    "__annotate_func__",
    "__annotations_cache__",
    "__static_attributes__",
    "__firstlineno__",
    "__dataclass_params__",
    "__dataclass_fields__",
    "__match_args__",
    "__replace__",
    "__init__",
    "__repr__",
    "__eq__",
    "__hash__",
    "__setattr__",
    "__delattr__",
}


def is_known(value: Any, *classes: type) -> bool:
    """Whether an object is of one of these classes, or of one derived from it that overrides nothing.

    A class derived from one of ours may compute anything: what we know of ours holds for it only if it has no member
    of its own, by itself or by another base, and its objects none that their class does not name as a field.
    """
    order = type(value).__mro__
    own = getattr(value, "__dict__", {})
    for i, cls in enumerate(order):
        if cls in classes:
            return order[i:] == cls.__mro__ and own.keys() <= getattr(cls, "__dataclass_fields__", {}).keys()
        if not vars(cls).keys() <= NEUTRAL:
            return False
    return False
