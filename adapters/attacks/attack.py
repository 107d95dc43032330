"""What all attacks share: the way they are called, and what is checked before and after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Attack:
    """Base of the attacks: images in, changed images out.

    A subclass is a frozen dataclass that defines ``_change(loss, images, generator, bounds)``, called with gradients
    enabled; everything else is checked here.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import Attack
    >>> class Negative(Attack):
    ...     def _change(self, loss, images, generator, bounds):
    ...         return sum(bounds) - images
    >>> Negative()(lambda x: x.flatten(1).sum(1), torch.tensor([[0.25, 1.0]]))
    tensor([[0.7500, 0.0000]])
    """

    def __call__(
        self,
        loss: Loss,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        bounds: Bounds = (0.0, 1.0),
    ) -> Tensor:
        """The images after the attack.

        Parameters
        ----------
        loss : callable
            Images (n, ...) -> losses of shape (n,), which the attack raises. See :func:`classification` and
            :func:`segmentation`; anything differentiable will do.
        images : Tensor
            Of a floating dtype and shape (n, ...), within the bounds. They are not changed.
        generator : torch.Generator, optional
            Where random numbers come from; PyTorch's own if left out. One of the CPU serves images on any device
            with the same numbers.
        bounds : (float, float)
            The range of all values. ``(-inf, inf)`` is none.

        Returns
        -------
        Tensor
            Of the images' shape, dtype and device, within the bounds, apart from any graph. The gradients stored in
            parameters and the mode of the network stay as they were; statistics that a network in training tracks
            move with every forward pass, here as elsewhere.

        Raises
        ------
        TypeError
            If the images are no floating tensor.
        ValueError
            If they leave the bounds or hold NaN, the loss has another shape or does not depend on the images, or the
            attack ran into NaN.
        """
        _check(images, bounds)
        if images.numel() == 0:
            return images.clone()
        with torch.inference_mode(False), torch.enable_grad():
            changed = self._change(loss, images.detach().clone(), generator, bounds).detach()
        if changed.isnan().any():
            raise ValueError(f"{self} ended in NaN: the gradient of the loss is NaN; is the network's output finite?")
        return changed

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _change(loss, images, generator, bounds)")


def losses_of(loss: Loss, images: Tensor) -> Tensor:
    """The loss of every image, after a look at its shape."""
    losses = loss(images)
    if losses.shape != images.shape[:1]:
        raise ValueError(
            f"the loss of {len(images)} images has shape {tuple(losses.shape)}, expected {tuple(images.shape[:1])}: "
            "return one loss an image, not reduced over the batch"
        )
    return losses


def gradient(loss: Loss, images: Tensor) -> Tensor:
    """The gradient of the summed losses with respect to the images; parameters collect nothing."""
    x = images.detach().requires_grad_()
    total = losses_of(loss, x).sum()
    (found,) = torch.autograd.grad(total, x, allow_unused=True) if total.requires_grad else (None,)
    if found is None:
        raise ValueError("the loss does not depend on the images by a differentiable path: is there a detach?")
    return found


def random(
    draw: Callable[..., Tensor], shape: torch.Size | tuple[int, ...], images: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Numbers by torch.rand or torch.randn, drawn where the generator lives, in the dtype and place of the images."""
    device = images.device if generator is None else generator.device
    dtype = torch.promote_types(images.dtype, torch.float32)
    return draw(shape, generator=generator, device=device, dtype=dtype).to(images.device)


def _check(images: Tensor, bounds: Bounds) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a floating tensor within the bounds, got {kind}; use x.float() / 255 for bytes"
        )
    if images.ndim < 2:
        raise ValueError(f"images must have shape (n, ...), got {tuple(images.shape)}; use x[None] for a single one")
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got ({low}, {high})")
    if images.numel():
        least, most = (float(v) for v in images.detach().aminmax())
        if math.isnan(least) or not low <= least <= most <= high:
            raise ValueError(
                f"images must lie from {low:g} to {high:g}, got values from {least:g} to {most:g}; pass images before "
                "standardization (see Standardized), or other bounds"
            )
