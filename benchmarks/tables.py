"""Write the tables of README.md and docs/ from the recorded results.

    python -m benchmarks.tables [--check]

A table stands between the lines <!-- table: NAME --> and <!-- end -->; each study's `tables` makes its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.adaptation import tables as adaptation
from benchmarks.cifar10 import tables as cifar10
from benchmarks.cityscapes import tables as cityscapes
from benchmarks.claims import tables as claims
from benchmarks.lab.command import options
from benchmarks.ppmi import tables as ppmi
from benchmarks.speed import tables as speed
from shrinkstats._files import whole

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    **speed.TABLES,
    **claims.TABLES,
    **adaptation.TABLES,
    **cifar10.TABLES,
    **cityscapes.TABLES,
    **ppmi.TABLES,
}


def filled(text: str, missing: list[str]) -> str:
    """The text with every table in it made anew; one without a recorded result stays as it is, and is named."""

    def made(mark: re.Match[str]) -> str:
        try:
            return f"<!-- table: {mark[1]} -->\n{TABLES[mark[1]]()}\n<!-- end -->"
        except FileNotFoundError:
            missing.append(mark[1])
            return mark[0]

    return MARK.sub(made, text)


def main() -> None:
    """Write the tables, or check that they are as the results say."""
    parser = options(__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    check = parser.parse_args().check
    stale: list[Path] = []
    missing: list[str] = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        if (new := filled(text, missing)) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                with whole(path) as temporary:
                    temporary.write_text(new)
    for path in stale:
        print(f"{path}: {'out of date; run python -m benchmarks.tables' if check else 'written'}")
    for name in missing:
        print(f"{name}: not recorded yet; run its benchmark")
    sys.exit(1 if missing or (check and stale) else 0)


if __name__ == "__main__":
    main()
