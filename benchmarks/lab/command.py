"""How a study is called: its options, and what was typed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser under the name that was typed, with the description as it is written."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(program(), description=description, formatter_class=raw)


def program() -> str:
    """How this process was called; a package is run by its ``__main__``, which nobody types."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name.removesuffix('.__main__') if spec else f'benchmarks.{Path(sys.argv[0]).stem}'}"


def command() -> str:
    """The same with its options, without the folders of files."""
    return " ".join([program(), *(Path(a).name if "/" in a else a for a in sys.argv[1:])])
