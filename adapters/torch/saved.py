"""What a state dict says of a layer besides its tensors: the rule it adapts by, and the rows of an image.

It is written as JSON in a tensor of bytes, which every format of weights holds, under the key that PyTorch has for such
things. Reading it runs no code: rules are looked up by name. A layer that has nothing to say has no such key.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from shrinkstats import estimators
from shrinkstats.adapters.torch.streaming import Streaming
from shrinkstats.estimators import Estimator

KEY = "_extra_state"
LONGEST = 4096  # bytes; what is written takes about a hundred
ROUNDING = 0.01  # of a weighted average of equal bytes

RULES: dict[str, type[Estimator]] = {
    name: rule
    for name, rule in vars(estimators).items()
    if name in estimators.__all__ and isinstance(rule, type) and rule is not Estimator
}


def written(layer: Any) -> Tensor | None:
    """A layer's rule and rows, for a state dict; None where there is nothing to say."""
    content: dict[str, Any] = {}
    if layer.image_rows != 1:
        content["image_rows"] = layer.image_rows
    if layer.adaptation is not None:
        content["adaptation"] = _described(layer.adaptation)
    if not content:
        return None
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8, device="cpu")


def read(saved: Any, layer: Any) -> tuple[Estimator | None, int, str | None]:
    """The rule that a state dict holds for a layer, the rows of an image, and the name of a rule of somebody's own.

    Raises
    ------
    ValueError
        If it is not what `written` writes.
    """
    try:
        if not isinstance(saved, Tensor) or saved.is_complex() or saved.ndim != 1 or len(saved) > LONGEST:
            raise ValueError("not a short vector of bytes")
        values = saved.double().round()  # state dicts are cast and averaged, all of their entries alike
        if not bool(((values - saved).abs() < ROUNDING).all()):
            raise ValueError("not a vector of bytes, but of other numbers")
        content = json.loads(bytes(map(int, values.tolist())))
        if not isinstance(content, dict) or content.keys() - {"image_rows", "adaptation"}:
            raise ValueError("not an entry of ours")
        rows = content.get("image_rows", 1)
        if not _is_number_of_images(rows):
            raise ValueError(f"{rows!r} rows of an image")
        if "adaptation" not in content:
            return None, rows, None
        options = dict(content["adaptation"])
        name, memory = options.pop("estimator"), options.pop("memory", None)
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is no name of a rule")
        if name not in RULES:
            return None, rows, name
        if memory is not None and not _is_number_of_images(memory):
            raise ValueError(f"a memory of {memory!r} images")
        for field in fields(RULES[name]):
            numbers = field.type == "float"
            if field.name in options and (type(options[field.name]) in (int, float)) != numbers:
                raise ValueError(f"{options[field.name]!r} for {field.name}")
        estimator = RULES[name](**options)
        return (estimator if memory is None else Streaming(estimator, memory, layer)), rows, None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"damaged, or not from shrinkstats: {str(error)[:150]}") from error


def _described(rule: Estimator) -> dict[str, Any]:
    """A rule as plain data; of a rule of somebody's own, its name."""
    if isinstance(rule, Streaming):
        return {**_described(rule.estimator), "memory": rule.capacity}
    name = name_of(rule)
    if name is None:
        return {"estimator": f"{type(rule).__module__}.{type(rule).__qualname__}"}
    options = {field.name: getattr(rule, field.name) for field in fields(rule)}
    return {"estimator": name, **{k: _plain(v) for k, v in options.items()}}


def name_of(rule: Estimator) -> str | None:
    """What a file calls a rule of :mod:`shrinkstats.estimators`; None for one of somebody's own."""
    kind = type(rule)
    return kind.__name__ if kind in RULES.values() else None


def _is_number_of_images(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, float, str)) else float(value)
