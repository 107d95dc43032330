"""The rectangular occlusion attack: something put in front of the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shrinkstats._arrays import positive_number
from shrinkstats.adapters.attacks.attack import Attack, Bounds, Loss, gradient, losses_of
from shrinkstats.adapters.attacks.gradients import direction

POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


@dataclass(frozen=True)
class Occlusion(Attack):
    """A rectangle at the worst place, filled with the worst there is.

    A gray rectangle is tried at places of a grid; where it raises the loss most, its content then follows the sign of
    the gradient over the whole range of the images. Each image has a place of its own.

    Parameters
    ----------
    size : int or tuple of int
        Of the rectangle, in pixels along each axis behind the channels (a box in volumes); one number serves all.
    stride : int
        Of the grid, in pixels.
    candidates : int, optional
        Places tried: those where the summed squares of the gradient are largest. None tries all.
    steps : int
        Gradients taken for the content.
    step : float, optional
        Length of a step, in the units of the images; 2.5 / steps times half their range if left out.

    Raises
    ------
    ValueError
        If a number is not positive; when called, if the rectangle does not fit the images or the bounds are infinite.

    References
    ----------
    Wu, Tong & Vorobeychik (2020), "Defending against physically realizable attacks on image classification",
    algorithm 1 and its gradient-based search.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import Occlusion
    >>> loss = lambda x: -x[:, 0, 2:, 2:].mean((1, 2))
    >>> Occlusion(2, stride=1)(loss, torch.full((1, 1, 4, 4), 0.5))
    tensor([[[[0.5000, 0.5000, 0.5000, 0.5000],
              [0.5000, 0.5000, 0.5000, 0.5000],
              [0.5000, 0.5000, 0.0000, 0.0000],
              [0.5000, 0.5000, 0.0000, 0.0000]]]])
    """

    size: int | tuple[int, ...] = 7
    stride: int = 2
    candidates: int | None = 30
    steps: int = 20
    step: float | None = None

    def __post_init__(self) -> None:
        sizes = (self.size,) if isinstance(self.size, int) else self.size
        counts = {"size": min(sizes), "stride": self.stride, "candidates": self.candidates or 1, "steps": self.steps}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.candidates == 0:
            raise ValueError("candidates must be at least 1, or None for all places; got 0")
        if self.step is not None:
            positive_number("step", self.step)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        low, high = bounds
        if not math.isfinite(high - low):
            raise ValueError(f"the rectangle starts as the middle gray of the bounds; ({low}, {high}) have none")
        gray, step = (low + high) / 2, 2.5 * (high - low) / 2 / self.steps if self.step is None else self.step
        starts = self._candidates(loss, images)
        with torch.no_grad():
            tried = [losses_of(loss, images.masked_fill(self._inside(images, start), gray)) for start in starts]
        worst = torch.stack(tried).argmax(0)
        inside = self._inside(images, starts[worst, torch.arange(len(images), device=images.device)])
        x = images.masked_fill(inside, gray)
        for _ in range(self.steps):
            x = torch.where(inside, (x + step * direction(gradient(loss, x), "linf")).clamp(low, high), images)
        return x

    def _candidates(self, loss: Loss, images: Tensor) -> Tensor:
        """First corners of the rectangles to try, of shape (candidates, n, axes)."""
        sizes = self._sizes(images)
        grid = [(length - size) // self.stride + 1 for length, size in zip(images.shape[2:], sizes, strict=True)]
        places = math.prod(grid)
        if self.candidates is None:
            chosen = torch.arange(places, device=images.device).expand(len(images), places)
        else:
            slope = gradient(loss, images).float().abs()
            largest = slope.flatten(1).amax(1).clamp(min=torch.finfo(slope.dtype).tiny)
            squares = (slope / largest.reshape(-1, *[1] * (slope.ndim - 1))).square().sum(1, keepdim=True)
            sums = POOLS[len(sizes) - 1](squares, sizes, stride=self.stride)
            chosen = sums.flatten(1).topk(min(self.candidates, places)).indices
        return self.stride * torch.stack(torch.unravel_index(chosen.T, grid), dim=-1)

    def _inside(self, images: Tensor, start: Tensor) -> Tensor:
        """Where the rectangles lie, as booleans of shape (n, 1, ...); `start` has shape (n, axes)."""
        inside = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool, device=images.device)
        for axis, size in enumerate(self._sizes(images)):
            shape = [-1 if k == axis else 1 for k in range(start.shape[1])]
            along = torch.arange(images.shape[2 + axis], device=images.device).reshape(shape)
            first = start[:, axis].reshape(-1, 1, *[1] * start.shape[1])
            inside &= (along >= first) & (along < first + size)
        return inside

    def _sizes(self, images: Tensor) -> tuple[int, ...]:
        axes = images.shape[2:]
        sizes = (self.size,) * len(axes) if isinstance(self.size, int) else self.size
        if not 1 <= len(axes) <= 3 or len(sizes) != len(axes) or any(s > a for s, a in zip(sizes, axes, strict=True)):
            raise ValueError(f"a rectangle of {self.size} does not fit images of shape {tuple(images.shape)}")
        return sizes
