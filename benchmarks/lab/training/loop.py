"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import ranks
from .checkpoint import read, write
from .interruption import Interruption, deferred

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
Loss = Callable[[Any, Tensor], Tensor]
Scores = Mapping[str, float]


@dataclass
class Epoch:
    """What one epoch did.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    loss : float
        Mean over the samples that were trained on (with an attack, as attacked).
    seconds : float
        Of training, without validation.
    forward, backward : int
        Passes over the network, counted as they happened, those of the attack included.
    scores : dict of str to float
        What `validate` returned.
    """

    epoch: int
    loss: float = 0.0
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    scores: dict[str, float] = field(default_factory=dict)


class Step(NamedTuple):
    """Where a training stands: `step` of `steps` of an epoch (counted from 0) are done."""

    epoch: int
    epochs: int
    step: int
    steps: int
    total: Tensor
    samples: int

    @property
    def loss(self) -> float:
        """Mean of the epoch so far; asking for it waits for a GPU."""
        return float(self.total) / self.samples


def fit(
    net: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    epochs: int,
    rate: float = 0.1,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    attack: Any = None,
    autocast: torch.dtype | None = None,
    validate: Callable[[nn.Module], Scores] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[Step], None] | None = None,
) -> list[Epoch]:
    """Train a network; stopped and called again, it goes on to the very weights it would have had.

    Parameters
    ----------
    net : torch.nn.Module
        On the device it is trained on. At the end, in evaluation mode, it holds the weights of the epoch with the
        best score, or without `validate` the last ones.
    batches : callable
        Takes the epoch, gives the batches of it: something with a length (the same in every epoch) that yields
        (input, target). It must give the same ones whenever it is asked for the same epoch, by a generator of its
        own seeded with the epoch, or by torch's global one, which is seeded before. It is asked for epoch 0 once
        more to begin with, for the length.
    loss : callable
        Takes the output and the target, gives the losses of the samples, shape (n,); their mean is minimized. A
        scalar will do where there is no attack. Outputs come in the dtype of `autocast`.
    epochs : int
        How many, at most.
    rate : float
        The largest learning rate of the one cycle that is the default schedule.
    optimizer : torch.optim.Optimizer, optional
        By default SGD with Nesterov momentum 0.9 and weight decay 5e-4, in one cycle of the learning rate.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        Of the `optimizer` given, advanced after every step.
    attack : Attack, optional
        One of :mod:`shrinkstats.adapters.attacks`: the network is trained on what it makes of each batch (Madry et
        al. 2018), in training mode; running statistics see the attacked images once, not the attack's own passes.
    autocast : torch.dtype, optional
        ``torch.bfloat16`` for convolutions and products of matrices in half precision.
    validate : callable, optional
        Takes the network in evaluation mode, after every epoch, and gives scores by name. The first one decides
        which weights are best: the higher the better, the earlier if equal.
    patience : int, optional
        Stop after so many epochs in a row without a better score.
    checkpoint : path, optional
        Where to keep what is needed to go on: after every epoch, every `checkpoint_seconds`, and on Ctrl-C and
        SIGTERM, which wait for the end of a step. The file is there when a training is finished too: called again,
        `fit` then returns at once. Remove it when the weights are saved.
    checkpoint_seconds : float
        Time between checkpoints within an epoch.
    seed : int
        Of torch's global generators, which are seeded anew before every step, and are after `fit` as before.
    progress : callable
        Called after every step.

    Returns
    -------
    list of Epoch
        The history.

    Raises
    ------
    ValueError
        If an option makes no sense, or the checkpoint is damaged or of another training.
    FloatingPointError
        If the loss is no longer finite.
    KeyboardInterrupt
        If stopped, with everything kept.

    Notes
    -----
    Where ``torch.distributed`` is initialized, as under torchrun, every rank calls `fit` with the same batches and
    trains on its part of each (DistributedDataParallel). Statistics are then those of a rank's part, unless the
    layers synchronize them (``convert(..., process_group=...)``). Rank 0 validates and keeps the checkpoint, which
    all ranks must be able to read.

    References
    ----------
    Smith & Topin (2018), "Super-convergence: very fast training of neural networks using large learning rates".
    Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from benchmarks.lab.training import fit
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> def batches(epoch):
    ...     order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
    ...     return [(x[i], 3 * x[i]) for i in order.split(16)]
    >>> net = nn.Linear(1, 1)
    >>> history = fit(net, batches, lambda found, y: (found - y).square().mean(1), epochs=50)
    >>> len(history), abs(net.weight.item() - 3) < 0.1
    (50, True)
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if schedule is not None and optimizer is None:
        raise ValueError("a schedule belongs to an optimizer: pass both, or neither")
    if patience is not None and (validate is None or patience < 1):
        raise ValueError(f"patience needs validate, and counts epochs without a better score from 1 on; got {patience}")
    if autocast == torch.float16:
        raise ValueError("float16 needs its losses scaled, which fit does not do; use torch.bfloat16")
    training = _Training(net, loss, attack, autocast)
    with deferred() as interruption, torch.random.fork_rng(_gpus(training.device)):
        torch.manual_seed(_seed(seed, 0))
        steps = len(batches(0))  # type: ignore[arg-type]
        if optimizer is None:
            optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
        settings = {
            "epochs": epochs,
            "steps": steps,
            "optimizer": type(optimizer).__name__,
            "rate": float(optimizer.defaults["lr"]),
            "attack": repr(attack),
            "autocast": str(autocast),
            "seed": seed,
            "ranks": ranks.number(),
        }
        run = _Run(training, optimizer, schedule, settings, None if checkpoint is None else Path(checkpoint))
        run.resume()
        while run.epoch < epochs and not run.waited_long(patience):
            run.train(batches, checkpoint_seconds, interruption, progress)
            run.finish_epoch(validate)
            interruption.stop_if_requested()
    if run.best is not None:
        net.load_state_dict(run.best["weights"])
    net.eval()
    return run.history


class _Training:
    """A network and what is done to it in a step; counts its passes."""

    def __init__(self, net: nn.Module, loss: Loss, attack: Any, autocast: torch.dtype | None) -> None:
        self.net, self.loss, self.attack, self.autocast = net, loss, attack, autocast
        self.device = next(net.parameters()).device
        self.wrapped = ranks.wrapped(net, self.device)
        self.forward = self.backward = 0

    def losses(self, net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """Forward; this pass is counted, and so is one back from here."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = net(x)
        losses = self.loss(output, target)
        self.forward += 1
        if losses.requires_grad:
            losses.register_hook(self._count_backward)
        return losses

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += 1

    def attacked(self, x: Tensor, target: Tensor) -> Tensor:
        """The input as the attack changes it; it sees the bare network, and leaves no trace in its buffers."""

        def losses(images: Tensor) -> Tensor:
            found = self.losses(self.net, images, target)
            if found.shape != (len(images),):
                raise ValueError(
                    f"an attack needs the loss of every sample, shape ({len(images)},), got {tuple(found.shape)}"
                )
            return found

        before = [buffer.clone() for buffer in self.net.buffers()]
        changed = self.attack(losses, x)
        with torch.no_grad():
            for buffer, value in zip(self.net.buffers(), before, strict=True):
                buffer.copy_(value)
        return changed

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor) -> Tensor:
        """Train on a batch; the sum of its losses."""
        samples = len(x)
        x, target = (ranks.shard(part).to(self.device) for part in (x, target))
        if self.attack is not None:
            x = self.attacked(x, target)
        loss = self.losses(self.wrapped, x, target).mean()
        optimizer.zero_grad()
        (loss * (len(x) * ranks.number() / samples)).backward()  # ranks with more samples count for more
        optimizer.step()
        return ranks.total(loss.detach().double() * len(x))


class _Run:
    """A training in time: what a checkpoint holds, and how it moves on."""

    def __init__(
        self,
        training: _Training,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None,
        settings: dict[str, Any],
        path: Path | None,
    ) -> None:
        self.training, self.optimizer, self.schedule = training, optimizer, schedule
        self.settings, self.path = settings, path
        self.step = self.samples = 0
        self.total = torch.zeros((), dtype=torch.float64, device=training.device)
        self.now = Epoch(0)
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        return self.now.epoch

    def train(
        self,
        batches: Batches,
        checkpoint_seconds: float,
        interruption: Interruption,
        progress: Callable[[Step], None] | None,
    ) -> None:
        """The rest of an epoch."""
        self.training.net.train()
        self._seed()
        coming = islice(batches(self.epoch), self.step, None)
        saved = time.monotonic()
        while True:
            start = time.monotonic()
            self._seed(self.step, ranks.rank())
            if (batch := next(coming, None)) is None:
                return
            self.total += self.training.step(self.optimizer, *batch)
            if self.schedule is not None:
                self.schedule.step()
            self.step += 1
            self.samples += len(batch[0])
            self.now.seconds += time.monotonic() - start
            if interruption.requested or time.monotonic() - saved > checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            interruption.stop_if_requested()
            if progress is not None:
                epochs, steps = self.settings["epochs"], self.settings["steps"]
                progress(Step(self.epoch, epochs, self.step, steps, self.total, self.samples))

    def finish_epoch(self, validate: Callable[[nn.Module], Scores] | None) -> None:
        """Validate, keep the weights if they are the best, and begin the next epoch."""
        if not self.samples:
            raise ValueError(f"there are no batches in epoch {self.epoch}")
        self.now.loss = float(self.total) / self.samples
        if not math.isfinite(self.now.loss):
            raise FloatingPointError(f"the loss of epoch {self.epoch} is {self.now.loss}; a smaller rate may help")
        if validate is not None:
            self.save()
            self._validate(validate)
        self._count()
        self.history.append(self.now)
        self.now = Epoch(self.epoch + 1)
        self.step = self.samples = 0
        self.total.zero_()
        self.save()

    def _validate(self, validate: Callable[[nn.Module], Scores]) -> None:
        net = self.training.net.eval()
        ranks.same_buffers(net)
        self._seed()
        found = {name: float(score) for name, score in validate(net).items()} if ranks.rank() == 0 else {}
        self.now.scores = ranks.agreed(found)
        score = next(iter(self.now.scores.values()))
        if self.best is None or score > self.best["score"]:
            weights = {name: value.detach().clone() for name, value in net.state_dict().items()}
            self.best = {"score": score, "epoch": self.epoch, "weights": weights}

    def waited_long(self, patience: int | None) -> bool:
        return patience is not None and self.best is not None and self.epoch - 1 - self.best["epoch"] >= patience

    def _seed(self, *place: int) -> None:
        torch.manual_seed(_seed(self.settings["seed"], self.epoch, *place))

    def _count(self) -> None:
        """Move the passes counted so far into the epoch."""
        self.now.forward += self.training.forward
        self.now.backward += self.training.backward
        self.training.forward = self.training.backward = 0

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.path is None or ranks.rank() != 0:
            return
        self._count()
        state = {
            "settings": self.settings,
            "net": self.training.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "total": self.total,
            "now": asdict(self.now),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        write(self.path, state)

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        state = None if self.path is None else read(self.path, self.settings)
        if state is None:
            return
        self.training.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.step, self.samples, self.best = state["step"], state["samples"], state["best"]
        self.total.copy_(state["total"])
        self.now = Epoch(**state["now"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def _seed(*place: int) -> int:
    """A number for torch.manual_seed that differs from place to place."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
