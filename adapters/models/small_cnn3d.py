"""The small 3D network of arXiv 2507.08261 for maps of fractional anisotropy.

State dict keys are those of the authors' implementation, sivolgina/stein_shrinkage, subgaussian_noise/fa_maps.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, prod
from numbers import Integral

from torch import Tensor, nn

from shrinkstats.adapters.models.normalization import NormLayer


class SmallCNN3d(nn.Module):
    """Four 3x3x3 convolutions of stride 2, to 3, 6, 6 and 6 channels; linear layers to 768, 16 and the classes.

    Parameters
    ----------
    num_classes : int
        Size of the output; 1 as in the paper: the logit of the positive class.
    norm_layer : callable
        Makes a normalization layer for a number of channels.
    input_size : three ints
        Voxels of a volume along its three axes. The first linear layer has a column for every voxel that is left of it
        in 6 channels, so the size is part of the network. Sizes with the same sides / 16, rounded up, are the same.
    in_channels : int
        Channels of the volumes.

    Raises
    ------
    ValueError
        input_size is not three positive integers; or a volume is of another size than the network was made for.

    Notes
    -----
    The authors' first linear layer has 1536 columns, hence 256 voxels are left of a volume: with sides that fit a brain
    8 x 8 x 4, from 113 to 128 voxels along two axes and 49 to 64 along the third. The default is the largest of these.

    Examples
    --------
    >>> import torch
    >>> sum(parameter.numel() for parameter in small_cnn3d().parameters())
    1195290
    >>> network = small_cnn3d(num_classes=2, input_size=(35, 51, 35))
    >>> network(torch.zeros(4, 1, 35, 51, 35)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        num_classes: int = 1,
        norm_layer: NormLayer = nn.BatchNorm3d,
        input_size: tuple[int, int, int] = (128, 128, 64),
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        sides = tuple(input_size) if isinstance(input_size, (tuple, list)) else (input_size,)
        if len(sides) != 3 or not all(isinstance(side, Integral) and side > 0 for side in sides):
            raise ValueError(f"input_size is {input_size!r}; give a volume's three sides in voxels, as (128, 128, 64)")
        self.input_size = sides
        layers: list[nn.Module] = []
        widths = (in_channels, 3, 6, 6, 6)
        for inputs, outputs in pairwise(widths):
            convolution = nn.Conv3d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, norm_layer(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.grid = tuple(ceil(side / 16) for side in sides)
        self.classifier = nn.Sequential(
            nn.Linear(6 * prod(self.grid), 768), nn.ReLU(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) of volumes (n, in_channels, d, h, w)."""
        y = self.features(x)
        if y.shape[2:] != self.grid:
            raise ValueError(
                f"volumes of {tuple(x.shape[2:])} voxels came to a network made for {self.input_size}; "
                "resample them, or make the network with input_size"
            )
        return self.classifier(y.flatten(1))


small_cnn3d = SmallCNN3d
