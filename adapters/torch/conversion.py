"""Put estimators into the batch norm layers of a network, and take them out again."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shrinkstats.adapters.torch.layers import (
    ShrinkBatchNorm,
    ShrinkBatchNorm1d,
    ShrinkBatchNorm2d,
    ShrinkBatchNorm3d,
    check_estimator,
)
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS
from shrinkstats.estimators import Estimator

CLASSES: dict[type[nn.Module], type[ShrinkBatchNorm]] = {
    nn.BatchNorm1d: ShrinkBatchNorm1d,
    nn.BatchNorm2d: ShrinkBatchNorm2d,
    nn.BatchNorm3d: ShrinkBatchNorm3d,
}

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, estimator: Estimator) -> Model:
    """Let every batch norm layer of a network use an estimator.

    Layers change their class in place: parameters, buffers, hooks, modes and shared modules stay the same
    objects, and an optimizer made before goes on working. Converting again changes the estimator.

    Parameters
    ----------
    model : torch.nn.Module
        A network, or a single layer.
    estimator : Estimator
        One of :mod:`shrinkstats.estimators`.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If the network has batch norm layers of a kind that cannot be converted (they are named, and nothing is
        changed), or `estimator` is not one.
    ValueError
        If the network has no batch norm layers.

    Examples
    --------
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import convert
    >>> from shrinkstats.estimators import SteinBlend
    >>> convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), SteinBlend())[1].estimator
    SteinBlend(kappa=1.0)
    """
    check_estimator(estimator)
    for layer in convertible_layers(model).values():
        if isinstance(layer, ShrinkBatchNorm):
            layer.estimator = estimator
        else:
            layer.__class__ = CLASSES[type(layer)]
            layer._prepare(estimator)
    return model


def revert(model: Model) -> Model:
    """Turn the converted layers of a network back into PyTorch's own; estimators and calibration are dropped.

    Parameters
    ----------
    model : torch.nn.Module
        A network, or a single layer.

    Returns
    -------
    torch.nn.Module
        The same object.
    """
    originals = {ours: theirs for theirs, ours in CLASSES.items()}
    for layer in shrinking_layers(model).values():
        layer.__class__ = originals[type(layer)]
        for name in NOISE_BUFFERS:
            delattr(layer, name)
        del layer.estimator, layer.adaptation
    return model


def shrinking_layers(model: nn.Module) -> dict[str, ShrinkBatchNorm]:
    """The converted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, ShrinkBatchNorm)}


def convertible_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norm layers by name, all of a kind that can be converted."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    foreign = [
        f"{name or 'the model itself'} ({type(layer).__name__})"
        for name, layer in layers.items()
        if type(layer) not in CLASSES and type(layer) not in CLASSES.values()
    ]
    if foreign:
        raise TypeError(f"cannot convert {', '.join(foreign)}: only BatchNorm1d, BatchNorm2d and BatchNorm3d")
    if not layers:
        raise ValueError(f"{type(model).__name__} has no batch norm layers to convert")
    return layers
