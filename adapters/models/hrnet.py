"""High-resolution networks with the V2 head for segmentation (Wang et al. 2020, arXiv 1908.07919).

Branches of halving resolutions and doubling widths run side by side and exchange what they know after every few blocks.
State dict keys are those of HRNet/HRNet-Semantic-Segmentation, lib/models/seg_hrnet.py.
"""

from __future__ import annotations

from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shrinkstats.adapters.models.normalization import NormLayer
from shrinkstats.adapters.models.resnet import BasicBlock


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of size 1x1, and a shortcut: four times as many channels come out as `planes`."""

    def __init__(self, inputs: int, planes: int, norm_layer: NormLayer) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm_layer(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)
        self.downsample = nn.Sequential()
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), norm_layer(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class HighResolutionModule(nn.Module):
    """Residual blocks in every branch; then each branch receives the sum of all, brought to its size and width."""

    def __init__(self, widths: list[int], blocks: int, norm_layer: NormLayer) -> None:
        super().__init__()
        branches = range(len(widths))
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1, norm_layer) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source, target, norm_layer) for source in branches) for target in branches
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        fused = []
        for own, layers in zip(xs, self.fuse_layers, strict=True):
            parts = (_resize(layer(x), own) for layer, x in zip(layers, xs, strict=True))
            fused.append(F.relu(reduce(torch.add, parts)))
        return fused


def _exchange(widths: list[int], source: int, target: int, norm_layer: NormLayer) -> nn.Module:
    """The width of branch target for what comes from branch source, and its size where that is the smaller one."""
    if source == target:
        return nn.Identity()
    if source > target:  # enlarged by interpolation, in HighResolutionModule.forward
        inputs, outputs = widths[source], widths[target]
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), norm_layer(outputs))
    halvings = [_convolution(widths[source], widths[source], norm_layer, stride=2) for _ in range(target - source - 1)]
    last = _convolution(widths[source], widths[target], norm_layer, stride=2)
    return nn.Sequential(*halvings, last[:2])  # the ReLU comes after the sum


def _convolution(inputs: int, outputs: int, norm_layer: NormLayer, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, norm_layer(outputs), nn.ReLU())


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class HRNet(nn.Module):
    """A network of four stages, of one to four branches.

    Convolutions start as in He et al. (2015); the authors start from weights trained on ImageNet.

    Parameters
    ----------
    num_classes : int
        Channels of the output; Cityscapes has 19.
    norm_layer : callable
        Makes a normalization layer for a number of channels.
    stem_stride : int
        Stride of each of the two convolutions of the stem. 2 as published: logits at a quarter of the image's size.
        1: at full size, for about 16 times the work (the network of arXiv 2507.08261).
    width : int
        Channels of the first branch; each further branch has twice as many.
    blocks : int
        Residual blocks between two exchanges.
    modules : three ints
        Exchanges in the second, third and fourth stage.
    bottlenecks : two ints
        Blocks of the first stage, and their inner channels.

    Notes
    -----
    The authors' training saves the network inside another module: take the prefix ``model.`` off the keys, and leave
    out keys without it, before ``load_state_dict``. Branches are enlarged with ``align_corners=False``, as in the
    authors' versions for PyTorch 0.4.1 and 1.1. Weights of their branch HRNet-OCR have the same keys, but were trained
    with ``align_corners=True``: they load, and give slightly different logits.

    Examples
    --------
    Logits at the image's size, for a loss or a prediction, come from interpolation.

    >>> network = hrnet_w18_small_v1(num_classes=11).eval()
    >>> images = torch.zeros(1, 3, 36, 64)
    >>> logits = network(images)
    >>> logits.shape
    torch.Size([1, 11, 9, 16])
    >>> F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False).shape
    torch.Size([1, 11, 36, 64])
    """

    def __init__(
        self,
        num_classes: int = 19,
        norm_layer: NormLayer = nn.BatchNorm2d,
        stem_stride: int = 2,
        *,
        width: int,
        blocks: int,
        modules: tuple[int, int, int],
        bottlenecks: tuple[int, int],
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = norm_layer(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=stem_stride, padding=1, bias=False)
        self.bn2 = norm_layer(64)

        count, planes = bottlenecks
        inputs = [64, *[4 * planes] * (count - 1)]
        self.layer1 = nn.Sequential(*(Bottleneck(channels, planes, norm_layer) for channels in inputs))

        widths = [width * 2**branch for branch in range(4)]

        def stage(branches: int) -> nn.Sequential:
            count = modules[branches - 2]
            return nn.Sequential(*(HighResolutionModule(widths[:branches], blocks, norm_layer) for _ in range(count)))

        def new_branch(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(_convolution(inputs, outputs, norm_layer, stride=2))

        # A transition leaves the branches as they are and makes one more of the last. The first also narrows.
        narrow = _convolution(4 * planes, widths[0], norm_layer)
        keep = nn.Identity()
        self.transition1 = nn.ModuleList([narrow, new_branch(4 * planes, widths[1])])
        self.stage2 = stage(2)
        self.transition2 = nn.ModuleList([keep, keep, new_branch(widths[1], widths[2])])
        self.stage3 = stage(3)
        self.transition3 = nn.ModuleList([keep, keep, keep, new_branch(widths[2], widths[3])])
        self.stage4 = stage(4)

        features = sum(widths)
        self.last_layer = nn.Sequential(
            nn.Conv2d(features, features, 1), norm_layer(features), nn.ReLU(), nn.Conv2d(features, num_classes, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes, ceil(h / 4), ceil(w / 4)) of images (n, 3, h, w); stem_stride 1: (h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        xs = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            xs = stage([layer(x) for layer, x in zip(transition, [*xs, xs[-1]], strict=True)])
        return self.last_layer(torch.cat([_resize(x, xs[0]) for x in xs], dim=1))


# The authors' names: small-v1 has the depth of their smallest network, and 16 channels.
hrnet_w18_small_v1 = partial(HRNet, width=16, blocks=2, modules=(1, 1, 1), bottlenecks=(1, 32))
hrnet_w18_small_v2 = partial(HRNet, width=18, blocks=2, modules=(1, 3, 2), bottlenecks=(2, 64))
hrnet_w18 = partial(HRNet, width=18, blocks=4, modules=(1, 4, 3), bottlenecks=(4, 64))
hrnet_w48 = partial(HRNet, width=48, blocks=4, modules=(1, 4, 3), bottlenecks=(4, 64))
