"""Tables in Markdown, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(result: dict[str, Any]) -> str:
    """Where a table comes from."""
    m = result["machine"]
    return (
        f"\n\n<sub>`{result['command']}`, {result['date']}, {m['processor']}, {m['cores']} cores, "
        f"Python {m['python']}, NumPy {m['numpy']}, torch {m['torch']}</sub>"
    )
