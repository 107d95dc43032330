"""What was measured so far, kept on disk so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import append_line, read_lines, whole
from shrinkstats.adapters.commands.errors import UsageError

LAST = 5  # from here on, a rank is not among the first five, and not told apart


class Cell(NamedTuple):
    """What one number belongs to; `batch` is 0 for trained statistics, which do not see it."""

    shift: str
    severity: int
    batch: int
    estimator: str


class Cells(dict[Cell, str]):
    """The rank of every image's class, a digit each, by cell; in memory and in a file of JSON lines.

    Parameters
    ----------
    path : Path
        The file. The first line holds the settings, every other one a cell.
    settings : dict
        What the numbers depend on.
    force : bool
        Begin anew where a file holds cells of other settings, and without the lines of a file that are damaged.

    Raises
    ------
    UsageError
        If a file holds cells of other settings, and `force` is false.
    ValueError
        If a line is damaged, and `force` is false. The file stays as it is. A last line that was cut off, as by a run
        that was stopped, is passed over.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, force: bool = False) -> None:
        super().__init__()
        self.path = path
        rows, cut = read_lines(path)
        before = rows[0][1] if rows else {}
        other = [name for name in settings if before.get(name, ...) != settings[name]]
        if other and rows and not force:
            now, then = (str(v.get(other[0], "nothing")) for v in (settings, before))
            raise UsageError(
                f"{path} is of another run: {other[0]} was {then[:60]}, now {now[:60]}; "
                "choose another --output, or --force to discard it"
            )
        for number, row in rows[1:] if not other else []:
            stopped = cut and number == rows[-1][0]  # while this line was written
            if not self._take(row, settings["images"]) and not stopped and not force:
                raise ValueError(
                    f"{path}, line {number}: damaged, or not a cell of this run; "
                    "choose another --output, or --force to go on without it"
                )
        with whole(path) as temporary:  # without a line that was cut off
            temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            for cell in self:
                append_line(temporary, self._row(cell))

    def add(self, cell: Cell, ranks: NDArray[np.int64]) -> None:
        """Keep a cell, from now on."""
        self[cell] = "".join(map(str, np.minimum(ranks, LAST)))
        append_line(self.path, self._row(cell))

    def ranks(self, cell: Cell) -> NDArray[np.int64]:
        """The ranks of a cell; `LAST` stands for all from there on."""
        return np.array(list(self[cell]), dtype=np.int64)

    def _take(self, row: dict[str, Any], images: int) -> bool:
        """Keep a line of the file, if it is one that `add` wrote whole."""
        values: list[Any] = [row.get(name) for name in Cell._fields]
        ranks = row.get("ranks")
        kinds = [str, int, int, str]
        if (
            row.keys() == {*Cell._fields, "ranks"}
            and list(map(type, values)) == kinds
            and isinstance(ranks, str)
            and set(ranks) <= set("012345")
            and len(ranks) == images - images % max(values[2], 1)
        ):
            self[Cell(*values)] = ranks
            return True
        return False

    def _row(self, cell: Cell) -> dict[str, Any]:
        return {**cell._asdict(), "ranks": self[cell]}
