"""What an attack raises: images -> one loss an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Classification:
    """The loss that :func:`classification` and :func:`margin` make; attacks of a library find its parts.

    Attributes
    ----------
    net : callable
        Images -> logits.
    labels : Tensor
        The right classes.
    of_logits : callable
        Logits, labels -> losses.
    """

    net: Network
    labels: Tensor
    of_logits: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.of_logits(self.net(images), self.labels)


def classification(net: Network, labels: Tensor) -> Classification:
    """The cross entropy of every image.

    Parameters
    ----------
    net : callable
        Images (n, ...) -> logits (n, classes); a network, in the mode it is to be attacked in.
    labels : int64 Tensor of shape (n,)
        The right classes.

    Returns
    -------
    Classification
        Images -> losses of shape (n,).

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> loss = classification(lambda x: x.flatten(1), torch.tensor([0, 1]))
    >>> loss(torch.zeros(2, 1, 1, 2))
    tensor([0.6931, 0.6931])
    """
    return Classification(net, labels, _cross_entropy)


def margin(net: Network, labels: Tensor) -> Classification:
    """How far the best wrong class is above the right one.

    Its gradient does not vanish where the network is sure, as that of the cross entropy does in floating point;
    an attack that does better with it has met masked gradients, not robustness.

    Parameters
    ----------
    net : callable
        Images (n, ...) -> logits (n, classes).
    labels : int64 Tensor of shape (n,)
        The right classes.

    Returns
    -------
    Classification
        Images -> losses of shape (n,); above 0 where the class is wrong.

    References
    ----------
    Carlini & Wagner (2017), "Towards evaluating the robustness of neural networks", f6 in section V.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import margin
    >>> margin(lambda x: x, torch.tensor([2]))(torch.tensor([[1.0, 4.0, 9.0]]))
    tensor([-5.])
    """
    return Classification(net, labels, _margin)


def segmentation(net: Network, labels: Tensor, ignore_index: int = 255) -> Callable[[Tensor], Tensor]:
    """The cross entropy of every image, a mean over its labelled pixels.

    Parameters
    ----------
    net : callable
        Images (n, ...) -> logits (n, classes, ...), of the labels' size.
    labels : int64 Tensor of shape (n, ...)
        The right class of every pixel (or voxel).
    ignore_index : int
        The label of pixels that do not count.

    Returns
    -------
    callable
        Images -> losses of shape (n,); 0 for an image without any labelled pixel.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import segmentation
    >>> labels = torch.tensor([[[0, 1], [255, 255]]])
    >>> segmentation(lambda x: x.expand(-1, 4, -1, -1), labels)(torch.zeros(1, 1, 2, 2))
    tensor([1.3863])
    """
    counted = (labels != ignore_index).flatten(1).sum(1).clamp(min=1)

    def loss(images: Tensor) -> Tensor:
        pixels = functional.cross_entropy(net(images), labels, reduction="none", ignore_index=ignore_index)
        return pixels.flatten(1).sum(1) / counted

    return loss


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    right = functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(right, -torch.inf).amax(1) - logits[right]
