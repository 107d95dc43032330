"""The adversary of `WorstCase`: where to move the sample means so that an estimate's loss is largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Removed = Callable[[Array], Array]
"""From sum d^2 to the share of the deviation d that a rule removes."""

GRIDS = (32, 8, 8, 8)  # steps of a search along a line: over all of it, then each time around the best
ROUNDS = 24  # of the search for rules without symmetry


def worst_symmetric_loss(removed: Removed, squares: Array, along: Array, radius: float, budget: float) -> Array:
    r"""Largest loss of ``estimate = (1 - removed(|d|^2)) d`` when d may move within a ball.

    The loss :math:`f^2 |d|^2 - 2 f\, d \cdot \eta + |\eta|^2`, f the factor, depends on the moved deviation through its
    length and its part along the true one :math:`\eta` alone. Among moves of one length the worst has an extreme part
    along it: it lies in the plane of both vectors, on the edge of the ball or else on the line of :math:`\eta`. Both
    are searched on nested grids; relative errors stay near 1e-5.

    Parameters
    ----------
    removed : callable
    squares, along : array of shape (replicates,)
        |d|^2, and d along the unit vector of the true deviation, before the attack. In units of any one length.
    radius, budget : float
        Length of the true deviation, and of the largest move.

    Returns
    -------
    array of shape (replicates,)
        Infinite where a rule without positive part can be sent beyond all bounds.
    """
    across = np.sqrt(np.maximum(squares - along * along, 0.0))

    def loss(x: Array, y: Array) -> Array:
        length = np.maximum(np.hypot(x, y), 1e-160)  # not 0: there the factor of plain James-Stein has no limit
        with np.errstate(over="ignore", invalid="ignore"):
            moved = (1 - removed(length * length)) * length
            found = moved * (moved - 2 * radius * (x / length)) + radius * radius
        return np.where(np.isfinite(found), found, np.inf)

    def edge(angle: Array) -> Array:
        return loss(along + budget * np.cos(angle), across + budget * np.sin(angle))

    chord = np.sqrt(np.maximum(budget * budget - across * across, 0.0))

    def line(position: Array) -> Array:
        return np.where(across <= budget, loss(along + chord * position, np.zeros_like(across)), -np.inf)

    worst = np.maximum(_largest(edge, -np.pi, np.pi, squares.shape), _largest(line, -1.0, 1.0, squares.shape))
    return np.where(squares <= budget * budget, np.maximum(worst, loss(0 * along, 0 * along)), worst)


def _largest(f: Callable[[Array], Array], low: float, high: float, shape: tuple[int, ...]) -> Array:
    best, where, width = np.full(shape, -np.inf), np.full(shape, (low + high) / 2), (high - low) / 2
    for steps in GRIDS:
        center = where
        for i in range(steps + 1):
            x = center + width * (2 * i / steps - 1)
            value = f(np.clip(x, low, high))
            where = np.where(value > best, x, where)
            best = np.maximum(value, best)
        width = 2 * width / steps
    return best


def searched_loss(
    loss: Callable[[Array], Array], mean: Array, truth: Array, budget: float, norm: str, rng: np.random.Generator
) -> Array:
    """A large loss within the ball, found by trying directions and improving the best at random.

    A lower bound on the adversary's power: he may know better.

    Parameters
    ----------
    loss : callable
        From means of shape (replicates, c) to losses of shape (replicates,).
    mean, truth : array of shape (replicates, c) and (c,)
    budget : float
    norm : {"l2", "linf"}
    rng : numpy.random.Generator

    Returns
    -------
    array of shape (replicates,)
    """
    away = mean - truth
    best, best_move = loss(mean), np.zeros_like(mean)

    def attempt(direction: Array) -> None:
        nonlocal best, best_move
        move = scaled(direction, budget, norm)
        value = loss(mean + move)
        better = value > best
        best, best_move = np.where(better, value, best), np.where(better[:, None], move, best_move)

    for direction in (away, -away, mean, -mean, np.ones_like(mean), -np.ones_like(mean)):
        attempt(direction)
    for i in range(ROUNDS):
        attempt(best_move + budget * 0.8**i * scaled(rng.standard_normal(mean.shape), 1.0, norm))
    return best


def scaled(direction: Array, budget: float, norm: str) -> Array:
    """The move of this direction that uses up the budget."""
    if norm == "linf":
        return budget * np.where(direction >= 0, 1.0, -1.0)
    length = np.sqrt(np.sum(direction * direction, axis=-1, keepdims=True))
    return budget * direction / np.where(length > 0, length, 1.0)
