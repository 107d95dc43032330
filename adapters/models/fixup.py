"""Residual networks for CIFAR without normalization: Fixup initialization (Zhang, Dauphin & Ma 2019).

State dict keys are those of the authors' implementation, hongyi-zhang/Fixup.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FixupBlock(nn.Module):
    """Two 3x3 convolutions with a scalar bias before and after each and one scale: rule 3 of the paper."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bias1a = nn.Parameter(torch.zeros(1))
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bias1b = nn.Parameter(torch.zeros(1))
        self.bias2a = nn.Parameter(torch.zeros(1))
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.bias2b = nn.Parameter(torch.zeros(1))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        y = self.conv2(y + self.bias2a) * self.scale + self.bias2b
        if self.stride > 1:  # twice the channels: subsampled, and as many zeros
            x = (x + self.bias1a)[:, :, :: self.stride, :: self.stride]
            x = torch.cat((x, torch.zeros_like(x)), dim=1)
        return F.relu(y + x)


class FixupResNet(nn.Module):
    """A network of 6 blocks + 2 layers, `blocks` to each of the three stages, without normalization.

    Parameters
    ----------
    blocks : int
        Blocks in a stage.
    num_classes : int
        Size of the output.
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bias1 = nn.Parameter(torch.zeros(1))
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            inputs, outputs = widths[stage - 1 : stage + 1]
            first = FixupBlock(inputs, outputs, 1 if stage == 1 else 2)
            others = [FixupBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *others))
        self.bias2 = nn.Parameter(torch.zeros(1))
        self.fc = nn.Linear(64, num_classes)
        self._initialize(residual_branches=3 * blocks)

    def _initialize(self, residual_branches: int) -> None:
        """Rules 1 and 2: zero for the last layer of each branch and of the network, L^(-1/2) for the others' scale."""
        for block in self.modules():
            if isinstance(block, FixupBlock):
                nn.init.kaiming_normal_(block.conv1.weight, mode="fan_out", nonlinearity="relu")
                with torch.no_grad():
                    block.conv1.weight.mul_(residual_branches**-0.5)
                nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) of images (n, 3, h, w)."""
        x = F.relu(self.conv1(x) + self.bias1)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)) + self.bias2)


fixup_resnet20 = partial(FixupResNet, 3)
fixup_resnet56 = partial(FixupResNet, 9)
