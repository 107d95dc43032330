"""The residual networks of He et al. (2016) for CIFAR: three stages of 16, 32 and 64 channels, shortcuts A.

State dict keys are those of the reference implementation akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shrinkstats.adapters.models.normalization import NormLayer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm_layer(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm_layer(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: subsampling and zero channels on both sides, without parameters."""
        if not self.padding and self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class CifarResNet(nn.Module):
    """A network of 6 blocks + 2 layers, `blocks` to each of the three stages.

    Parameters
    ----------
    blocks : int
        Blocks in a stage.
    num_classes : int
        Size of the output.
    norm_layer : callable
        Makes a normalization layer for a number of channels.
    in_channels : int
        Channels of the images.
    """

    def __init__(
        self, blocks: int, num_classes: int = 10, norm_layer: NormLayer = nn.BatchNorm2d, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = norm_layer(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            inputs, outputs = widths[stage - 1 : stage + 1]
            first = BasicBlock(inputs, outputs, 1 if stage == 1 else 2, norm_layer)
            others = [BasicBlock(outputs, outputs, 1, norm_layer) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *others))
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) of images (n, in_channels, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


resnet20 = partial(CifarResNet, 3)
resnet32 = partial(CifarResNet, 5)
resnet38 = partial(CifarResNet, 6)
resnet44 = partial(CifarResNet, 7)
resnet56 = partial(CifarResNet, 9)
resnet110 = partial(CifarResNet, 18)
