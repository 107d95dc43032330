"""What the benchmarks that train networks have in common: their options, cells of results, processes, training."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinkstats._files import signed, verified
from shrinkstats.adapters.training import Step, fit, save_weights
from shrinkstats.rules.registry import named

Row = dict[str, Any]
Preset = TypeVar("Preset")
Item = TypeVar("Item")


class Share(NamedTuple):
    """The part of the work that a process does: every count-th network, from the index-th on."""

    index: int
    count: int

    @classmethod
    def of(cls, text: str) -> Share:
        """From an option such as 0/2."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise argparse.ArgumentTypeError(f"counts from 0: 0/2 and 1/2 are the two halves, got {text}")
        return cls(int(index), int(count))

    @property
    def is_all(self) -> bool:
        """Whether there is nobody else."""
        return self.count == 1

    def part(self, items: list[Item]) -> list[Item]:
        """What this process does of them."""
        return items[self.index :: self.count]


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
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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


class Cells:
    """Rows known so far, in memory and in a file of JSON lines that several processes may add to."""

    def __init__(self, path: Path, settings: Row) -> None:
        self.path, self.rows = path, []
        if not path.exists():
            self._append(json.dumps(settings) + "\n")
        text = path.read_text(encoding="utf-8", errors="replace")
        first, *lines = text.splitlines() or [""]
        if _parsed(first) != settings:
            raise SystemExit(f"{path} holds cells of other settings: {first}\nremove it, or choose another --output")
        sure = False
        for number, line in enumerate(lines, 2):
            known = _parsed(line)
            if known is None:  # cut off when the benchmark was stopped
                continue
            try:
                if verified(known):
                    sure = True
                elif sure and known != settings:  # older rows have none
                    raise ValueError("its checksum is missing")
            except ValueError as error:
                raise SystemExit(f"{path}, line {number}: {error}; remove the line to measure it again") from error
            if known != settings:  # two processes may have begun the file at once
                self.rows.append(known)
        if not text.endswith("\n"):
            self._append("\n")

    @classmethod
    def of_all_ranks(cls, folder: Path, settings: Row) -> Cells:
        """Those in a folder, which is made; the first rank begins the file."""
        folder.mkdir(parents=True, exist_ok=True)
        if not first_rank():
            dist.barrier()
        cells = cls(folder / "cells.jsonl", settings)
        if dist.is_initialized() and first_rank():
            dist.barrier()
        return cells

    def add(self, new: Row) -> None:
        """Keep a row, from now on."""
        self.rows.append(new)
        if first_rank():
            self._append(json.dumps(signed(new)) + "\n")

    def training(self, run: Any) -> Row | None:
        """What is known of the training of a network."""
        found = (row for row in self.rows if "history" in row and vars(run).items() <= row.items())
        return next(found, None)

    def _append(self, text: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())  # at once: rows of two processes do not mix
        finally:
            os.close(file)

    def __contains__(self, wanted: Row) -> bool:
        return any(all(known.get(name) == value for name, value in wanted.items()) for known in self.rows)


def _parsed(line: str) -> Row | None:
    """A line of the file, unless it is not whole."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


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
    :func:`shrinkstats.adapters.training.fit`.
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


def first_rank() -> bool:
    """Whether this process is the one that measures and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


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
