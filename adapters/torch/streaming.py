"""Batches as a stream: statistics of about the last images seen, forgotten when the data change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from shrinkstats.adapters.torch.again import Batch, Call, Seen, batches, of_numbers, unrecorded
from shrinkstats.adapters.torch.noise import noise_of
from shrinkstats.estimators import Estimator
from shrinkstats.values import Cotangent, Moments, Prior, SamplingNoise, Statistics

RECENT = 8  # the change detector compares the memory with that of an eighth of the images ...
CHANGE = 8.0  # ... and takes this many times the squared distance that chance would show for a change


class Memory(Batch):
    """Moments of weighted images: those of the past count less."""

    @property
    def images(self) -> float:
        """How many images of equal weights would say as much (Kish's effective sample size)."""
        return self.weight**2 / self.squares

    def then(self, batch: Memory, capacity: int) -> Memory:
        """This memory, faded by a batch that follows, and the batch."""
        kept = max(0.0, 1 - batch.weight / capacity)
        weight = kept * self.weight + batch.weight
        share = batch.weight / weight
        difference = batch.mean - self.mean
        spread = share * (1 - share) * difference * difference  # Chan's formula, for weights; 0 of no share at all
        return Memory(
            weight,
            kept**2 * self.squares + batch.squares,
            self.mean + share * difference,
            _between(self.var, batch.var, share) + spread,
            _between(self.between, batch.between, share) + spread,
        )


def _between(old: Tensor, new: Tensor, share: float) -> Tensor:
    """A share of the way to what may be infinite."""
    return torch.where(new.isinf(), new, torch.lerp(old, new, share))


@dataclass
class _State:
    seen: Seen = field(default_factory=Seen)  # batches, and what was remembered after each
    long: Memory | None = None
    recent: Memory | None = None

    def copied(self) -> _State:
        return replace(self, seen=self.seen.copy())

    def become(self, other: _State) -> None:
        vars(self).update(vars(other))


@contextmanager
def undisturbed(layers: Iterable[Any]) -> Iterator[None]:
    """After the context, streams remember what they did before."""
    streams = [layer.adaptation for layer in layers if isinstance(vars(layer).get("adaptation"), Streaming)]
    before = [(s.state, s.state.copied()) for s in streams]
    try:
        yield
    finally:
        for state, earlier in before:
            state.become(earlier)


@dataclass
class Peers:
    """The layers of a network in the pass at work: they see as many images, and remember all of them or none."""

    rows: dict[str, tuple[int, bool]] = field(default_factory=dict)  # that each layer saw, and whether they are images
    before: list[tuple[_State, _State]] = field(default_factory=list)  # streams, and what they remembered

    @contextmanager
    def joined_by(self, name: str) -> Iterator[None]:
        """The part of a layer in a pass; if it fails, no stream remembers anything of the pass."""
        if name in self.rows:
            self._clear()  # another pass
        try:
            yield
        except BaseException:
            for state, earlier in self.before:
                state.become(earlier)
            self._clear()
            raise

    def _clear(self) -> None:
        self.rows.clear()
        self.before.clear()

    def check(self, name: str, rows: int, known: bool, state: _State) -> None:
        """Refuse a layer that sees several rows for every one that another sees, or the other way round.

        Where calibration saw both take images, they may be parts of a network that run by themselves.
        """
        for other, (seen, also) in self.rows.items():
            if rows != seen and max(rows, seen) % min(rows, seen) == 0 and not (known and also):
                many, few = ((name, rows), (other, seen)) if rows > seen else ((other, seen), (name, rows))
                raise ValueError(
                    f"layer {many[0]} sees {many[1]} rows where layer {few[0]} sees {few[1]}, so that memory would "
                    "count rows for images: calibrate(model, loader), with images of the size to evaluate, finds out "
                    f"which rows are whose; exclude=[{many[0]!r}] leaves the layer as it was trained"
                )
        self.rows[name] = rows, known
        self.before.append((state, state.copied()))


class _Loading(threading.local):
    """The load_state_dict at work: PyTorch gives all layers the same list, for their errors."""

    errors: Any = None
    peers: Callable[[], Peers | None] = staticmethod(lambda: None)


_loading = _Loading()


def peers_in_load(errors: list[str]) -> Peers:
    """Those of all layers that are loaded together."""
    peers = (_loading.peers() if _loading.errors is errors else None) or Peers()
    _loading.errors, _loading.peers = errors, ref(peers)
    return peers


@dataclass(frozen=True)
class Streaming(Estimator):
    """An estimator that sees, with every batch, also those before it; one for each layer.

    Parameters
    ----------
    estimator : Estimator
        What blends, or otherwise uses, the moments of the remembered images.
    capacity : int
        How many images are remembered, about: what was seen before a batch of n images fades to 1 - n/capacity.
    layer : ShrinkBatchNorm
        Whose calibrated noise tells change from chance; without calibration the memory's own noise does.
    peers : Peers
        The layers of the same network, who see the same images.
    name : str
        The layer's among them.
    call : Call, optional
        That of the layer which the statistics are for.
    """

    uses_extremes: ClassVar[bool] = False

    estimator: Estimator
    capacity: int
    layer: Any = field(repr=False, compare=False)
    state: _State = field(default_factory=_State, repr=False, compare=False)
    peers: Peers = field(default_factory=Peers, repr=False, compare=False)
    name: str = field(default="", repr=False, compare=False)
    call: Call | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.estimator.uses_extremes:
            raise ValueError(f"{self.estimator} needs minimum and maximum, which do not fade: leave memory out")

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """The estimator's on what is remembered after this batch, or after each of a stack of batches."""
        memories = self.call.known if self.call is not None else None
        if memories is None:
            with unrecorded():
                memories = self._remembered(moments)
        if self.call is not None:
            self.call.known = memories
        tensors = isinstance(moments.mean, Tensor)
        found = [self._from(memory, moments, prior) for memory in memories]
        if moments.mean.ndim == 1:
            return found[0]
        return Statistics(*((torch if tensors else np).stack(v) for v in zip(*found, strict=True)))

    def scale(self, spread: Any, eps: float) -> Any:
        """What the estimator has."""
        return self.estimator.scale(spread, eps)

    def scale_gradient(self, spread: Any, scale: Any) -> Any:
        """What the estimator has."""
        return self.estimator.scale_gradient(spread, scale)

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent:
        """No gradient: most of the statistics come from other batches."""
        return Cotangent()

    def _remembered(self, moments: Moments) -> list[Memory]:
        """What is remembered after each batch; of those that a backward pass computes again, what was then."""
        stack, call = [Memory(*batch) for batch in batches(moments)], self.call
        known: list[Memory] | None = None if call is None else self.state.seen.recall(call, stack)
        if known is None:
            images = self.layer.noise_mean is not None and self.layer.image_rows == 1
            self.peers.check(self.name, moments.samples * len(stack), images, self.state)
            known = [self._remember(batch) for batch in stack]
            if call is not None and call.kept:
                self.state.seen.append((call, stack, known))
        return known

    def _from(self, memory: Memory, moments: Moments, prior: Prior | None) -> Statistics:
        pixels = moments.count / moments.samples
        mean, var, between = map(_like(moments.mean), memory[2:])
        seen = Moments(
            count=memory.images * pixels,
            samples=memory.images,
            mean=mean,
            m2=memory.images * pixels * var,
            minimum=mean * np.nan,
            maximum=mean * np.nan,
            sample_weight=memory.images * pixels**2,
            sample_mean=mean,
            sample_m2=memory.images * pixels**2 * between,
            equal_samples=True,
        )
        if prior is not None:
            noise = noise_of(self.layer, memory.images, lambda v: v.to(memory.mean.dtype))
            prior = Prior(*prior[:2], noise and SamplingNoise(*map(_like(moments.mean), noise)))
        return self.estimator.statistics(seen, prior)

    def _remember(self, batch: Memory) -> Memory:
        """What is remembered after a batch; all of the state changes, or nothing of it."""
        state = self.state
        long = batch if state.long is None else state.long.then(batch, self.capacity)
        recent = batch if state.recent is None else state.recent.then(batch, max(1, self.capacity // RECENT))
        if not torch.isfinite(torch.stack((*long[2:], *recent[2:]))).all():
            return long  # of the batch itself; in the memory it would never fade
        if self._changed(long, recent):
            long = recent
        state.long, state.recent = long, recent
        return long

    def _changed(self, long: Memory, recent: Memory) -> bool:
        """Whether the last few images are further from the memory than chance puts them."""
        noise = self.layer.noise_mean
        per_image = long.between if noise is None else noise.to(long.mean)
        unit = torch.where(long.var > 0, long.var, torch.inf)
        chance = float((per_image / unit).sum()) * (1 / recent.images - 1 / long.images)
        distance = float(((recent.mean - long.mean).square() / unit).sum())
        return chance > 0 and distance > CHANGE * chance


def check_computed_now(x: Tensor) -> None:
    """A graph, or a transform, would keep what the stream remembers at this moment, and leave tensors of its own in it.

    Raises
    ------
    RuntimeError
        If x is not a tensor of numbers, but stands for some.
    """
    if not of_numbers(x):
        raise RuntimeError(
            "a layer that was adapted with memory cannot be traced, exported or transformed: its outputs depend on the "
            "batches before; call it as it is, or adapt(model) without memory first"
        )


def _like(x: Any) -> Callable[[Tensor], Any]:
    """What turns a tensor into an array of x's kind."""
    return (lambda v: v) if isinstance(x, Tensor) else Tensor.numpy
