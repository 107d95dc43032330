"""What a training needs to go on where it stopped: tensors and numbers, in a file that cannot run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shrinkstats._files import check_sums, whole


def write(path: Path, state: dict[str, Any]) -> None:
    """The whole state, or none of it."""
    with whole(path) as temporary:
        torch.save(state, temporary)


def read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The state in a file; None if there is no file.

    Raises
    ------
    ValueError
        If the file is damaged, or of a training with other settings.
    """
    if not path.exists():
        return None
    try:
        check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what parsers raise on a malformed file is an open list
        raise ValueError(f"{path} is no checkpoint, or a damaged one; remove it to begin anew") from error
    before = state.get("settings", {}) if isinstance(state, dict) else {}
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"{path} is of another training: {name} was {before.get(name)!r}, now {value!r}; "
                "remove it, or choose another file"
            )
    return state
