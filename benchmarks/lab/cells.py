"""Cells of results that are kept as soon as they are known, and the share of a process in the work."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shrinkstats._files import signed, verified

Row = dict[str, Any]
Item = TypeVar("Item")


class Share(NamedTuple):
    """The part of the work that a process does: every step-th network, from the first one on."""

    first: int
    step: int

    @classmethod
    def of(cls, text: str) -> Share:
        """The share that an option such as 0/2 names."""
        first, _, step = text.partition("/")
        if not (first.isdecimal() and step.isdecimal() and int(first) < int(step)):
            raise argparse.ArgumentTypeError(f"counts from 0: 0/2 and 1/2 are the two halves, got {text}")
        return cls(int(first), int(step))

    @property
    def is_all(self) -> bool:
        """Whether there is nobody else."""
        return self.step == 1

    def part(self, items: list[Item]) -> list[Item]:
        """What this process does of them."""
        return items[self.first :: self.step]


class Cells:
    """Rows known so far, in memory and in a file of JSON lines that several processes may add to."""

    def __init__(self, path: Path, settings: Row) -> None:
        self.path, self.rows = path, []
        if not path.exists():
            self._append(json.dumps(settings) + "\n")
        text = path.read_text(encoding="utf-8", errors="replace")
        first, *lines = text.splitlines() or [""]
        if _parsed(first) != settings:
            raise SystemExit(f"{path} holds cells of other settings: {first}\nremove it, or choose another place")
        sure = False
        for number, line in enumerate(lines, 2):
            known = _parsed(line)
            if known is None:  # cut off when the benchmark was stopped
                continue
            try:
                if verified(known):
                    sure = True
                elif sure and known != settings:  # older rows have none
                    raise ValueError("its checksum is missing")
            except ValueError as error:
                raise SystemExit(f"{path}, line {number}: {error}; remove the line to measure it again") from error
            if known != settings:  # two processes may have begun the file at once
                self.rows.append(known)
        if not text.endswith("\n"):
            self._append("\n")

    def add(self, new: Row) -> None:
        """Keep a row, from now on."""
        self.rows.append(new)
        if first_rank():
            self._append(json.dumps(signed(new)) + "\n")

    def training(self, run: Any) -> Row | None:
        """What is known of the training of a network."""
        found = (row for row in self.rows if "history" in row and vars(run).items() <= row.items())
        return next(found, None)

    def _append(self, text: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())  # at once: rows of two processes do not mix
        finally:
            os.close(file)

    def __contains__(self, wanted: Row) -> bool:
        return any(all(known.get(name) == value for name, value in wanted.items()) for known in self.rows)


def _parsed(line: str) -> Row | None:
    """A line of the file, unless it is not whole."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def first_rank() -> bool:
    """Whether this process is the one that measures and writes; torchrun numbers those that it starts."""
    return int(os.environ.get("RANK", 0)) == 0
