"""What was here is in :mod:`shrinkstats.adapters.commands`; the old names stay for one release."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

_NOW = {
    "Subject": "evaluation.subject",
    "begin": "evaluation.run",
    "compare": "evaluation.run",
    "load_network": "evaluation.checkpoint",
    "measure": "evaluation.run",
    "open_data": "evaluation.data",
    "prepare": "evaluation.subject",
    "progress": "screen",
    "request": "evaluation",
    "show": "evaluate",
    "write": "evaluation.run",
}
__all__ = list(_NOW)


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} is shrinkstats.adapters.commands.{_NOW[name]}.{name} now; the old name goes with the next "
        "release",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(f"shrinkstats.adapters.commands.{_NOW[name]}"), name)
