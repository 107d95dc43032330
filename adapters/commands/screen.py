"""What commands show: tables that fit, and how far the work has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

ENDS = 10  # rows shown at either end of a long table

Stages = Callable[[str, int], Callable[[], None]]


def screen() -> Console:
    """Standard output."""
    console = Console(highlight=False, markup=False)
    # Whoever reads a pipe has no screen to fit.
    return console if console.is_terminal else Console(highlight=False, markup=False, width=1000)


def printable(text: str) -> str:
    """Text of a file without what would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def plain_table(console: Console) -> Table:
    """A table without rows yet: lines around it only where there is a screen."""
    return Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)


def grid(
    console: Console,
    first: str,
    names: list[str],
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    all_rows: bool,
) -> range:
    """Print a table of numbers and words, its middle left out if it is long; the rows left out."""
    table = plain_table(console)
    table.add_column(first, overflow="ellipsis", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    total = len(names)
    hidden = range(ENDS, total - ENDS) if not all_rows and total > 2 * ENDS + 4 else range(0)
    for i, name in enumerate(names):
        if i not in hidden:
            table.add_row(Text(name), *(_cell(column[i]) for column in columns.values()))
        elif i == hidden.start:
            table.add_row(*["..."] * (1 + len(columns)))
    console.print(table)
    return hidden


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


@contextmanager
def progress(
    words: str, *times: ProgressColumn, console: Console | None = None, quiet: bool = False
) -> Iterator[Stages]:
    """Progress bars: a function that starts one for a stage and returns what moves it on."""
    columns = TextColumn(words), BarColumn(), MofNCompleteColumn(), *times
    bars = Progress(*columns, console=console, disable=quiet)

    def stage(name: str, steps: int) -> Callable[[], None]:
        bars.start()
        task = bars.add_task(name, total=steps)
        return lambda: bars.advance(task)

    try:
        yield stage
    finally:
        if bars.tasks:  # an error before the first of them is printed alone
            bars.stop()
