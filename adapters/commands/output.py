"""The files that commands write: asked about before the work is done, and written whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer

from shrinkstats._files import whole
from shrinkstats.adapters.commands.errors import UsageError, installed

PICTURES = (".png", ".svg", ".pdf")


def check_output(output: Path | None, force: bool, formats: tuple[str, ...], option: str = "--output") -> None:
    """Refuse a file, if one is wanted, that will not do: of another format, in no folder, or there already.

    Raises
    ------
    UsageError
        With the option that is at fault.
    """
    if output is None:
        return
    if output.suffix.lower() not in formats:
        raise UsageError(f"{option} must end in {', '.join(formats)}, got {output}")
    if not output.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {output.parent}")
    if output.is_dir() or (output.exists() and not force):
        raise UsageError(f"{output} exists{'' if output.is_dir() else '; --force overwrites it'}")


def check_picture() -> None:
    """Refuse to draw where that cannot be done."""
    with installed("--picture", "cli"):
        import matplotlib  # noqa: F401


def write_whole(*files: tuple[Path | None, Callable[[Path], object]]) -> None:
    """Write what was asked for before anything is said of it: nobody may be there to read that."""
    wanted = [(path, write) for path, write in files if path is not None]
    for path, write in wanted:
        with whole(path) as temporary:
            write(temporary)
    for path, _ in wanted:
        typer.echo(f"Written to {path}", err=True)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Numbers that JSON has; what has none is for the caller to replace."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None
