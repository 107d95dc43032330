"""Normalization layers as the networks take them: made for a number of channels."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from torch import nn

NormLayer = Callable[[int], nn.Module]


def group_norm(num_features: int) -> nn.GroupNorm:
    """Group normalization (Wu & He 2018) of 32 groups, fewer where a group would have less than 4 channels.

    Parameters
    ----------
    num_features : int
        Number of channels.

    Returns
    -------
    torch.nn.GroupNorm
        A layer without batch statistics, the same for every batch size.

    Examples
    --------
    >>> [group_norm(channels).num_groups for channels in (16, 64, 512)]
    [4, 16, 32]
    """
    return nn.GroupNorm(gcd(num_features, max(1, min(32, num_features // 4))), num_features)
