"""Batch normalization layers whose statistics come from any estimator."""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from shrinkstats.adapters.torch import addresses, again, agreement, blended, fused, groups, images, memory, saved
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS, noise_of
from shrinkstats.adapters.torch.streaming import Streaming, check_computed_now, peers_in_load
from shrinkstats.estimators import Estimator, Stein
from shrinkstats.kernels import vectors
from shrinkstats.rules.base import said
from shrinkstats.values import Moments, Prior


class _Affine:
    """The attribute `affine`; SyncBatchNorm.convert_sync_batchnorm, which would lose the rule, learns that from it."""

    converter = nn.SyncBatchNorm.convert_sync_batchnorm.__func__.__code__

    def __get__(self, layer: Any, owner: Any = None) -> Any:
        if layer is None:
            return self
        if not torch.compiler.is_compiling() and sys._getframe(1).f_code is self.converter:
            raise TypeError(
                "SyncBatchNorm.convert_sync_batchnorm would drop the estimators of converted layers: use "
                "convert(model, estimator, process_group=torch.distributed.group.WORLD) instead, or call it first"
            )
        if "affine" not in vars(layer):
            raise AttributeError("affine")  # torch.nn.Module says it in its own words
        return vars(layer)["affine"]

    def __set__(self, layer: Any, value: Any) -> None:
        vars(layer)["affine"] = value

    def __delete__(self, layer: Any) -> None:
        self.__get__(layer)
        del vars(layer)["affine"]


class ShrinkBatchNorm(_BatchNorm):
    """What the layers for one, two and three dimensions share; see :class:`ShrinkBatchNorm2d`.

    Attributes
    ----------
    estimator : Estimator
        The rule of training, and of evaluation without running statistics.
    adaptation : Estimator or None
        The rule of evaluation on shifted data (:func:`adapt`); None evaluates with the running statistics.
    noise_mean, noise_sd, noise_sd_bias : Tensor or None
        What :func:`calibrate` measured.
    process_group : torch.distributed.ProcessGroup or None
        The ranks that share statistics in training.
    group_size : int or None
        In evaluation this many images in a row share batch statistics (:func:`grouped`); None, all of a batch.
    image_rows : int
        How many rows of the input are one image when the layer adapts, as :func:`calibrate` found: 1, or as many as an
        image has tokens where these are flattened into the batch.
    """

    group_size: int | None = None
    image_rows: int = 1
    affine = _Affine()
    _watch: Any = None  # sees every input

    def __init__(
        self,
        num_features: int,
        estimator: Estimator = Stein(),  # noqa: B008 (frozen)
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        process_group: Any = None,
    ) -> None:
        options = {} if bias else {"bias": False}  # an argument of recent releases of PyTorch
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self._prepare(estimator, process_group)

    def _prepare(self, estimator: Estimator, process_group: Any = None) -> None:
        """What turns a PyTorch layer into one of these."""
        self.estimator = check_estimator(estimator)
        self.process_group = process_group
        self.adaptation: Estimator | None = None
        for name in NOISE_BUFFERS:
            self.register_buffer(name, None)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; input and output of shape (n, c, ...)."""
        if isinstance(input, Proxy):
            return _record(self, input)
        if not self.training and isinstance(self.adaptation, Streaming):
            return self._stream(input)
        return self._normalize_batch(input)

    @torch.compiler.disable
    def _stream(self, input: Tensor) -> Tensor:
        """Normalize a batch of a stream, never in a graph, which would remember what it was made with."""
        check_computed_now(input)
        with self.adaptation.peers.joined_by(self.adaptation.name):
            return self._normalize_batch(input)

    def _normalize_batch(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if self.eps <= 0:
            self._check_eps()
        if self._watch is not None:
            self._watch(input)
        if not self.training and self.adaptation is None and self.running_mean is not None:
            return self._evaluate(input)
        if input.dtype not in addresses.REAL:
            raise TypeError(f"expected a floating point input, got {input.dtype}; convert it with .float()")
        if input.layout is not torch.strided:
            raise TypeError(f"expected an ordinary input, got layout {input.layout}; convert it with .to_dense()")
        adapting = not self.training and self.adaptation is not None
        group = self.process_group if self.training else None
        if input.numel() == 0 and (group is None or input.size(1) == 0):
            return self._pass_nothing(input)
        if not adapting and group is None and input.numel() == input.size(1):
            raise ValueError(f"expected more than 1 value per channel when training, got input size {input.size()}")
        if adapting and self.image_rows > 1:
            together = images.together(input, self.image_rows)  # in an order that apart makes PyTorch's again
            output = images.apart(self._by_rule(together, adapting, group, any_order=True))
            return _laid_out(output)
        if torch.compiler.is_compiling():  # nothing stands after a call where a graph may break
            return self._by_rule(input, adapting, group)
        return _laid_out(self._by_rule(input, adapting, group))

    def _check_eps(self) -> None:
        """Refuse an eps that PyTorch refuses; a rule of somebody's own may need none."""
        by_batch = self.training or self.running_mean is None
        least = "positive" if by_batch and saved.name_of(self.estimator) else "non-negative"
        if self.eps < 0 or least == "positive":
            raise ValueError(f"eps must be {least}, got {self.eps}")

    def _by_rule(self, input: Tensor, adapting: bool, group: Any, any_order: bool = False) -> Tensor:
        """Normalize with statistics of the batch, as the estimator makes them."""
        estimator = self.adaptation if adapting else self.estimator
        if isinstance(estimator, Streaming):
            estimator = replace(estimator, call=again.Call(input))
        agreement.check(self, input, noise=estimator.uses_prior)
        if self.group_size is not None and not self.training:
            return groups.normalize(self, input, estimator)
        # Whether it fits comes first: no compiler of graphs goes on from there.
        if not self.training and blended.fits(self, input) and (adapted_lines := said(estimator, "adapted_lines")):
            output = blended.normalize(self, input, adapted_lines, any_order)
            if output is not None:
                return output
        prior_of = None
        if estimator.uses_prior:
            call = again.Call(input) if self.training and again.of_numbers(input) else None
            prior_of = partial(self._prior, input, call)
        rule = fused.Rule(estimator, None, float(self.eps), group, prior_of, any_order)
        output = fused.normalize(input, self.weight, self.bias, rule)
        if self.training and self.track_running_stats:
            self._track(rule)
        return output

    def _evaluate(self, input: Tensor) -> Tensor:
        """Normalize with the running statistics by PyTorch's own pass: a plain rule computes what nn.BatchNorm does."""
        var, eps = self.running_var, float(self.eps)
        if self.estimator.has_own_scale:
            var, eps = self.estimator.scale(var, eps).square(), 0.0
        return torch.batch_norm(
            input, self.weight, self.bias, self.running_mean, var, False, 0.0, eps, torch.backends.cudnn.enabled
        )

    def _pass_nothing(self, input: Tensor) -> Tensor:
        """An empty batch, as PyTorch takes it: it counts as a batch, and says nothing about the statistics."""
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.batch_norm(
            input, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )

    def _prior(self, input: Tensor, call: again.Call | None, moments: Moments) -> Prior | None:
        """The running statistics as they were for this batch, copied: they move on before backward looks at them."""
        if self.running_mean is None:
            return None
        numbers = fused.fits(input, self.process_group if self.training else None)
        if call is not None and call.kept:
            with again.unrecorded():
                stack = again.batches(moments)
                seen = vars(self).setdefault("_seen", again.Seen())
                known = seen.recall(call, stack)
                if known is None:
                    known = [self._prior_now(input, moments, numbers)]
                    seen.append((call, stack, known))
                return fused.arrays(known[0]) if numbers else known[0]
        return self._prior_now(input, moments, numbers)

    def _prior_now(self, input: Tensor, moments: Moments, numbers: bool) -> Prior:
        """The running statistics copied, for NumPy or in PyTorch's tensors."""
        if numbers:

            def copied(v: Tensor) -> Any:
                return addresses.array(v).astype(np.float64)
        else:
            dtype = torch.float64 if input.device.type == "cpu" else torch.promote_types(input.dtype, torch.float32)

            def copied(v: Tensor) -> Any:
                v = _snapshot(v) if self.training and torch.compiler.is_compiling() else v.detach()
                return v.to(dtype, copy=True)

        return Prior(copied(self.running_mean), copied(self.running_var), noise_of(self, moments.samples, copied))

    def _track(self, rule: fused.Rule) -> None:
        """Running buffers follow the estimates, by PyTorch's rule."""
        center, spread = rule.statistics
        spread = self.estimator.tracked(spread, rule.moments.count)
        buffers, batches = (self.running_mean, self.running_var), self.num_batches_tracked
        if batches is not None:
            batches.add_(1)
        if buffers[0] is None or (self.momentum is None and batches is None):
            return
        if self.momentum is not None and isinstance(center, np.ndarray) and all(map(addresses.writable, buffers)):
            vectors.follow(*map(addresses.array, buffers), center, spread, float(self.momentum))
            torch.autograd.graph.increment_version(buffers)
            return
        for buffer, value in zip(buffers, (center, spread), strict=True):
            with torch.no_grad():
                value = torch.as_tensor(value, dtype=buffer.dtype, device=buffer.device).detach()
                share = 1 / batches.to(value.dtype) if self.momentum is None else self.momentum
                step = value - buffer
                kept = (1 - share) * buffer.masked_fill(buffer.isinf() & (share == 1), 0)  # no infinity without weight
                came = share * value.masked_fill(value.isinf() & (share == 0), 0)
                buffer.copy_(torch.where(step.isfinite(), buffer + step * share, kept + came))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A calibration belongs to its statistics: it comes with a checkpoint that has one, and goes with one that has
        # not. A checkpoint without this layer leaves both.
        names = (*NOISE_BUFFERS, saved.KEY, "running_mean", "running_var", "num_batches_tracked")
        if not any(prefix + name in state_dict for name in names):
            super()._load_from_state_dict(state_dict, prefix, *args)
            return
        before = {name: getattr(self, name) for name in NOISE_BUFFERS}
        calibration = {name: state_dict.get(prefix + name) for name in NOISE_BUFFERS}
        like = self.running_var if self.running_var is not None else self.noise_mean
        errors = args[-1]
        given = like is not None and any(v is not None for v in calibration.values())  # else: unexpected keys
        fault = agreement.unfit_noise(list(calibration.values()), self._width_of(calibration, like)) if given else None
        fault = fault or (agreement.impossible_noise(calibration) if given else None)
        if fault:
            errors.append(f"calibration of {prefix.rstrip('.') or 'the layer'}: {fault}")
        for name, v in calibration.items():
            with torch.inference_mode(False):  # or it could never be changed in place outside of it
                empty = torch.empty(v.shape, dtype=like.dtype, device=like.device) if given and not fault else None
            setattr(self, name, empty)
            if fault:
                state_dict.pop(prefix + name, None)
        entry = state_dict.pop(prefix + saved.KEY, None)
        if not fault:
            self._load_rule(entry, prefix, errors)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if fault:
            for name, v in before.items():
                setattr(self, name, v)

    def _width_of(self, calibration: dict[str, Any], like: Tensor) -> int:
        """The channels that a calibration has to have; a lazy layer has none yet, and takes those it is given."""
        if not is_lazy(like):
            return like.numel()
        first = calibration[NOISE_BUFFERS[0]]
        return first.numel() if isinstance(first, Tensor) else 0

    def _load_rule(self, entry: Any, prefix: str, errors: list[str]) -> None:
        """What a state dict says of the rule; it goes with the calibration."""
        rule, rows, unknown = None, 1, None
        if entry is not None:
            try:
                rule, rows, unknown = saved.read(entry, self)
            except ValueError as error:
                errors.append(f"{prefix}{saved.KEY}: {error}")  # what load_state_dict raises
                return
        vars(self).pop("image_rows", None)
        if rows != 1:
            self.image_rows = rows
        if isinstance(rule, Streaming):
            rule = replace(rule, peers=peers_in_load(errors), name=prefix.removesuffix("."))
        if rule is not None:
            self.adaptation = rule
        elif unknown is not None and self.adaptation is None:
            warnings.warn(
                f"layer {prefix.removesuffix('.')} was adapted by {unknown}, which is not one of "
                "shrinkstats.estimators and does not come back from a file: call adapt again",
                stacklevel=2,
            )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        said = saved.written(self)
        if said is not None:
            destination[prefix + saved.KEY] = said

    def __deepcopy__(self, memo: dict[int, Any]) -> ShrinkBatchNorm:
        memo[id(self.process_group)] = self.process_group  # ranks cannot be copied
        copied = memo[id(self)] = self.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(_lasting(self), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return _lasting(self)

    def extra_repr(self) -> str:
        adapting = "" if self.adaptation is None else f", adaptation={self.adaptation}"
        return f"{super().extra_repr()}, estimator={self.estimator}{adapting}"


class ShrinkBatchNorm1d(ShrinkBatchNorm, nn.BatchNorm1d):
    """Batch normalization of inputs (n, c) or (n, c, l) with the statistics of an estimator.

    Parameters and behaviour are those of :class:`ShrinkBatchNorm2d`.
    """


class ShrinkBatchNorm2d(ShrinkBatchNorm, nn.BatchNorm2d):
    """Batch normalization of inputs (n, c, h, w) with the statistics of an estimator.

    Parameters
    ----------
    num_features : int
        Channels c.
    estimator : Estimator
        One of :mod:`shrinkstats.estimators`; ``Stein()`` by default.
    eps, momentum, affine, track_running_stats, device, dtype, bias
        As in :class:`torch.nn.BatchNorm2d`.
    process_group : torch.distributed.ProcessGroup, optional
        Ranks whose batches count as one in training, as in :class:`torch.nn.SyncBatchNorm`, but on the CPU too, and
        None (the default) synchronizes nothing. ``torch.distributed.group.WORLD``, once the ranks are initialized,
        means all of them.

    Raises
    ------
    TypeError
        If `estimator` is not one.
    ValueError
        In the forward pass: for an input of the wrong number of axes, for one value per channel in training,
        and if the estimator blends with running statistics and there are none. With `process_group`, also if
        the input needs a gradient on some ranks only; one value per channel is then one on all ranks together.

    Notes
    -----
    With `process_group` every rank must run the layer, forward and backward, equally often; batches may differ in
    size, be empty, or hold images of other sizes. The gradients of weight and bias are those of the local batch,
    which DistributedDataParallel averages. A rank that stops brings an error on the others within the timeout of
    the group. Evaluation, adapted or not, never waits for other ranks: they may have different numbers of batches.
    A deepcopy shares the group; pickling a layer that has one is an error (save its state_dict). Under
    ``torch.compile`` synchronization breaks the graph, so that ``fullgraph=True`` is an error.

    State dict keys are PyTorch's, so checkpoints go both ways. Running buffers follow the estimates the layer
    normalizes with (the variance times count / (count - 1), as in PyTorch; for RobustNorm running_var holds the
    range). With ``track_running_stats=False`` evaluation uses batch statistics too, as in PyTorch.

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.torch import ShrinkBatchNorm2d
    >>> layer = ShrinkBatchNorm2d(16)
    >>> layer(torch.randn(8, 16, 4, 4)).shape
    torch.Size([8, 16, 4, 4])
    """


class ShrinkBatchNorm3d(ShrinkBatchNorm, nn.BatchNorm3d):
    """Batch normalization of inputs (n, c, d, h, w) with the statistics of an estimator.

    Parameters and behaviour are those of :class:`ShrinkBatchNorm2d`.
    """


class ShrinkSyncBatchNorm(ShrinkBatchNorm):
    """What a :class:`torch.nn.SyncBatchNorm` becomes: inputs (n, c, ...), statistics of all ranks.

    It is no SyncBatchNorm itself, because DistributedDataParallel refuses those on the CPU.
    """

    @property
    def process_group(self) -> Any:
        """The group given; by default all ranks, which may be there only after the layer was made."""
        group = vars(self).get("process_group")
        return torch.distributed.group.WORLD if group is None and torch.distributed.is_available() else group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        vars(self)["process_group"] = group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


@torch.library.custom_op("shrinkstats::snapshot", mutates_args=())
def _snapshot(buffer: Tensor) -> Tensor:
    """A copy that a compiler does not make again in backward, when the buffer has been updated already."""
    return buffer.clone()


@_snapshot.register_fake
def _(buffer: Tensor) -> Tensor:
    return torch.empty_like(buffer)


def normalize(layer: ShrinkBatchNorm, input: Tensor) -> Tensor:
    """What a layer does without what a subclass adds, as a function that a graph may call."""
    return ShrinkBatchNorm.forward(layer, input)


def _lasting(layer: ShrinkBatchNorm) -> dict[str, Any]:
    """A layer's attributes but for those of a context (grouped, calibrate), whose end a copy would never see."""
    return {name: value for name, value in vars(layer).items() if name not in ("group_size", "_watch")}


def _laid_out(output: Tensor) -> Tensor:
    """The output in an order of memory that PyTorch's layers choose: plain operations keep any order of the input."""
    if not again.of_numbers(output) or memory.has_pytorch_order(output):
        return output
    return output.contiguous()


def _record(layer: ShrinkBatchNorm, input: Proxy) -> Any:
    """A step of a graph that torch.fx records: the whole layer, as if it were one of PyTorch's."""
    tracer = input.tracer
    path = tracer.path_of_module(layer)
    if not path:
        raise TraceError("a layer by itself is one step, and no graph: trace the network that it is in")
    if type(layer).forward is ShrinkBatchNorm.forward:
        return tracer.create_proxy("call_module", path, (input,), {})
    return tracer.create_proxy("call_function", normalize, (tracer.create_proxy("get_attr", path, (), {}), input), {})


def check_estimator(estimator: Any) -> Estimator:
    """The estimator, if it is one."""
    if not isinstance(estimator, Estimator):
        hint = "; eps and what follows it are named: eps=1e-5" if isinstance(estimator, float) else ""
        raise TypeError(f"estimator must be one of shrinkstats.estimators, such as Stein(), got {estimator!r}{hint}")
    return estimator
