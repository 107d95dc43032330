"""Measure, on training data, how much the statistics of small batches scatter without any shift."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from shrinkstats.adapters.torch.conversion import Model, convert, convertible_layers, shrinking_layers
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS, measure
from shrinkstats.estimators import BatchStatistics


@torch.no_grad()
def calibrate(model: Model, loader: Iterable[Any], *, batches: int = 10) -> Model:
    """Store in every batch norm layer the sampling noise to expect of its batch statistics.

    A Stein blend (:func:`adapt`) needs it to tell shift from chance, above all at batch size 1. Some hundred
    training images do. Plain batch norm layers are converted on the way, with ``BatchStatistics()``, which
    computes what they did.

    Parameters
    ----------
    model : torch.nn.Module
        A network whose batch norm layers have running statistics.
    loader : iterable
        Yields tensors of training images, or tuples or lists whose first entry is one.
    batches : int
        How many of its batches to look at.

    Returns
    -------
    torch.nn.Module
        The same object, its layers with the buffers `noise_mean`, `noise_sd` and `noise_sd_bias`, which follow
        state_dict, deepcopy and the device. Parameters, running statistics and modes are left as they were.

    Raises
    ------
    TypeError
        If the loader yields something else, or a layer cannot be converted.
    ValueError
        If there are fewer than 2 images, a layer has no running statistics, or values are not finite.
    """
    found = convertible_layers(model)
    for name, layer in found.items():
        if layer.running_mean is None:
            raise ValueError(f"layer {name} has no running statistics (track_running_stats=False) to calibrate for")
    for layer in found.values():
        if not isinstance(layer, ShrinkBatchNorm):
            convert(layer, BatchStatistics())
    layers = shrinking_layers(model)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    with ExitStack() as stack:
        _evaluate_plainly(model, layers, stack)
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(_per_image(*inputs)))
            stack.callback(hook.remove)
        for batch in islice(loader, batches):
            model(_images(batch, layers))
    measured = {}
    for name, parts in seen.items():
        means, variances = (torch.cat(part) for part in zip(*parts, strict=True)) if parts else (torch.empty(0, 0),) * 2
        if len(means) < 2:
            raise ValueError(f"layer {name} saw {len(means)} images; calibration needs at least 2, better hundreds")
        measured[name] = measure(means, variances, layers[name].running_var.to(means.dtype))
        if not all(torch.isfinite(value).all() for value in measured[name]):
            raise ValueError(f"layer {name} saw values that are not finite; check the images and the checkpoint")
    for name, layer in layers.items():
        for buffer, value in zip(NOISE_BUFFERS, measured[name], strict=True):
            setattr(layer, buffer, value.to(layer.running_var.dtype))
    return model


def _evaluate_plainly(model: nn.Module, layers: dict[str, ShrinkBatchNorm], stack: ExitStack) -> None:
    """Evaluation with running statistics, which lets images pass independently of each other, until the stack ends."""
    for module in model.modules():
        stack.callback(setattr, module, "training", module.training)
    for layer in layers.values():
        stack.callback(setattr, layer, "adaptation", layer.adaptation)
        layer.adaptation = None
    model.eval()


def _images(batch: Any, layers: dict[str, ShrinkBatchNorm]) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor):
        raise TypeError(
            f"the loader must yield tensors, or tuples whose first entry is one, got {type(images).__name__}"
        )
    return images.to(next(iter(layers.values())).running_mean.device)


def _per_image(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (ddof=0) of every channel of every image, in float64 where there is one."""
    wide = torch.float64 if x.device.type in ("cpu", "cuda") else torch.float32
    var, mean = torch.var_mean(x.detach().flatten(2).to(wide) if x.ndim > 2 else x[..., None].to(wide), 2, correction=0)
    return mean, var
