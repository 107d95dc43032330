"""Batch statistics make every image's mates take part: who sits with whom, drawn anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shrinkstats.adapters.attacks.attack import Loss
from shrinkstats.adapters.attacks.losses import Network


def regrouped(
    net: Network, size: int, *, mates: Tensor | None = None, generator: torch.Generator | None = None
) -> Network:
    """The network, fed in batches whose members are drawn anew at every call.

    Parameters
    ----------
    net : callable
        Images -> outputs, in the mode that is meant (batch statistics, that is).
    size : int
        Images a batch.
    mates : Tensor, optional
        More images that sit in the batches, and whose outputs are left out: clean ones among attacked ones.
    generator : torch.Generator, optional
        Of the draws; PyTorch's own if left out.

    Returns
    -------
    callable
        Images (n, ...) -> outputs in the images' order. It raises ValueError if images and mates together do not
        divide into batches of that size.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import regrouped
    >>> net = regrouped(lambda x: x - x.mean(), 2)
    >>> sorted(net(torch.tensor([1.0, 2.0])).tolist())
    [-0.5, 0.5]
    """
    if size < 1:
        raise ValueError(f"a batch has at least 1 image, got {size}")

    def call(images: Tensor) -> Tensor:
        seats = images if mates is None else torch.cat([images, mates])
        if len(seats) % size:
            count = f"{len(images)} images and {len(seats) - len(images)} mates"
            raise ValueError(f"{count} do not divide into batches of {size}; pass a multiple")
        order = torch.randperm(len(seats), generator=generator, device=generator.device if generator else "cpu")
        order = order.to(images.device)
        outputs = torch.cat([net(seats[batch]) for batch in order.split(size)])
        return outputs[order.argsort()][: len(images)]

    return call


def over_mates(
    make_loss: Callable[[Network], Loss],
    net: Network,
    size: int,
    *,
    draws: int = 4,
    mates: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Loss:
    """A loss averaged over draws of batch mates, for an attack that knows they will be others.

    Parameters
    ----------
    make_loss : callable
        Network -> loss, ``functools.partial(classification, labels=labels)`` for example.
    net : callable
        Images -> outputs, in the mode that is meant (batch statistics, that is).
    size : int
        Images a batch.
    draws : int
        Into so many sets of batches all images go, anew at every evaluation.
    mates : Tensor, optional
        Clean images that sit among the attacked ones; without them all mates are attacked too.
    generator : torch.Generator, optional
        Of the draws.

    Returns
    -------
    callable
        Images -> losses of shape (n,), random.

    References
    ----------
    Athalye, Engstrom, Ilyas & Kwok (2018), "Synthesizing robust adversarial examples": expectation over
    transformations.

    Examples
    --------
    >>> from functools import partial
    >>> import torch
    >>> from shrinkstats.adapters.attacks import FGSM, classification, over_mates
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    >>> images, labels = torch.rand(8, 3), torch.arange(8) % 3
    >>> loss = over_mates(partial(classification, labels=labels), net, 4)
    >>> FGSM(0.1)(loss, images).shape
    torch.Size([8, 3])
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    loss = make_loss(regrouped(net, size, mates=mates, generator=generator))

    def mean(images: Tensor) -> Tensor:
        return torch.stack([loss(images) for _ in range(draws)]).mean(0)

    return mean
