"""Measure, on training data, how much the statistics of small batches scatter without any shift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
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
from shrinkstats.adapters.torch.feeding import Forward, passes
from shrinkstats.adapters.torch.images import Call, Entry, check_order, rows_of_images, watching, whole
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS, measure


@torch.no_grad()
def calibrate(
    model: Model,
    loader: Iterable[Any],
    *,
    batches: int = 10,
    forward: Forward | None = None,
    exclude: Excluded = (),
) -> Model:
    """Store in every batch norm layer the sampling noise to expect of its batch statistics.

    A Stein blend (:func:`adapt`) needs it to tell shift from chance, above all at batch size 1. Some hundred
    training images do. Plain batch norm layers are converted on the way, with ``BatchStatistics()``, which
    computes what they did.

    Parameters
    ----------
    model : torch.nn.Module
        A network whose batch norm layers have running statistics.
    loader : iterable
        Yields batches of training images: tensors, or dictionaries, of which the network gets by name what its
        forward takes, or tuples or lists whose first entry is one of these. They are moved to the network's device.
    batches : int
        How many of its batches to look at.
    forward : callable, optional
        ``forward(model, batch)`` calls ``model(...)`` on a batch of any other kind; what it returns is not used.
    exclude : iterable of str or torch.nn.Module
        Modules, or their names, whose layers are neither converted nor measured.

    Returns
    -------
    torch.nn.Module
        The same object, its layers with the buffers `noise_mean`, `noise_sd` and `noise_sd_bias`, which follow
        state_dict, deepcopy and the device. Parameters, running statistics and modes are left as they were, and after
        an error everything is.

    Raises
    ------
    TypeError
        If the loader yields something else, or a layer cannot be converted.
    ValueError
        If there are fewer than 2 images, a layer has no running statistics, values are not finite, or it cannot be
        told which rows of a layer's input belong to which image.

    Notes
    -----
    A batch holds as many images as the tensors that enter the network are long. If these differ, the first layer that
    is reached says which of them are the images: they are as many as its rows. If none are, it is the first tensor
    that `forward` passes; without `forward` it is an error, which names them. A layer that sees k rows for each image,
    as after ``x.flatten(0, 1)`` of tokens or points, takes these for the pixels of one image from then on
    (`image_rows`), in :func:`adapt`, its memory, and :func:`grouped`. To see which rows are whose, one batch is
    looked at once more with its first image in place of the last. Layers where that is not to be seen, or that see a
    number of rows that differs from image to image, are named in an error; `exclude` leaves them out. Images of
    another size have another number of rows: calibrate anew for them, because a multiple of k would be taken for
    several images where no layer sees the images themselves.
    """
    if whole_number("batches", batches) < 1:
        raise ValueError(f"batches counts batches to look at, at least 1, got {batches}")
    found = convertible_layers(model, exclude)
    for name, layer in found.items():
        if layer.running_mean is None:
            raise ValueError(f"layer {name} has no running statistics (track_running_stats=False) to calibrate for")
    calls: dict[str, list[Call]] = {name: [] for name in found}
    unseen = set(found)  # the layers of which it was not seen which rows are whose
    device = device_of(found)
    with ExitStack() as stack:
        stack.enter_context(restored(found.values(), only_on_failure=True))
        for layer in found.values():
            if not isinstance(layer, ShrinkBatchNorm):
                become_shrinking(layer)
        _evaluate_plainly(model, stack)
        entry = stack.enter_context(Entry(model, ordered=forward is not None))
        for run in islice(passes(model, loader, forward, device), batches):
            random = _random_state(device)
            here = _observed(run, found, entry)
            for name in found:
                calls[name] += here[name]
            waiting = {name: found[name] for name in found if name in unseen and here[name]}
            if waiting and entry.sizes[-1] > 1:
                unseen -= _seen_apart(run, waiting, entry, here, random, device)
        unreached = [name for name in found if not calls[name]]
        if unreached and any(entry.sizes):
            raise ValueError(
                f"no image reached layer {', '.join(unreached)} in evaluation, as of a head that runs only in "
                f"training; leave it out with exclude={unreached}"
            )
        measured = {name: _measured(name, layer, calls[name], name in unseen) for name, layer in found.items()}
        for name, layer in found.items():
            rows, values = measured[name]
            vars(layer).pop("image_rows", None)
            if rows != 1:
                layer.image_rows = rows
            with torch.inference_mode(False):  # or the buffers could never be changed in place outside of it
                for buffer, value in zip(NOISE_BUFFERS, values, strict=True):
                    setattr(layer, buffer, value.to(layer.running_var.dtype, copy=True))
    return model


def device_of(layers: dict[str, Any]) -> torch.device:
    """Where a network takes its images."""
    return next(iter(layers.values())).running_mean.device


def _evaluate_plainly(model: nn.Module, stack: ExitStack) -> None:
    """Evaluation with running statistics, which lets images pass independently of each other, until the stack ends."""
    for module in model.modules():
        stack.callback(setattr, module, "training", module.training)
    for layer in shrinking_layers(model).values():
        stack.callback(setattr, layer, "adaptation", layer.adaptation)
        layer.adaptation = None
    model.eval()


def _observed(run: Callable[[], None], layers: dict[str, Any], entry: Entry) -> dict[str, list[Call]]:
    """What layers see of one pass."""
    seen: dict[str, list[Call]] = {name: [] for name in layers}

    def look(name: str, _: Any, x: Tensor) -> None:
        seen[name].append(Call.of(x, entry.count(name, len(x))))

    with watching(layers, look):
        run()
    return {name: whole(calls) for name, calls in seen.items()}


def _seen_apart(
    run: Callable[[], None],
    layers: dict[str, Any],
    entry: Entry,
    before: dict[str, list[Call]],
    random: list[Tensor],
    device: torch.device,
) -> set[str]:
    """The layers of which the same pass, with another last image, shows that its rows are the last."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(random[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(random[1], device)
        entry.swapping = True
        after = _observed(run, layers, entry)
        entry.swapping = False
    seen = set()
    for name in layers:
        rows = rows_of_images(name, before[name])
        if check_order(name, rows, before[name], after[name]) or rows == 1:
            seen.add(name)
    return seen


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _measured(
    name: str, layer: ShrinkBatchNorm, calls: list[Call], unseen: bool
) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
    """How many rows an image has, and the noise buffers."""
    rows = rows_of_images(name, calls) if calls else 1
    images = [call.of_images(rows) for call in calls]
    number = sum(len(call.mean) for call in images)
    if number < 2:
        raise ValueError(f"layer {name} saw {number} images; calibration needs at least 2, better hundreds")
    means, variances = (torch.cat(v) for v in list(zip(*images, strict=True))[1:])
    noise = measure(means, variances, layer.running_var.to(means.dtype))
    if not all(torch.isfinite(value).all() for value in noise):
        raise ValueError(f"layer {name} saw values that are not finite; check the images and the checkpoint")
    if unseen and rows > 1:
        raise ValueError(
            f"layer {name} saw {rows} rows for every image, but not which are whose: that takes a batch whose first "
            f"and last image differ there; if it does not depend on the images, leave it out with exclude=[{name!r}]"
        )
    return rows, noise
