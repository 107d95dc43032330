"""The networks of Simonyan & Zisserman (2015) with batch normalization and one linear layer, for images of 32x32.

State dict keys are those of kuangliu/pytorch-cifar.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from shrinkstats.adapters.models.normalization import NormLayer


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by pooling.

    Parameters
    ----------
    convolutions : five ints
        Convolutions in each stage.
    num_classes : int
        Size of the output.
    norm_layer : callable
        Makes a normalization layer for a number of channels.
    """

    def __init__(
        self,
        convolutions: tuple[int, int, int, int, int],
        num_classes: int = 10,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for count, outputs in zip(convolutions, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), norm_layer(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) of images (n, 3, 32, 32)."""
        return self.classifier(self.features(x).flatten(1))


vgg11 = partial(VGG, (1, 1, 2, 2, 2))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
