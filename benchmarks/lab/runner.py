"""What the studies that train networks have in common: their options, their training, the processes that share it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.lab.cells import Cells, Row, Share, first_rank
from benchmarks.lab.command import options
from benchmarks.lab.training import Step, fit, save_weights
from shrinkstats.rules.registry import named

Preset = TypeVar("Preset")


def rule_name(name: str) -> str:
    """A rule by name, as a command line gives it; module:Rule is one of the user's own.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is none.
    """
    try:
        named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def parser(description: str | None, presets: Iterable[str]) -> argparse.ArgumentParser:
    """A parser with the options that all of them have."""
    found = options(description)
    found.add_argument("--preset", choices=presets, required=True)
    found.add_argument("--data", type=Path, required=True)
    found.add_argument("--output", type=Path, required=True)
    found.add_argument("--share", type=Share.of, default=Share(0, 1), help="i/k: every k-th network, from the i-th on")
    return found


def as_told(preset: Preset, args: argparse.Namespace) -> Preset:
    """The preset with the values of the options that were given; both have the same names."""
    told = {field.name: getattr(args, field.name, None) for field in fields(preset)}  # type: ignore[arg-type]
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    changes = {name: value for name, value in told.items() if value is not None}
    return replace(preset, **changes)  # type: ignore[type-var]


def settings(preset: Any, names: Iterable[str]) -> Row:
    """What all cells depend on, as JSON has it."""
    return {name: list(v) if isinstance(v := getattr(preset, name), tuple) else v for name in names}


def cells_of(folder: Path, settings: Row) -> Cells:
    """The cells in a folder, which is made; the first rank begins the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not first_rank():
        dist.barrier()
    cells = Cells(folder / "cells.jsonl", settings)
    if dist.is_initialized() and first_rank():
        dist.barrier()
    return cells


class Log:
    """A line every half minute."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def __call__(self, step: Step) -> None:
        if first_rank() and time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            place = f"epoch {step.epoch + 1} of {step.epochs}, step {step.step} of {step.steps}"
            print(f"{self.name}: {place}, loss {step.loss:.3f}", flush=True)


def train(
    run: Any,
    net: nn.Module,
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    loss: Callable[[Any, Tensor], Tensor],
    output: Path,
    cells: Cells,
    *,
    complete: Callable[[nn.Module], object] = lambda net: None,
    validate: Callable[[nn.Module], Mapping[str, float]],
    **options: Any,
) -> nn.Module | None:
    """The trained network, from its file if there is one; None if training broke down.

    `complete` gives a network the buffers that it is saved with and training did not need; `options` are those of
    :func:`benchmarks.lab.training.fit`.
    """
    path = output / f"{run}.safetensors"
    checkpoint = path.with_suffix(".unfinished")
    known = cells.training(run)
    if known is not None:
        if "failed" in known:
            return None
        complete(net)
        net.load_state_dict(load_file(path))
        return net.eval()
    note: Row = {**vars(run), "history": []}
    try:
        history = fit(
            net,
            batches,
            loss,
            validate=validate,
            checkpoint=checkpoint,
            seed=run.seed,
            progress=Log(str(run)),
            **options,
        )
        note["history"] = [asdict(epoch) for epoch in history]
    except FloatingPointError as error:
        note["failed"] = str(error)
    if first_rank():
        if "failed" not in note:
            complete(net)
            save_weights(net, path)
        print(f"{run}: {note.get('failed') or note['history'][-1]['scores']}", flush=True)
    cells.add(note)
    if first_rank():
        checkpoint.unlink(missing_ok=True)
    return None if "failed" in note else net


def start_ranks() -> torch.device:
    """The device of this process; under torchrun the processes come together first."""
    gpu = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        return torch.device("cuda" if gpu else "cpu")
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1))  # while the first one measures
    if not gpu:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def end_ranks() -> None:
    """After the work."""
    if dist.is_initialized():
        dist.destroy_process_group()
