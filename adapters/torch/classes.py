"""The class a batch norm layer takes on when it is converted, and the one it goes back to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakSet

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
from shrinkstats.adapters.torch.trial import Trial

CLASSES: dict[type[_BatchNorm], type[ShrinkBatchNorm]] = {
    nn.BatchNorm1d: ShrinkBatchNorm1d,
    nn.BatchNorm2d: ShrinkBatchNorm2d,
    nn.BatchNorm3d: ShrinkBatchNorm3d,
    nn.SyncBatchNorm: ShrinkSyncBatchNorm,
}

ATTRIBUTES = ("estimator", "adaptation", "process_group", *NOISE_BUFFERS)
OF_SOME = ("image_rows", "_seen")  # attributes of layers that calibration, or a pass, gave them

_PLAIN = nn.BatchNorm1d(1)

_derived: dict[type[_BatchNorm], type[ShrinkBatchNorm]] = {}
_copied: WeakSet[type] = WeakSet()  # classes whose forward pass is PyTorch's, written out, then `drop`, then `act`


def shrinking_class(layer: _BatchNorm) -> type[ShrinkBatchNorm]:
    """The class that gives a layer our statistics and leaves it what its own class adds."""
    return _exchanged(type(layer), parametrize.is_parametrized(layer), _shrinking)


def original_class(layer: ShrinkBatchNorm) -> type[_BatchNorm] | None:
    """The class that a layer had; None for somebody's own subclass of a layer of ours."""
    return _exchanged(type(layer), parametrize.is_parametrized(layer), _original)


def _exchanged(cls: type, parametrized: bool, exchange: Callable[[type], Any]) -> Any:
    """A class with another beneath what PyTorch's tools have put upon it."""
    if _is_distributed(cls):
        inner = _exchanged(cls.__bases__[1], parametrized, exchange)
        return inner and _distributed(cls, inner)
    if parametrized:
        inner = exchange(cls.__bases__[0])
        return inner and _parametrized(cls, inner)
    return exchange(cls)


def _is_distributed(cls: type) -> bool:
    """Whether fully_shard, or another of PyTorch's ways to share out a module over ranks, made a class for it."""
    return len(cls.__bases__) == 2 and cls.__bases__[0].__module__.startswith("torch.distributed.")


@cache
def _distributed(cls: type, inner: type) -> type:
    """The class that it would have made for another."""
    first, before = cls.__bases__
    body = {name: value for name, value in vars(cls).items() if name in ("__module__", "__deepcopy__")}
    return type(cls.__name__.removesuffix(before.__name__) + inner.__name__, (first, inner), body)


def refusal(layer: _BatchNorm) -> str | None:
    """Why a layer cannot be converted without changing what else it does; None if it can."""
    if "forward" in vars(layer):
        return "its forward pass was replaced on the object; undo that first"
    ours = [name for name in vars(ShrinkBatchNorm) if not name.startswith("__") and not hasattr(_PLAIN, name)]
    taken = [name for name in dict.fromkeys((*ATTRIBUTES, *ours)) if hasattr(layer, name)]
    if taken and not (isinstance(layer, nn.SyncBatchNorm) and taken == ["process_group"]):
        return f"it has attributes of its own called {', '.join(taken)}"
    cls: Any = type(layer).__bases__[0] if parametrize.is_parametrized(layer) else type(layer)
    if cls.get_extra_state is not nn.Module.get_extra_state:
        return "its state dict has an extra state of its own, where ours is kept"
    later = getattr(cls, "cls_to_become", None)
    if not any(_has_forward(c) for c in (cls, later) if c):
        return None
    if later:
        return "its own forward pass can be tried only when its parameters are initialized; run the network once before"
    if _is_distributed(type(layer)) or any(hasattr(p, "full_tensor") for p in layer.parameters()):
        return "its own forward pass cannot be tried on parameters shared out over ranks; convert the network before"
    trial = Trial(layer, cls, _base(cls))
    problem = trial.problem()
    if problem is not None and trial.normalizes_then_acts():
        _copied.add(cls)
        return None
    if problem is None and cls in _copied:
        return "its forward pass is not that of other layers of its class"
    return problem


def _has_forward(cls: type[_BatchNorm]) -> bool:
    """Whether a class has a forward pass of its own, not PyTorch's."""
    return any("forward" in vars(c) for c in cls.__mro__[: cls.__mro__.index(_base(cls))])


def _shrinking(original: type[_BatchNorm]) -> type[ShrinkBatchNorm]:
    """A class whose base comes between `original` and PyTorch's class, so that super().forward is ours."""
    if original in CLASSES:
        return CLASSES[original]
    if original not in _derived:
        base = _base(original)
        body: dict[str, Any] = {"__module__": original.__module__, "__reduce_ex__": _reduce}
        if original in _copied:
            body["forward"] = _normalize_drop_act
        if getattr(original, "cls_to_become", None):  # a lazy layer, before its first forward pass
            body["cls_to_become"] = _shrinking(original.cls_to_become)
        bases: dict[Any, None] = dict.fromkeys((original, CLASSES.get(base, ShrinkBatchNorm), ShrinkBatchNorm, base))
        _derived.setdefault(original, type(f"Shrink{original.__name__}", tuple(bases), body))
    return _derived[original]


def _original(cls: type) -> type[_BatchNorm] | None:
    return next((theirs for theirs, ours in (*CLASSES.items(), *_derived.items()) if ours is cls), None)


def _base(cls: type[_BatchNorm]) -> type[_BatchNorm]:
    """PyTorch's class that a class goes back to."""
    return next(c for c in cls.__mro__ if c in CLASSES or c is _BatchNorm)


def _parametrized(cls: type, base: Any) -> type:
    """The class that torch.nn.utils.parametrize made for an object, with its properties, on another base."""
    model = base.__new__(base)
    parametrize._inject_new_class(model)
    for name, value in vars(cls).items():
        if isinstance(value, property):
            setattr(type(model), name, value)
    return type(model)


def _normalize_drop_act(self: Any, x: Tensor) -> Tensor:
    return self.act(self.drop(ShrinkBatchNorm.forward(self, x)))


def _reduce(self: ShrinkBatchNorm, protocol: int) -> tuple[Any, ...]:
    """Derived classes are not in any module: pickle and copy by the original, which is."""
    reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
    _, _, *state = reduced
    original = _original(type(self))
    return _blank, (original, original in _copied), *state


def _blank(original: type[_BatchNorm], copied: bool = False) -> ShrinkBatchNorm:
    if copied:
        _copied.add(original)
    cls = _shrinking(original)
    return cls.__new__(cls)
