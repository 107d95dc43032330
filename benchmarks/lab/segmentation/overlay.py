"""Pictures of scenes with their classes drawn over them: the truth, what was predicted, and what under attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats._files import whole

from .scores import Confusion

OPACITY = 0.65
WIDTH = 3.4  # of a panel, in inches


class Example(NamedTuple):
    """One scene.

    Attributes
    ----------
    image : uint8 array of shape (3, height, width)
        Red first.
    truth : int array of shape (height, width)
        The class of every pixel, or void.
    prediction : int array of shape (height, width)
        What was predicted.
    attacked : int array of shape (height, width), optional
        What was predicted under attack.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    attacked: NDArray[np.int64] | None = None


def draw_overlays(
    path: str | Path,
    examples: Sequence[Example],
    *,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    void: int = 255,
    attack: str = "attacked",
) -> None:
    """Write a picture with a row for each scene: image, truth, prediction, prediction under attack.

    Parameters
    ----------
    path : path
        Ends in .png, .pdf or .svg.
    examples : sequence of Example
        The scenes.
    names : sequence of str
        Of the classes.
    colours : sequence of (int, int, int)
        Red, green and blue of each, 0 to 255.
    void : int
        The label of pixels that do not count; they are shown dark.
    attack : str
        What the last column is called.

    Raises
    ------
    ValueError
        If there are no examples, or their shapes or labels do not fit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not examples:
        raise ValueError("expected one example at least")
    if len(names) != len(colours):
        raise ValueError(f"{len(names)} names of classes and {len(colours)} colours")
    columns = 3 if all(example.attacked is None for example in examples) else 4
    height, width = examples[0].truth.shape
    figure = Figure(
        figsize=(WIDTH * columns, (WIDTH * height / width + 0.3) * len(examples) + 0.8), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(examples), columns, squeeze=False)
    present: set[int] = set()
    for row, example in zip(grid, examples, strict=True):
        for axes, title, labels in zip(
            row,
            ("image", "truth", "prediction", attack),
            (None, example.truth, example.prediction, example.attacked),
            strict=False,
        ):
            axes.set_axis_off()
            if labels is None and title != "image":
                continue
            if labels is None:
                axes.imshow(example.image.transpose(1, 2, 0))
            else:
                axes.imshow(overlay(example.image, labels, colours, void=void))
                present |= set(np.unique(labels).tolist()) - {void}
            axes.set_title(title + _right(example, title, labels, len(names), void), loc="left", fontsize=10)
    figure.legend(
        handles=[Patch(color=np.array(colours[k]) / 255, label=names[k]) for k in sorted(present)],
        loc="outside lower left",
        ncols=2 * columns,
        frameon=False,
        fontsize=9,
    )
    with whole(Path(path)) as temporary:
        figure.savefig(temporary)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.int64],
    colours: Sequence[tuple[int, int, int]],
    *,
    void: int = 255,
) -> NDArray[np.uint8]:
    """The scene in grey with the colours of its classes over it.

    Parameters
    ----------
    image : uint8 array of shape (3, height, width)
        The scene.
    labels : int array of shape (height, width)
        The class of every pixel, or void.
    colours : sequence of (int, int, int)
        Red, green and blue of each class.
    void : int
        The label of pixels that have none; they are drawn black.

    Returns
    -------
    uint8 array of shape (height, width, 3)
        To be shown or saved.

    Raises
    ------
    ValueError
        If shapes differ, or there are labels without a colour.
    """
    if image.shape != (3, *labels.shape):
        raise ValueError(f"expected an image of shape {(3, *labels.shape)} for these labels, got {image.shape}")
    strange = sorted(set(np.unique(labels).tolist()) - {void, *range(len(colours))})
    if strange:
        raise ValueError(f"label {strange[0]} has no colour; there are {len(colours)}")
    table = np.array([*colours, (0, 0, 0)], dtype=float)
    paint = table[np.where(labels == void, len(colours), labels)]
    grey = image.mean(0)[..., None]
    return np.rint((1 - OPACITY) * grey + OPACITY * paint).astype(np.uint8)


def _right(example: Example, title: str, labels: NDArray[np.int64] | None, classes: int, void: int) -> str:
    """How many of the pixels a prediction has right, in words."""
    if labels is None or title == "truth" or (example.truth == void).all():
        return ""
    accuracy = Confusion.of(example.truth, labels, classes=classes, void=void).scores().pixel_accuracy
    return f", {accuracy:.0%} of pixels right"
