"""Shrunken statistics inside PyTorch networks: layers, conversion of networks, test-time adaptation."""

from shrinkstats.adapters.torch.abnn import AdaptiveBatchNormNetwork
from shrinkstats.adapters.torch.adaptation import adapt, adapted, grouped, reset
from shrinkstats.adapters.torch.calibration import calibrate
from shrinkstats.adapters.torch.conversion import convert, revert
from shrinkstats.adapters.torch.landscape import Landscape, loss_landscape
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm1d, ShrinkBatchNorm2d, ShrinkBatchNorm3d
from shrinkstats.adapters.torch.shift import ErrorPredictor, ShiftReport, fit_error_predictor, shift_report

__all__ = [
    "AdaptiveBatchNormNetwork",
    "ErrorPredictor",
    "Landscape",
    "ShiftReport",
    "ShrinkBatchNorm1d",
    "ShrinkBatchNorm2d",
    "ShrinkBatchNorm3d",
    "adapt",
    "adapted",
    "calibrate",
    "convert",
    "fit_error_predictor",
    "grouped",
    "loss_landscape",
    "reset",
    "revert",
    "shift_report",
]
