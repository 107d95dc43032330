"""How pictures look, and where they go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lab.command import options
from shrinkstats._files import whole

STATIC = Path(__file__).parents[2] / "docs" / "_static"


def quiet(*axes: Axes, grid: Literal["both", "x", "y"] = "both", frame: tuple[str, ...] = ("top", "right")) -> None:
    """A pale grid behind what is drawn, and no frame on these sides."""
    for axis in axes:
        axis.grid(axis=grid, color="#dddddd")
        axis.set_axisbelow(True)
        axis.spines[list(frame)].set_visible(False)


def written(figure: Figure, name: str, folder: Path | None = None) -> Path:
    """The file of a figure, by default in docs/_static, written whole or not at all; it holds no date."""
    path = (folder or STATIC) / name
    path.parent.mkdir(exist_ok=True)
    with whole(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})
    plt.close(figure)
    return path


def draw_named(description: str | None, draw: Callable[[str], list[Path]]) -> None:
    """The command of a study's pictures: draw those of the recorded results that are named."""
    parser = options(description)
    parser.add_argument("results", nargs="+", help="names in results/, as ppmi_cpu")
    for name in parser.parse_args().results:
        for path in draw(name):
            print(f"written: {path.name}")
