"""A small forward pass of a copy of a layer, to see whether its class leaves the normalization to `super().forward`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks") or "_hooks_" in name)


class _Recorder(_BatchNorm):
    """Stands where our layers will stand: between a class and PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        self._calls += 1
        normalized = _BatchNorm.forward(self, input)
        return (
            normalized
            if self._answer is None
            else torch.randn(normalized.shape, generator=self._answer, device="cpu").to(input)
        )


class Trial:
    """Passes of copies of a layer; the layer itself, random numbers and other ranks notice nothing.

    Parameters
    ----------
    layer : _BatchNorm
        With a forward pass of its own.
    cls : type
        Its class, without what a parametrization adds.
    base : type
        PyTorch's class that it goes back to.
    """

    def __init__(self, layer: _BatchNorm, cls: type[_BatchNorm], base: type[_BatchNorm]) -> None:
        self._base = base
        self._layer = layer
        self._class = type(cls.__name__, (cls, _Recorder, base), {"__module__": cls.__module__})
        device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
        self._empty = device.type == "meta"
        self._device = torch.device("cpu") if self._empty else device

    def problem(self) -> str | None:
        """Why our forward pass would not be the one that normalizes; None if it would."""
        for training in (True, False):
            try:
                (first, seen), (second, again) = (self._answered(training, seed) for seed in (1, 2))
            except Exception as error:  # whatever somebody's code raises
                reason = " ".join(str(error).split())[:150] or type(error).__name__
                return f"its own forward pass fails on a small trial input, so that nothing is known of it ({reason})"
            if seen != 1 or again != 1 or _same(first, second):
                return "its forward pass does not leave the normalization to super().forward"
        return None

    def normalizes_then_acts(self) -> bool:
        """Whether the forward pass is PyTorch's own, then the module `drop`, then the module `act`, as timm's."""
        modules = self._layer._modules
        if not {"drop", "act"} <= modules.keys() or self._base is nn.SyncBatchNorm:
            return False
        for training in (True, False):
            theirs, ours = self._copy(training), self._copy(training)

            def expected(x: Tensor, layer: Any = ours) -> Tensor:
                return layer.act(layer.drop(_BatchNorm.forward(layer, x)))

            try:
                outputs = [self._run(function) for function in (theirs, expected)]
            except Exception:  # as above
                return False
            if theirs._calls or not _same(*outputs):
                return False
            if not all(map(_same, theirs.state_dict().values(), ours.state_dict().values())):
                return False
        return True

    def _answered(self, training: bool, seed: int) -> tuple[Any, int]:
        """The output, where super().forward gives random numbers, and how often it was called."""
        trial = self._copy(training)
        trial._answer = torch.Generator().manual_seed(seed)
        output = self._run(trial)
        return output, trial._calls

    def _run(self, function: Any) -> Any:
        """On a random input, with the same random numbers for everyone."""
        devices = [self._device] if self._device.type == "cuda" else []
        problems: list[Exception] = []
        for shape in self._shapes():
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                torch.manual_seed(0)
                function._calls = 0
                try:
                    return function(torch.randn(shape, device=self._device))
                except Exception as error:  # as above
                    problems.append(error)
        raise problems[0]

    def _shapes(self) -> list[tuple[int, ...]]:
        """Inputs to try, the usual one first: a class may expect channels last."""
        c = self._layer.num_features
        if self._base is nn.BatchNorm1d:
            return [(3, c, 8), (3, c), (3, 8, c)]
        inner = (4,) * (3 if self._base is nn.BatchNorm3d else 2)
        return [(3, c, *inner), (3, *inner, c)]

    def _copy(self, training: bool) -> Any:
        """The layer again, of single precision, with random parameters and without hooks."""
        memo: dict[int, Any] = {}
        for module in self._layer.modules():
            for name, value in vars(module).items():
                if name in HOOKS:
                    memo[id(value)] = type(value)()
                elif isinstance(value, Tensor) and not value.is_leaf:  # as old ways of weight norm leave it
                    memo[id(value)] = value.detach().clone()
        group = getattr(self._layer, "process_group", None)
        memo[id(group)] = group
        trial = copy.deepcopy(self._layer, memo)
        if self._empty:
            trial.to_empty(device=self._device)
        if parametrize.is_parametrized(self._layer):
            from shrinkstats.adapters.torch.classes import _parametrized

            trial.__class__ = _parametrized(type(self._layer), self._class)
        else:
            trial.__class__ = self._class
        trial._answer = None
        trial.float().train(training)
        generator = torch.Generator(self._device).manual_seed(1)
        with torch.no_grad():
            for value in (*trial.parameters(), *trial.buffers()):
                if value.is_floating_point():
                    value.uniform_(0.5, 2, generator=generator)
                elif self._empty:
                    value.zero_()
        return trial


def _same(a: Any, b: Any) -> bool:
    """Whether two outputs are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
    return len({type(a), type(b)}) == 1 and not isinstance(a, Tensor) and a == b
