"""Networks from checkpoints, which are not trusted: tensors are read, and nothing in the file is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinkstats._files import check_sums
from shrinkstats.adapters import models
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.torch import convert, reset
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS
from shrinkstats.adapters.torch.saved import KEY
from shrinkstats.estimators import BatchStatistics

ENDINGS = (".safetensors", ".pt", ".pth")
# Networks that classify small images; models has others, for scenes and volumes.
MODELS = tuple(name for name in models.__all__ if name.startswith(("resnet", "vgg", "fixup")))
INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where training programs put the state dict


def load_network(path: Path, model: str) -> nn.Module:
    """A network in evaluation with the tensors of a checkpoint, as many outputs as these say.

    Parameters
    ----------
    path : Path
        A state dict as .safetensors, or as .pt or .pth; the latter may hold it as an entry of a dictionary, and its
        names may begin with ``module.``.
    model : str
        One of `MODELS`.

    Returns
    -------
    torch.nn.Module
        Its batch norm layers are converted, and calibrated if the checkpoint says how.

    Raises
    ------
    UsageError
        If there is no such file or model.
    ValueError
        If the file is damaged, asks for code to be run, holds values that are not finite, or tensors of another
        network.
    """
    if model not in MODELS:
        raise UsageError(f"--model: unknown network {model!r}; there is {', '.join(MODELS)}")
    state = _read(path)
    build = getattr(models, model)
    with torch.device("meta"):
        *_, head = (name for name, module in build().named_modules() if isinstance(module, nn.Linear))
    weight = state.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        found = "is missing" if weight is None else f"has shape {_shape(weight)}"
        raise ValueError(f"{path}: {head}.weight {found}, so this is no {model}: it holds {_some(list(state))}")
    network = build(num_classes=len(weight))
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        convert(network, BatchStatistics())
    _check(path, model, state, network.state_dict())
    network.load_state_dict(state)
    reset(network)  # rules are for the evaluation to choose
    return network.eval().to(memory_format=torch.channels_last)


def outputs(network: nn.Module) -> int:
    """How many classes a network tells apart."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1].out_features


def _check(path: Path, model: str, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Say which tensors are missing, too many, of another shape or not finite."""
    # PyTorch itself does without the counters, which older checkpoints lack; calibration is optional.
    if missing := [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]:
        raise ValueError(f"{path}: a {model} needs {_some(missing)}, which the checkpoint lacks; see --model")
    if extra := [k for k in state if k not in expected and k.rpartition(".")[2] not in (*NOISE_BUFFERS, KEY)]:
        raise ValueError(f"{path}: holds {_some(extra)}, which a {model} does not have; see --model")
    for name, value in state.items():
        if name in expected and value.shape != expected[name].shape:
            shapes = f"{_shape(value)}, expected {_shape(expected[name])}"
            raise ValueError(f"{path}: {name} has shape {shapes} in a {model}; see --model")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; the training diverged, or the file is damaged")


def _read(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise UsageError(f"{path}: expected a checkpoint ending in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    try:
        if suffix != ".safetensors":
            check_sums(path)
        content: Any = (
            load_file(path) if suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # the list of what parsers raise on a malformed file is open
        if "Weights only load failed" in str(error):  # its text goes on to suggest running the file
            raise ValueError(
                f"{path}: damaged, or holds more than tensors, which is refused because it could run code; "
                "save network.state_dict() instead"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not a checkpoint: {reason[:150]}") from error
    for key in INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: expected tensors by name, found {json.dumps(str(name))}: {type(value).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "()"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
