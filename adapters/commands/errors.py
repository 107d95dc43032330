"""Whose fault an error is, and the exit status that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit status shells expect after Ctrl-C


class UsageError(ValueError):
    """The request is at fault, not the data."""


@contextmanager
def installed(what: str, extra: str) -> Iterator[None]:
    """Say what to install where an import in here finds that a library is missing.

    Raises
    ------
    UsageError
        With the library, and the extra of this package that has it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f'{what} needs {error.name}: pip install "shrinkstats[{extra}]"') from error
