"""What was here is :mod:`shrinkstats.adapters.commands.digits`; the old name stays for one release."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shrinkstats.adapters.commands import digits

    warnings.warn(
        f"{__name__}.run is shrinkstats.adapters.commands.digits.run now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return digits.run
