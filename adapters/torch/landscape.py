"""The loss around a network's weights, along random directions in which every filter is moved by its own length."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shrinkstats._files import whole


@dataclass(frozen=True)
class Landscape:
    """What :func:`loss_landscape` found.

    Attributes
    ----------
    coordinates : array of shape (steps,)
        How far the weights were moved along each direction; 1 is the length of every filter.
    losses : array of shape (steps,) or (steps, steps)
        Entry [i, j] is the loss at ``coordinates[i]`` of the first and ``coordinates[j]`` of the second direction.
    """

    coordinates: NDArray[np.float64]
    losses: NDArray[np.float64] = field(repr=False)

    def plot(self, path: str | Path | None = None) -> Any:
        """A curve for one direction, lines of equal loss for two; needs matplotlib.

        Parameters
        ----------
        path : path, optional
            Where to write the picture; its ending says how.

        Returns
        -------
        matplotlib.figure.Figure
            One panel.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.8, 4.2), layout="constrained")
        axis = figure.subplots()
        self.draw(axis)
        axis.set_xlabel("first direction, lengths of the filters")
        if path is not None:
            with whole(Path(path)) as temporary:
                figure.savefig(temporary)
        return figure

    def draw(self, axis: Any, *, levels: NDArray[np.float64] | None = None) -> None:
        """The same, into a panel of your own.

        Parameters
        ----------
        axis : matplotlib.axes.Axes
            The panel.
        levels : array, optional
            Rising losses to draw lines at, for several panels to share; those of a surface's own range if left out.
        """
        from matplotlib.colors import LogNorm

        finite = self.losses[np.isfinite(self.losses)]
        if finite.size == 0:
            return
        axis.spines[["top", "right"]].set_visible(False)
        if self.losses.ndim == 1:
            axis.plot(self.coordinates, self.losses, color="#0072B2")
            axis.set_ylabel("loss")
            axis.grid(color="#dddddd")
            return
        if levels is None:  # losses differ by orders of magnitude: lines at equal ratios
            low, high = max(float(finite.min()), 1e-3 * float(finite.max()), 1e-12), max(float(finite.max()), 1e-12)
            levels = np.geomspace(low, high, 14)
        ceiling = 1.01 * float(levels[-1])
        shown = np.minimum(np.where(np.isnan(self.losses), math.inf, self.losses), ceiling)
        inside = levels[(levels > shown.min()) & (levels < shown.max())]
        scale = LogNorm(float(levels[0]), float(levels[-1]))
        if inside.size:  # the transpose, since the first direction goes to the right
            lines = axis.contour(
                self.coordinates, self.coordinates, shown.T, levels=inside, norm=scale, cmap="viridis", linewidths=0.9
            )
            axis.clabel(lines, inside[::2], fmt=lambda loss: f"{loss:.2g}" if loss < 10 else f"{loss:.0f}", fontsize=7)
        axis.plot(0, 0, "k+", markersize=8)
        axis.set_aspect("equal")
        axis.set_ylabel("second direction")


@torch.no_grad()
def loss_landscape(
    net: nn.Module,
    loss_of_net: Callable[[nn.Module], Tensor | float],
    *,
    span: float = 1.0,
    steps: int = 25,
    seed: int = 0,
    directions: int = 2,
) -> Landscape:
    r"""Losses on a grid of weights around those of a network, in filter-normalized directions.

    Each direction is a random :math:`d` with the shape of the weights. Each of its filters gets the length of the
    weights' filter, :math:`d_f \leftarrow d_f \lVert\theta_f\rVert / \lVert d_f\rVert`, so that landscapes of networks
    with weights of different scale can be compared. A filter is a slice along the first axis of a parameter with two
    or more axes. Parameters with one, as biases and those of batch norm, stay, as in the paper's code.

    Parameters
    ----------
    net : torch.nn.Module
        The network. It is never changed, not for a moment: copies are moved, so that an interruption does no harm.
    loss_of_net : callable
        Takes a copy and returns its loss, a number, such as the mean over some images; called without gradients. The
        copy has the modes and buffers of `net`: in evaluation batch norm keeps the running statistics of the middle,
        with batch statistics it sees those that the moved weights cause.
    span : float
        The grid reaches from -span to span, in lengths of the filters.
    steps : int
        Points along each direction; odd for one in the middle.
    seed : int
        Of the random directions, the same on every device.
    directions : int
        1 for a curve, 2 for a surface.

    Returns
    -------
    Landscape
        The grid, its losses, and a picture of them.

    Raises
    ------
    ValueError
        If steps is below 2, span not positive, directions neither 1 nor 2, or no parameter has two axes.

    References
    ----------
    Li, Xu, Taylor, Studer & Goldstein (2018), "Visualizing the loss landscape of neural nets", section 4.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch.landscape import loss_landscape
    >>> net = nn.Linear(3, 2)
    >>> x, y = torch.ones(4, 3), torch.zeros(4, 2)
    >>> found = loss_landscape(net, lambda net: nn.functional.mse_loss(net(x), y), steps=5)
    >>> found.coordinates
    array([-1. , -0.5,  0. ,  0.5,  1. ])
    >>> bool(abs(found.losses[2, 2] - nn.functional.mse_loss(net(x), y).item()) < 1e-6)  # the middle
    True
    """
    if steps < 2 or not 0 < span < math.inf or directions not in (1, 2):
        raise ValueError(
            "expected steps of 2 or more, a positive span and 1 or 2 directions, "
            f"got steps={steps}, span={span}, directions={directions}"
        )
    generator = torch.Generator().manual_seed(seed)
    moves = [_direction(net, generator) for _ in range(directions)]
    coordinates = np.linspace(-span, span, steps)
    losses = np.empty([steps] * directions)
    for place in product(range(steps), repeat=directions):
        moved = copy.deepcopy(net)  # anew for every point: buffers, modes and memories as they were
        parameters = dict(moved.named_parameters())
        for i, move in zip(place, moves, strict=True):
            for name, way in move.items():
                parameters[name].add_(way, alpha=float(coordinates[i]))
        losses[place] = float(loss_of_net(moved))
    return Landscape(coordinates, losses)


def _direction(net: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction, every filter as long as the network's, by the names of the parameters that it moves."""
    direction = {}
    for name, weights in net.named_parameters():
        if weights.ndim < 2:
            continue
        random = torch.randn(weights.shape, generator=generator, dtype=torch.float64, device="cpu").flatten(1)
        lengths = weights.detach().flatten(1).double().norm(dim=1, keepdim=True).cpu()
        random *= lengths / random.norm(dim=1, keepdim=True)
        direction[name] = random.view(weights.shape).to(weights)
    if not direction:
        raise ValueError("the network has no parameter with two or more axes, so no filters to move")
    return direction
