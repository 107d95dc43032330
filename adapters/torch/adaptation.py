"""Evaluate a trained network on shifted data with statistics of the data at hand, without touching its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from shrinkstats._arrays import whole_number
from shrinkstats.adapters.torch.conversion import (
    Excluded,
    Model,
    become_shrinking,
    convertible_layers,
    restored,
    shrinking_layers,
)
from shrinkstats.adapters.torch.images import Entry, check_rows, watching
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, check_estimator
from shrinkstats.adapters.torch.streaming import Peers, Streaming
from shrinkstats.estimators import Estimator, SteinBlend


def adapt(
    model: Model,
    estimator: Estimator = SteinBlend(),  # noqa: B008 (frozen)
    *,
    memory: int | None = None,
    exclude: Excluded = (),
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
    exclude : iterable of str or torch.nn.Module
        Modules, or their names, that are left as they are, with all within them.

    Returns
    -------
    torch.nn.Module
        The same object. After an error it is as it was.

    Raises
    ------
    TypeError
        If a layer cannot be converted, `estimator` is not one, or `memory` no whole number.
    ValueError
        If the network has no batch norm layers, nothing of a name in `exclude`, or `memory` is below 1.

    Warns
    -----
    UserWarning
        If a Stein blend has to take the noise from each batch, because the network was not calibrated: poor at 2
        images a batch, and at 1 as if its pixels were independent. And if layers are in training mode, in which they
        do not adapt.

    Notes
    -----
    A state dict holds the rule beside the calibration: ``load_state_dict`` into a converted network of the same kind
    brings both back, without what a stream remembered. The rule is plain data, under the key ``_extra_state`` of every
    adapted layer, and only rules of :mod:`shrinkstats.estimators` come back. A network that was :func:`reset` has
    PyTorch's keys, and those of the calibration.

    A layer takes every row of its input for an image, until :func:`calibrate` has seen that an image has several.

    In a stream the memory fades: with every batch of n images, what was seen before counts 1 - n/memory of what it
    did. No gradient flows through the statistics of a stream.

    References
    ----------
    Schneider, Rusak et al. (2020), "Improving robustness against common corruptions by covariate shift adaptation".
    """
    _adapt(model, estimator, memory, exclude, 3)
    return model


def _adapt(model: nn.Module, estimator: Estimator, memory: int | None, exclude: Excluded, stacklevel: int) -> None:
    """Adapt, with warnings that point so many calls up."""
    check_estimator(estimator)
    memory = None if memory is None else whole_number("memory", memory)
    if memory is not None and memory < 1:
        raise ValueError(f"memory counts images, at least 1, got {memory}; leave it out to take every batch alone")
    layers = convertible_layers(model, exclude)
    with restored(layers.values(), only_on_failure=True):
        if training := [name for name, layer in layers.items() if layer.training]:
            warnings.warn(
                f"{len(training)} of {len(layers)} layers are in training mode, in which they do not adapt: call "
                "model.eval()",
                stacklevel=stacklevel,
            )
        if estimator.uses_noise and any(_noise(layer) is None for layer in layers.values()):
            warnings.warn(
                "not calibrated: the noise of each batch's statistics is estimated from the batch itself, which is "
                "poor for small batches; run calibrate(model, training_loader) first",
                stacklevel=stacklevel,
            )
        peers = Peers()
        for name, layer in layers.items():
            if not isinstance(layer, ShrinkBatchNorm):
                become_shrinking(layer)
            layer.adaptation = (
                estimator if memory is None else Streaming(estimator, memory, layer, peers=peers, name=name)
            )


def _noise(layer: Any) -> Tensor | None:
    return layer.noise_mean if isinstance(layer, ShrinkBatchNorm) else None


@contextmanager
def adapted(
    model: Model,
    estimator: Estimator = SteinBlend(),  # noqa: B008 (frozen)
    *,
    memory: int | None = None,
    exclude: Excluded = (),
) -> Iterator[Model]:
    """Within the context the network is adapted (:func:`adapt`); afterwards it is what it was before.

    Parameters
    ----------
    model, estimator, memory, exclude
        As in :func:`adapt`.

    Yields
    ------
    torch.nn.Module
        The same network.

    Notes
    -----
    What it was before: layers have their classes again, converted or not, adapted by another rule or not, with what
    that one remembers, calibrated or not; also if the block raises. Parameters, running statistics and modes are what
    the block makes of them; adapting touches none.

    Call ``backward`` within the context where activations are checkpointed: the backward pass computes them again.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import adapted
    >>> from shrinkstats.estimators import PriorBlend
    >>> net, images = nn.Sequential(nn.BatchNorm2d(3)).eval(), torch.randn(8, 3, 4, 4) + 1
    >>> with adapted(net, PriorBlend(16)):
    ...     y = net(images)
    >>> bool(y.mean() < net(images).mean()), type(net[0]).__name__
    (True, 'BatchNorm2d')
    """
    with restored(convertible_layers(model, exclude).values()):
        _adapt(model, estimator, memory, exclude, 4)  # past contextlib
        yield model


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
    TypeError
        If `size` is no whole number.
    ValueError
        If `size` is below 1; in the forward pass, if the images do not divide into groups, or if a layer sees more
        rows than images and was not calibrated.

    Notes
    -----
    Call ``backward`` within the context where activations are checkpointed: the backward pass computes them again. A
    copy that is made within the context is not grouped.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import adapt, grouped
    >>> from shrinkstats.estimators import PriorBlend
    >>> net, images = adapt(nn.Sequential(nn.BatchNorm2d(3)).eval(), PriorBlend(16)), torch.randn(64, 3, 4, 4)
    >>> with grouped(net, 8):
    ...     y = net(images)
    >>> torch.allclose(y[:8], net(images[:8]), atol=1e-6)
    True
    """
    size = whole_number("size", size)
    if size < 1:
        raise ValueError(f"a group has at least 1 image, got size={size}")
    layers = shrinking_layers(model)
    before = {name: layer.group_size for name, layer in layers.items()}
    entry = Entry(model)

    def look(name: str, layer: ShrinkBatchNorm, x: Tensor) -> None:
        batch_statistics = layer.adaptation is not None or layer.running_mean is None
        if entry.lengths and batch_statistics and not layer.training:
            check_rows(name, layer, x, entry.count(name, len(x), layer.image_rows))

    try:
        for layer in layers.values():
            layer.group_size = size
        with entry, watching(layers, look):
            yield model
    finally:
        for name, layer in layers.items():
            vars(layer).pop("group_size", None)  # the class says None
            if before[name] is not None:
                layer.group_size = before[name]
