"""Put estimators into the batch norm layers of a network, and take them out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from shrinkstats.adapters.torch.classes import ATTRIBUTES, OF_SOME, original_class, refusal, shrinking_class
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, ShrinkSyncBatchNorm, check_estimator
from shrinkstats.estimators import BatchStatistics, Estimator

Model = TypeVar("Model", bound=nn.Module)
Excluded = Iterable[str | nn.Module]

_ABSENT = object()


def convert(model: Model, estimator: Estimator, *, process_group: Any = None, exclude: Excluded = ()) -> Model:
    """Let every batch norm layer of a network use an estimator.

    Layers change their class in place: parameters, buffers, hooks, modes and shared modules stay the same
    objects, and an optimizer made before goes on working. Converting again changes the estimator.

    Lazy layers, parametrized ones and subclasses are converted too. A subclass keeps what it adds, such as an
    activation, if its forward pass calls ``super().forward`` (or is the one of timm's BatchNormAct2d): a copy of the
    layer is tried on a small random input to see that.

    Parameters
    ----------
    model : torch.nn.Module
        A network, or a single layer.
    estimator : Estimator
        One of :mod:`shrinkstats.estimators`.
    process_group : torch.distributed.ProcessGroup or None
        Take statistics over the batches of all its ranks, as SyncBatchNorm does; ``torch.distributed.group.WORLD``
        is all ranks. With None every layer keeps the group it has: its own for a SyncBatchNorm or a layer
        converted before, none for the others.
    exclude : iterable of str or torch.nn.Module
        Modules, or their names, that are left as they are, with all within them.

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
        If the network has no batch norm layers, or nothing of a name in `exclude`.

    Notes
    -----
    Layers that are not batch norm for PyTorch are left alone, among them torchvision's FrozenBatchNorm2d, whose
    statistics are constants. ``SyncBatchNorm.convert_sync_batchnorm`` would make new layers without estimators, and is
    an error after a conversion: call it before, or pass `process_group` instead.

    Examples
    --------
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import convert
    >>> from shrinkstats.estimators import SteinBlend
    >>> convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), SteinBlend())[1].estimator
    SteinBlend(kappa=1.0)
    """
    check_estimator(estimator)
    layers = convertible_layers(model, exclude)
    with restored(layers.values(), only_on_failure=True):
        for layer in layers.values():
            if isinstance(layer, ShrinkBatchNorm):
                layer.estimator = estimator
                if process_group is not None:
                    layer.process_group = process_group
            else:
                become_shrinking(layer, estimator, process_group)
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

    Raises
    ------
    TypeError
        If a layer is of a subclass of ShrinkBatchNorm that convert did not make; nothing is changed.
    """
    layers = shrinking_layers(model)
    originals: dict[str, Any] = {name: original_class(layer) for name, layer in layers.items()}
    foreign = [_describe(name, layers[name]) for name, original in originals.items() if original is None]
    if foreign:
        raise TypeError(f"cannot revert {', '.join(foreign)}: not a class that convert made")
    for name, layer in layers.items():
        for attribute in ATTRIBUTES:
            if attribute != "process_group" or not isinstance(layer, ShrinkSyncBatchNorm):
                delattr(layer, attribute)
        for attribute in OF_SOME:
            layer.__dict__.pop(attribute, None)
        layer.__class__ = originals[name]
    return model


def shrinking_layers(model: nn.Module) -> dict[str, ShrinkBatchNorm]:
    """The converted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, ShrinkBatchNorm)}


def become_shrinking(layer: _BatchNorm, estimator: Estimator = BatchStatistics(), process_group: Any = None) -> None:  # noqa: B008 (frozen)
    """Change the class of one of the :func:`convertible_layers` that was not converted before."""
    group = getattr(layer, "process_group", None) if process_group is None else process_group
    layer.__class__ = shrinking_class(layer)
    layer._prepare(estimator, group)


@contextmanager
def restored(layers: Iterable[_BatchNorm], *, only_on_failure: bool = False) -> Iterator[None]:
    """After the context, layers have the classes, rules and calibration that they had before."""
    before = [(layer, type(layer), _ours(layer)) for layer in layers]
    try:
        yield
    except BaseException:
        _restore(before)
        raise
    if not only_on_failure:
        _restore(before)


def _ours(layer: _BatchNorm) -> list[tuple[str, Any, Any]]:
    """What we keep in a layer, by name: among its attributes, and among its buffers."""
    names = (*ATTRIBUTES, *OF_SOME)
    return [(name, vars(layer).get(name, _ABSENT), layer._buffers.get(name, _ABSENT)) for name in names]


def _restore(before: list[tuple[_BatchNorm, type, list[tuple[str, Any, Any]]]]) -> None:
    for layer, cls, ours in before:
        waiting = isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params()
        layer.__class__ = cls if waiting else getattr(cls, "cls_to_become", None) or cls
        for name, attribute, buffer in ours:
            for place, value in ((vars(layer), attribute), (layer._buffers, buffer)):
                if value is _ABSENT:
                    place.pop(name, None)
                else:
                    moved = isinstance(value, Tensor) and layer.running_mean is not None
                    place[name] = value.to(layer.running_mean.device) if moved else value


def convertible_layers(model: nn.Module, exclude: Excluded = ()) -> dict[str, _BatchNorm]:
    """The batch norm layers by name, all of a kind that can be converted."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    left_out = _left_out(model, exclude)
    layers, refused = {}, []
    for name, module in model.named_modules():
        if id(module) in left_out:
            continue
        if isinstance(module, _BatchNorm):
            layers[name] = module
        reason = _refusal(module)
        if reason:
            refused.append(f"{_describe(name, module)}: {reason}")
    if refused:
        raise TypeError(f"cannot convert {'; '.join(refused)} (exclude= leaves layers out)")
    if not layers:
        besides = " besides those excluded" if left_out else ""
        raise ValueError(f"{type(model).__name__} has no batch norm layers to convert{besides}")
    return layers


def _left_out(model: nn.Module, exclude: Excluded) -> set[int]:
    """The modules excluded, and all within them, by id."""
    if isinstance(exclude, (str, nn.Module)) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be an iterable of modules or their names, as ['head'], got {exclude!r}")
    modules = dict(model.named_modules(remove_duplicate=False))
    known = {id(module) for module in modules.values()}
    found: set[int] = set()
    for entry in exclude:
        module = modules.get(entry) if isinstance(entry, str) else entry
        if not isinstance(module, nn.Module) or id(module) not in known:
            what = repr(entry) if isinstance(entry, str) else f"this {type(entry).__name__}"
            raise ValueError(
                f"exclude: {type(model).__name__} has no module {what}; names are those of model.named_modules()"
            )
        found |= {id(inner) for inner in module.modules()}
    return found


def _refusal(module: nn.Module) -> str | None:
    """Why a module stands in the way of a conversion, if it does."""
    if isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in module.original_name:
        return f"torch.jit has compiled this {module.original_name}; convert the network before that"
    if isinstance(module, _BatchNorm):
        return None if isinstance(module, ShrinkBatchNorm) else refusal(module)
    if type(module).__module__.startswith("torch.ao.nn") and any(isinstance(m, _BatchNorm) for m in module.modules()):
        return "fused for quantization; convert the network before that"
    return None


def _describe(name: str, module: nn.Module) -> str:
    return f"{name or 'the model itself'} ({type(module).__module__}.{type(module).__qualname__})"
