"""What an input and the vectors of a layer must agree in before compiled code reads them by their addresses."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from shrinkstats.adapters.torch.addresses import REAL
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS

VECTORS = ("running_mean", "running_var", "weight", "bias")


def check(layer: Any, x: Tensor, *, noise: bool) -> None:
    """Vectors of as many elements as x has channels, on its device; PyTorch's own error if not.

    With `noise` also what calibration measured. What a layer has not goes with any number of channels.

    Raises
    ------
    RuntimeError
        If a vector is of another length, dtype or device, as in PyTorch.
    ValueError
        If there is one of the running statistics without the other, as in PyTorch.
    """
    channels, device = x.size(1), x.device
    found = [vector_of(layer, name) for name in VECTORS]
    for name, v in zip(VECTORS, found, strict=True):
        if v is not None and not (v.shape == (channels,) and v.dtype in REAL and v.device == device):
            raise RuntimeError(_fault(name, v, channels, device))
    if (found[0] is None) != (found[1] is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    tables: list[Any] = [vector_of(layer, name) for name in NOISE_BUFFERS] if noise else [None]
    if tables[0] is not None:
        fault = unfit_noise(tables, channels)
        for name, v in zip(NOISE_BUFFERS, tables, strict=True):
            if not fault and v.device != device:
                fault = f"{name} is on {v.device}, the input on {device}"
        if fault:
            raise RuntimeError(f"{fault}; run calibrate anew")


def vector_of(layer: Any, name: str) -> Tensor | None:
    """A parameter or buffer, which a module finds slowly by itself; a parametrized one is neither."""
    for found in (layer._buffers, layer._parameters):
        if name in found:
            return found[name]
    return getattr(layer, name)


def unfit_noise(tables: list[Any], channels: int) -> str | None:
    """What is wrong with the noise buffers of a layer of so many channels."""
    rows = tables[1].shape[0] if isinstance(tables[1], Tensor) and tables[1].ndim == 2 else 1
    for name, v, shape in zip(NOISE_BUFFERS, tables, ((channels,), (rows, channels), (rows, channels)), strict=True):
        if not isinstance(v, Tensor):
            return f"{name} should be a tensor, got {type(v).__name__}"
        if v.shape != shape or not rows:
            wanted = f"({channels},)" if len(shape) == 1 else f"({rows or 'rows'}, {channels})"
            return f"{name} should have shape {wanted}, got {tuple(v.shape)}"
        if v.dtype not in REAL:
            return f"{name} should hold floating point numbers, got {v.dtype}"
    return None


def impossible_noise(calibration: dict[str, Tensor]) -> str | None:
    """Find out which of the noise buffers in a file holds what calibration cannot have measured."""
    for name, v in calibration.items():
        signed = name == "noise_sd_bias"
        least, words = (-math.inf, "numbers, not NaN or -inf") if signed else (0, "non-negative numbers")
        if not v.is_meta and not bool(((v >= least) & (v != -math.inf)).all()):  # inf: beyond half precision
            return f"{name} should hold {words}"
    return None


def _fault(name: str, v: Tensor, channels: int, device: Any) -> str:
    if v.numel() != channels:
        return f"{name} should contain {channels} elements not {v.numel()}"
    if v.ndim != 1:
        return f"{name} should be a vector of {channels} elements, got shape {tuple(v.shape)}"
    if v.dtype not in REAL:
        return f"{name} should hold floating point numbers, got {v.dtype}"
    return f"expected all tensors to be on the same device, but {name} is on {v.device} and the input on {device}"
