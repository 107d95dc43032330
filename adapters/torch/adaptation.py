"""Evaluate a trained network on shifted data with statistics of the batch at hand, without touching its parameters."""

from __future__ import annotations

import warnings

from shrinkstats.adapters.torch.conversion import Model, convert, convertible_layers, shrinking_layers
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, check_estimator
from shrinkstats.estimators import BatchStatistics, Estimator, SteinBlend


def adapt(model: Model, estimator: Estimator = SteinBlend()) -> Model:  # noqa: B008 (frozen)
    """Let a trained network, in evaluation, take its statistics from an estimator with the running ones as prior.

    Parameters
    ----------
    model : torch.nn.Module
        A network with batch norm layers, converted or not; plain ones are converted on the way. Parameters and
        running statistics are never touched. Call ``model.eval()`` as usual: training is not changed.
    estimator : Estimator
        ``SteinBlend()`` by default, for which :func:`calibrate` should have measured the sampling noise;
        ``PriorBlend(16)`` or ``BatchStatistics()`` to compare.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If a layer cannot be converted, or `estimator` is not one.
    ValueError
        If the network has no batch norm layers.

    Warns
    -----
    UserWarning
        If a Stein blend has to take the noise from each batch, because the network was not calibrated: poor at 2
        images a batch, and at 1 as if its pixels were independent.

    References
    ----------
    Schneider, Rusak et al. (2020), "Improving robustness against common corruptions by covariate shift adaptation".
    """
    check_estimator(estimator)
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
        layer.adaptation = estimator
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
