"""The class a batch norm layer takes on when it is converted, and the one it goes back to."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from shrinkstats.adapters.torch.layers import (
    ShrinkBatchNorm,
    ShrinkBatchNorm1d,
    ShrinkBatchNorm2d,
    ShrinkBatchNorm3d,
    ShrinkSyncBatchNorm,
)
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS

CLASSES: dict[type[_BatchNorm], type[ShrinkBatchNorm]] = {
    nn.BatchNorm1d: ShrinkBatchNorm1d,
    nn.BatchNorm2d: ShrinkBatchNorm2d,
    nn.BatchNorm3d: ShrinkBatchNorm3d,
    nn.SyncBatchNorm: ShrinkSyncBatchNorm,
}

ATTRIBUTES = ("estimator", "adaptation", "process_group", *NOISE_BUFFERS)

# Every name in the forward pass of timm's BatchNormAct2d: PyTorch's own, copied, with two modules after it.
COPIED = {
    *("momentum", "training", "track_running_stats", "num_batches_tracked", "add_", "float", "running_mean"),
    *("running_var", "torch", "nn", "functional", "F", "batch_norm", "weight", "bias", "eps"),
    *("_check_input_dim", "_assert", "ndim", "dim", "ValueError", "drop", "act"),
}

_derived: dict[type[_BatchNorm], type[ShrinkBatchNorm]] = {}


def shrinking_class(layer: _BatchNorm) -> type[ShrinkBatchNorm]:
    """The class that gives a layer our statistics and leaves it what its own class adds."""
    cls = type(layer)
    if parametrize.is_parametrized(layer):
        return _parametrized(cls, _shrinking(cls.__bases__[0]))
    return _shrinking(cls)


def original_class(layer: ShrinkBatchNorm) -> type[_BatchNorm] | None:
    """The class that a layer had; None for somebody's own subclass of a layer of ours."""
    cls = type(layer)
    if not parametrize.is_parametrized(layer):
        return _original(cls)
    original = _original(cls.__bases__[0])
    return original and _parametrized(cls, original)


def refusal(layer: _BatchNorm) -> str | None:
    """Why a layer cannot be converted without changing what else it does; None if it can."""
    if "forward" in vars(layer):
        return "its forward pass was replaced on the object; undo that first"
    methods = [name for name in vars(ShrinkBatchNorm) if not name.startswith("__") and not hasattr(_BatchNorm, name)]
    taken = [name for name in dict.fromkeys((*ATTRIBUTES, *methods)) if hasattr(layer, name)]
    if taken and not (isinstance(layer, nn.SyncBatchNorm) and taken == ["process_group"]):
        return f"it has attributes of its own called {', '.join(taken)}"
    cls = type(layer)
    if not all(_calls_super(c) or _is_copied(c) for c in (cls, getattr(cls, "cls_to_become", None) or cls)):
        return "its forward pass does not leave the normalization to super().forward"
    return None


def _shrinking(original: type[_BatchNorm]) -> type[ShrinkBatchNorm]:
    """A class whose base comes between `original` and PyTorch's class, so that super().forward is ours."""
    if original in CLASSES:
        return CLASSES[original]
    if original not in _derived:
        base = _base(original)
        body: dict[str, Any] = {"__module__": original.__module__, "__reduce_ex__": _reduce}
        if _is_copied(original):
            body["forward"] = _normalize_drop_act
        if getattr(original, "cls_to_become", None):  # a lazy layer, before its first forward pass
            body["cls_to_become"] = _shrinking(original.cls_to_become)
        bases = dict.fromkeys((original, CLASSES.get(base, ShrinkBatchNorm), ShrinkBatchNorm, base))
        _derived.setdefault(original, type(f"Shrink{original.__name__}", tuple(bases), body))
    return _derived[original]


def _original(cls: type) -> type[_BatchNorm] | None:
    return next((theirs for theirs, ours in (*CLASSES.items(), *_derived.items()) if ours is cls), None)


def _base(cls: type[_BatchNorm]) -> type[_BatchNorm]:
    """PyTorch's class that a class goes back to."""
    return next(c for c in cls.__mro__ if c in CLASSES or c is _BatchNorm)


def _parametrized(cls: type, base: type) -> type:
    """The class that torch.nn.utils.parametrize made for an object, with its properties, on another base."""
    model = base.__new__(base)
    parametrize._inject_new_class(model)
    for name, value in vars(cls).items():
        if isinstance(value, property):
            setattr(type(model), name, value)
    return type(model)


def _calls_super(cls: type[_BatchNorm]) -> bool:
    """Whether the forward pass of every class above PyTorch's calls the next one, and does not normalize itself."""
    above = cls.__mro__[: cls.__mro__.index(_base(cls))]
    for c in above:
        if "forward" in vars(c):
            names = _names(vars(c)["forward"], above)
            if not {"super", "forward"} <= names or names & {"running_mean", "running_var"}:
                return False
            if any("batch_norm" in name for name in names):
                return False
    return True


def _is_copied(cls: type[_BatchNorm]) -> bool:
    """Whether the forward pass is a copy of PyTorch's, then the module `drop`, then the module `act`."""
    code = getattr(cls.forward, "__code__", None)
    if code is None or not {"batch_norm", "drop", "act"} <= set(code.co_names) <= COPIED:
        return False
    in_order = [name for name in code.co_names if name in ("batch_norm", "drop", "act")]
    return in_order == ["batch_norm", "drop", "act"]


def _names(function: Any, above: tuple[type, ...]) -> set[str]:
    """What a function looks up by name, and what the methods do that it mentions."""
    names: set[str] = set()
    todo = [_code(function)]
    while todo:
        code = todo.pop()
        if code is not None:
            new = set(code.co_names) - names
            names |= new
            todo += [_code(vars(c)[name]) for c in above for name in new - {"forward"} if name in vars(c)]
            todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return names


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


def _normalize_drop_act(self: Any, x: Tensor) -> Tensor:
    return self.act(self.drop(ShrinkBatchNorm.forward(self, x)))


def _reduce(self: ShrinkBatchNorm, protocol: int) -> tuple[Any, ...]:
    """Derived classes are not in any module: pickle and copy by the original, which is."""
    _, _, *state = object.__reduce_ex__(self, max(protocol, 2))
    return _blank, (_original(type(self)),), *state


def _blank(original: type[_BatchNorm]) -> ShrinkBatchNorm:
    cls = _shrinking(original)
    return cls.__new__(cls)
