"""Which rows of a layer's input belong to one image of the batch that entered the network.

Layers below a `flatten(0, 1)` see k rows for every image: its tokens, points or frames. They count as the pixels of one
image, not as images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHANGED = 1e-3  # of the largest change: below it, a row is taken to be as it was
ROUNDING = 1e-5  # of the values themselves


def together(x: Tensor, rows: int) -> Tensor:
    """Rows (n rows, c, ...) as images (n, c, rows, ...), without a copy; one row an image stays as it is."""
    if rows == 1:
        return x
    if x.size(0) % rows:
        raise ValueError(
            f"{x.size(0)} rows are no whole number of images of {rows} rows, as calibrate found them; calibrate anew, "
            "with images of the size to evaluate"
        )
    return x.unflatten(0, (-1, rows)).transpose(1, 2)


def apart(x: Tensor) -> Tensor:
    """Images (n, c, rows, ...) as rows (n rows, c, ...) again."""
    return x.transpose(1, 2).flatten(0, 1)


class Entry:
    """Counts the images of every pass where they enter the network, by hooks that live as long as the context.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    ordered : bool
        Whether somebody chose the order of its inputs, so that the first counts where nothing else tells.
    """

    def __init__(self, model: nn.Module, *, ordered: bool = True) -> None:
        self.lengths: dict[int, str] = {}  # of the tensors of the pass at work, each with the names of its inputs
        self.sizes: list[int] = []  # images of all passes
        self.swapping = False  # puts the first image in place of the last
        self._images: int | None = None  # of the pass at work, once that is known
        self._ordered = ordered
        self._model = model
        self._hooks: list[Any] = []

    def __enter__(self) -> Entry:
        self._hooks = [
            self._model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def count(self, name: str, rows: int, each: int = 1) -> int:
        """The images of the pass that a layer is in, which sees so many rows; `each` image has as many, if known."""
        if self._images is None:
            self._images = self._told_apart(name, rows, each)
        return self._images

    def _told_apart(self, name: str, rows: int, each: int) -> int:
        if not self.lengths:
            raise ValueError(
                f"layer {name} was reached without a batch of tensors that entered {type(self._model).__name__} "
                "itself, so that nothing says how many images there are; forward must call model(...) with a tensor"
            )
        if rows % each == 0 and rows // each in self.lengths:
            return rows // each
        if len(self.lengths) > 1 and not self._ordered:
            entered = ", ".join(f"{names} of length {n}" for n, names in self.lengths.items())
            raise ValueError(
                f"layer {name} sees {rows} rows, and tensors of several lengths enter {type(self._model).__name__} "
                f"({entered}), so that nothing says how many images there are; pass forward=lambda model, batch: "
                "model(...) with the images as its first argument"
            )
        return next(iter(self.lengths))

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        self.lengths, self._images = {}, None
        for name, value in (*enumerate(args), *kwargs.items()):
            for n in dict.fromkeys(map(len, _tensors(value))):
                self.lengths[n] = f"{self.lengths[n]}, {name}" if n in self.lengths else str(name)
        if not (self.swapping and self.lengths):
            return None
        self._images = next(iter(self.lengths)) if len(self.lengths) == 1 else self.sizes[-1]  # of the same pass before
        return _swapped((args, kwargs), self._images) if self._images else None

    def _end(self, *_: object) -> None:
        if self.lengths:
            self.sizes.append(next(iter(self.lengths)) if self._images is None else self._images)
        self.lengths, self._images = {}, None


@contextmanager
def watching(layers: dict[str, Any], look: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Within the context ``look(name, layer, x)`` sees every input of these layers."""
    before = {name: vars(layer).get("_watch") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer._watch = partial(look, name, layer)
        yield
    finally:
        for name, layer in layers.items():
            vars(layer).pop("_watch", None)  # the class says None
            if before[name] is not None:
                layer._watch = before[name]


class Call(NamedTuple):
    """What a layer saw of a pass: mean and variance (ddof=0) of every channel in every row."""

    images: int
    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, x: Tensor, images: int) -> Call:
        """What a batch shows, in float64 where there is one."""
        wide = torch.float64 if x.device.type in ("cpu", "cuda") else torch.float32
        x = x.detach()
        var, mean = torch.var_mean(x.flatten(2).to(wide) if x.ndim > 2 else x[..., None].to(wide), 2, correction=0)
        return cls(images, mean, var)

    def of_images(self, rows: int) -> Call:
        """The same of every image, whose rows lie together."""
        if rows == 1:
            return self
        mean, var = (v.unflatten(0, (-1, rows)) for v in self[1:])
        return Call(self.images, mean.mean(1), var.mean(1) + mean.var(1, correction=0))


def whole(calls: list[Call]) -> list[Call]:
    """The calls of one pass; a network that takes its batch piece by piece makes one call of all."""
    if len(calls) > 1 and sum(len(call.mean) for call in calls) == calls[0].images:
        return [Call(calls[0].images, *(torch.cat(v) for v in list(zip(*calls, strict=True))[1:]))]
    return calls


def rows_of_images(name: str, calls: list[Call]) -> int:
    """How many rows of a layer's input are one image."""
    found = {(len(call.mean), call.images) for call in calls if call.images}
    shares = {divmod(rows, images) for rows, images in found}
    if len(shares) == 1:
        ((rows, rest),) = shares
        if rows and not rest:
            return rows
    seen = " and ".join(f"{rows} rows of {images} images" for rows, images in sorted(found)[:2])
    raise ValueError(
        f"layer {name} saw {seen}: not the same number of rows for every image, so that images cannot be told apart "
        f"there; leave it out with exclude=[{name!r}]"
    )


def check_order(name: str, rows: int, before: list[Call], after: list[Call]) -> bool:
    """Whether the last image could be seen to be the last `rows` rows, by putting the first one in its place.

    Raises
    ------
    ValueError
        If other rows changed too.
    """
    alone = f"leave it out with exclude=[{name!r}]"
    if [a.mean.shape for a in before] != [b.mean.shape for b in after]:
        raise ValueError(f"layer {name} sees a number of rows that depends on what the images show; {alone}")
    seen = False
    for a, b in zip(before, after, strict=True):
        change = torch.maximum((a.mean - b.mean).abs(), (a.var.sqrt() - b.var.sqrt()).abs()).amax(1)
        least = ROUNDING * float((a.mean.abs() + a.var.sqrt()).max())
        changed = change > max(CHANGED * float(change.max()), least)
        if changed[: len(changed) - rows].any():
            problem = (
                "one image changes the rows of others: its images are not independent, as after a layer before it that "
                "takes statistics of the batch (track_running_stats=False); or an image's rows do not lie together "
                "(flatten images before tokens, as x.flatten(0, 1) does for x of shape (images, tokens, c)); or the "
                "network draws random numbers in evaluation that torch.manual_seed does not control (a generator of "
                "its own, numpy.random)"
            )
            raise ValueError(f"layer {name}: {problem}; {alone}")
        seen = seen or bool(changed.any())
    return seen


def check_rows(name: str, layer: Any, x: Tensor, images: int) -> None:
    """Refuse a layer that sees other rows of so many images than it was calibrated for."""
    expected = images * layer.image_rows
    if len(x) > expected or (len(x) != expected and layer.image_rows > 1):
        known = "as many" if layer.image_rows == 1 else f"{layer.image_rows} for each"
        raise ValueError(
            f"layer {name} sees {len(x)} rows of {images} images, where {known} are expected: calibrate(model, loader) "
            f"finds out which rows are whose; exclude=[{name!r}] leaves the layer as it was trained"
        )


def _tensors(value: Any) -> Any:
    """The tensors in nested tuples, lists and dictionaries that have a first axis."""
    if isinstance(value, Tensor):
        if value.ndim:
            yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)


def _swapped(value: Any, images: int) -> Any:
    """The same with the first image in place of the last."""
    if isinstance(value, Tensor):
        return torch.cat([value[:-1], value[:1]]) if value.ndim and len(value) == images else value
    return mapped(lambda v: _swapped(v, images), value)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A tuple, list or dictionary of the same kind with a function applied to its entries; anything else as it is."""
    if isinstance(value, dict):
        entries = copy.copy(value)  # of whatever subclass
        entries.update({k: function(v) for k, v in value.items()})
        return entries
    if isinstance(value, (tuple, list)):
        items = [function(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
