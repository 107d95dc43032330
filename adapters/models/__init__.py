"""Networks whose state dicts have the keys and shapes of published checkpoints."""

from shrinkstats.adapters.models.cifar_resnet import resnet20, resnet32, resnet38, resnet44, resnet56, resnet110

__all__ = ["resnet20", "resnet32", "resnet38", "resnet44", "resnet56", "resnet110"]
