"""Evaluate a trained network on shifted data with statistics of the data at hand, without touching its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

from shrinkstats.adapters.torch.conversion import Model, convert, convertible_layers, shrinking_layers
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, check_estimator
from shrinkstats.adapters.torch.streaming import Streaming
from shrinkstats.estimators import BatchStatistics, Estimator, SteinBlend


def adapt(
    model: Model,
    estimator: Estimator = SteinBlend(),  # noqa: B008 (frozen)
    *,
    memory: int | None = None,
) -> Model:
    """Let a trained network, in evaluation, take its statistics from an estimator with the running ones as prior.

    Parameters
    ----------
    model : torch.nn.Module
        A network with batch norm layers, converted or not; plain ones are converted on the way. Parameters and
        running statistics are never touched. Call ``model.eval()`` as usual: training is not changed.
    estimator : Estimator
        ``SteinBlend()`` by default, for which :func:`calibrate` should have measured the sampling noise;
        ``PriorBlend(16)`` or ``BatchStatistics()`` to compare.
    memory : int, optional
        Left out, every batch is on its own, and its outputs depend on nothing else. With a number, batches are a
        stream, and statistics are those of about the last `memory` images, so that small batches add up. A layer
        drops what it remembers when its inputs change by more than chance; adapting anew, or :func:`reset`, drops it
        too.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If a layer cannot be converted, or `estimator` is not one.
    ValueError
        If the network has no batch norm layers, or `memory` is below 1.

    Warns
    -----
    UserWarning
        If a Stein blend has to take the noise from each batch, because the network was not calibrated: poor at 2
        images a batch, and at 1 as if its pixels were independent.

    Notes
    -----
    In a stream the memory fades: with every batch of n images, what was seen before counts 1 - n/memory of what it
    did. No gradient flows through the statistics of a stream.

    References
    ----------
    Schneider, Rusak et al. (2020), "Improving robustness against common corruptions by covariate shift adaptation".
    """
    check_estimator(estimator)
    if memory is not None and index(memory) < 1:
        raise ValueError(f"memory counts images, at least 1, got {memory}; leave it out to take every batch alone")
    for layer in convertible_layers(model).values():
        if not isinstance(layer, ShrinkBatchNorm):
            convert(layer, BatchStatistics())
    layers = shrinking_layers(model)
    if isinstance(estimator, SteinBlend) and any(layer.noise_mean is None for layer in layers.values()):
        warnings.warn(
            "not calibrated: the noise of each batch's statistics is estimated from the batch itself, which is poor "
            "for small batches; run calibrate(model, training_loader) first",
            stacklevel=2,
        )
    for layer in layers.values():
        layer.adaptation = estimator if memory is None else Streaming(estimator, index(memory), layer)
    return model


def reset(model: Model) -> Model:
    """Undo :func:`adapt`: evaluation uses the running statistics again, and computes what it did before.

    Parameters
    ----------
    model : torch.nn.Module
        A network.

    Returns
    -------
    torch.nn.Module
        The same object. Layers stay converted, and calibrated; :func:`revert` brings back PyTorch's classes.
    """
    for layer in shrinking_layers(model).values():
        layer.adaptation = None
    return model


@contextmanager
def grouped(model: Model, size: int) -> Iterator[Model]:
    """Within the context, evaluation takes every `size` images in a row as a batch of their own.

    A forward pass of ``b * size`` images then gives what b passes of `size` images would, to rounding, in about
    the time of one: small batches need not be looped over. In a stream (:func:`adapt` with `memory`) the groups
    follow each other.

    Parameters
    ----------
    model : torch.nn.Module
        A network, adapted (:func:`adapt`). Layers that evaluate with running statistics compute what they always do.
    size : int
        Images in a group, at least 1. Passes must be of a multiple of it.

    Yields
    ------
    torch.nn.Module
        The same network. Training is not changed.

    Raises
    ------
    ValueError
        If `size` is below 1; in the forward pass, if the images do not divide into groups.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import adapt, grouped
    >>> from shrinkstats.estimators import PriorBlend
    >>> net, images = adapt(nn.Sequential(nn.BatchNorm2d(3)), PriorBlend(16)).eval(), torch.randn(64, 3, 4, 4)
    >>> with grouped(net, 8):
    ...     y = net(images)
    >>> torch.allclose(y[:8], net(images[:8]), atol=1e-6)
    True
    """
    if index(size) < 1:
        raise ValueError(f"a group has at least 1 image, got size={size}")
    layers = list(shrinking_layers(model).values())
    before = [layer.group_size for layer in layers]
    try:
        for layer in layers:
            layer.group_size = index(size)
        yield model
    finally:
        for layer, value in zip(layers, before, strict=True):
            del layer.group_size  # the class says None
            if value is not None:
                layer.group_size = value
