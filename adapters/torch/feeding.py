"""What data loaders yield, on its way into a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from shrinkstats.adapters.torch.images import mapped

Forward = Callable[[Any, Any], Any]


def passes(
    model: nn.Module, loader: Iterable[Any], forward: Forward | None, device: torch.device
) -> Iterator[Callable[[], None]]:
    """Yield, for every batch of a loader, a function that runs the network on it."""
    if forward is not None and not callable(forward):
        raise TypeError(f"forward must be a function of the model and a batch, got {type(forward).__name__}")
    if isinstance(loader, (str, bytes)) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise TypeError(f"loader must be an iterable of batches, such as a DataLoader, got {type(loader).__name__}")
    for batch in loader:
        yield partial(_run, model, _on(device, batch), loader, forward or _plain_forward)


def _run(model: nn.Module, batch: Any, loader: Any, forward: Forward) -> None:
    try:
        forward(model, batch)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        hint = _hint(loader)
        if hint is None:
            raise
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{error}; {hint}") from error


def _hint(loader: Any) -> str | None:
    """What may be wrong with a loader that is none."""
    if isinstance(loader, Tensor):
        return (
            f"the loader is a tensor of shape {tuple(loader.shape)}, whose every entry is taken for a batch: if they "
            "are single images, pass [tensor] or tensor.split(64)"
        )
    if isinstance(loader, Mapping):
        return "the loader is a dictionary, whose keys are no batches: if it is a batch, pass [batch]"
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        return "the loader is a Dataset, which gives single images: pass DataLoader(dataset, batch_size=64)"
    return None


def _plain_forward(model: nn.Module, batch: Any) -> Any:
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(inputs, Tensor):
        return model(inputs) if len(inputs) else None
    if isinstance(inputs, Mapping):
        return model(**_accepted(model, inputs))
    raise TypeError(
        "the loader must yield tensors, dictionaries of keyword arguments, or tuples whose first entry is one of "
        f"these, got {_kind(batch)}; for anything else pass forward=, a function of the model and a batch"
    )


def _accepted(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of a dictionary that the network's forward takes by name."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # compiled
        return dict(inputs)
    parameters = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(inputs)
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    kept = {name: inputs[name] for name in named if name in inputs}
    try:
        signature.bind(**kept)
    except TypeError as error:
        raise TypeError(
            f"the loader yields dictionaries with {', '.join(map(str, inputs))}, but {type(model).__name__}.forward "
            f"takes {', '.join(named) or 'nothing by name'} ({error}); pass forward=lambda model, batch: model(...), "
            "or let the loader yield tensors"
        ) from error
    return kept


def _on(device: torch.device, value: Any) -> Any:
    """The batch on a device: tensors, and what knows how to move, in tuples, lists and dictionaries."""
    if isinstance(value, Tensor) or (callable(getattr(value, "to", None)) and not isinstance(value, type)):
        return value.to(device)
    return mapped(lambda v: _on(device, v), value)


def _kind(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(v).__name__ for v in batch) or 'nothing'}"
    return type(batch).__name__
