"""Shrunken statistics inside PyTorch networks: layers, conversion of networks, test-time adaptation."""

from shrinkstats.adapters.torch.adaptation import adapt, reset
from shrinkstats.adapters.torch.calibration import calibrate
from shrinkstats.adapters.torch.conversion import convert, revert
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm1d, ShrinkBatchNorm2d, ShrinkBatchNorm3d

__all__ = [
    "ShrinkBatchNorm1d",
    "ShrinkBatchNorm2d",
    "ShrinkBatchNorm3d",
    "adapt",
    "calibrate",
    "convert",
    "reset",
    "revert",
]
