"""Residual networks with four stages of 64 to 512 channels, fitted to CIFAR: no pooling before the stages.

State dict keys are those of kuangliu/pytorch-cifar.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shrinkstats.adapters.models.normalization import NormLayer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm_layer(planes)
        self.shortcut = _shortcut(inputs, planes, stride, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of size 1x1, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, norm_layer: NormLayer) -> None:
        super().__init__()
        outputs = self.expansion * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm_layer(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, norm_layer: NormLayer) -> nn.Sequential:
    """The identity where shapes agree, else a 1x1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm_layer(outputs))


class ResNet(nn.Module):
    """A residual network for small images.

    Parameters
    ----------
    block : BasicBlock or Bottleneck
        What the stages are made of.
    blocks : four ints
        Blocks in each stage.
    num_classes : int
        Size of the output.
    norm_layer : callable
        Makes a normalization layer for a number of channels.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int = 10,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = norm_layer(64)
        inputs = 64
        for stage, count in enumerate(blocks, start=1):
            planes = 32 * 2**stage
            layers = []
            for position in range(count):
                stride = 2 if stage > 1 and position == 0 else 1
                layers.append(block(inputs, planes, stride, norm_layer))
                inputs = block.expansion * planes
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) of images (n, 3, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(2, 3)))


resnet9 = partial(ResNet, BasicBlock, (1, 1, 1, 1))
resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
