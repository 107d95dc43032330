"""Networks whose state dicts have the keys and shapes of published checkpoints."""

from shrinkstats.adapters.models.cifar_resnet import resnet20, resnet32, resnet38, resnet44, resnet56, resnet110
from shrinkstats.adapters.models.fixup import fixup_resnet20, fixup_resnet56
from shrinkstats.adapters.models.hrnet import hrnet_w18, hrnet_w18_small_v1, hrnet_w18_small_v2, hrnet_w48
from shrinkstats.adapters.models.normalization import group_norm
from shrinkstats.adapters.models.resnet import resnet9, resnet18, resnet34, resnet50
from shrinkstats.adapters.models.small_cnn3d import small_cnn3d
from shrinkstats.adapters.models.vgg import vgg11, vgg16

__all__ = [
    "fixup_resnet20",
    "fixup_resnet56",
    "group_norm",
    "hrnet_w18",
    "hrnet_w18_small_v1",
    "hrnet_w18_small_v2",
    "hrnet_w48",
    "resnet9",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet38",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "small_cnn3d",
    "vgg11",
    "vgg16",
]
