"""Images from 0 to 1 outside, standardized inside: attacks change what a camera sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardized(nn.Module):
    """A network that standardizes its input first.

    Parameters
    ----------
    net : torch.nn.Module
        Takes standardized images.
    mean, std : sequence of float
        Per channel, in the units of the images.

    Raises
    ------
    ValueError
        If there are not as many means as standard deviations, or one of these is not positive.

    Notes
    -----
    Mean and standard deviation are not in the state dict; the network's entries are there under "net.".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import Standardized
    >>> net = Standardized(torch.nn.Identity(), mean=[0.5, 0.25], std=[0.5, 0.25])
    >>> net(torch.ones(1, 2, 1, 1)).flatten()
    tensor([1., 3.])
    >>> list(net.state_dict())
    []
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean and std must be as many, each std above 0; got mean {mean} and std {std}")
        self.net = net
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's output for images (n, c, ...)."""
        shape = (-1, *[1] * (images.ndim - 2))
        mean, std = self.mean.reshape(shape), self.std.reshape(shape)
        return self.net((images - mean) / std)
