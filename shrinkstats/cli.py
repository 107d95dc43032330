"""The door to the command line, whose commands are in :mod:`shrinkstats.adapters.commands`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line."""
    try:
        from shrinkstats.adapters.commands.application import application
    except ModuleNotFoundError as error:
        sys.exit(f'The command line needs {error.name}: pip install "shrinkstats[cli]"')
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that a terminal has no letters for are no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    application()()


if __name__ == "__main__":
    main()
