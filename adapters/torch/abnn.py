"""Adaptive batch normalization networks: another network's statistics of the same input for scale and shift."""

from __future__ import annotations

import threading
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

SUBSTITUTED = "_substituted"  # an attribute of the target's layers while they are called
_turn = threading.RLock()  # for as long as layers and hooks are those of one batch; a network may hold another


class AdaptiveBatchNormNetwork(nn.Module):
    r"""A network whose batch norm layers take scale and shift from a frozen network that sees the same input.

    A layer of the target whitens its input z as it always did, and puts it on the statistics that the features s of
    the paired layer of the substitute have in this batch:
    :math:`\sigma(s)\,(z - \mu(z)) / \sigma(z) + \mu(s)`. An attack on the target's features does not reach these
    statistics; one on the image has to fool two networks, of which one was trained on other data. Training is
    ordinary training on clean data.

    Parameters
    ----------
    target : torch.nn.Module
        The network to train. It is changed in place: the affine parameters of its batch norm layers go, so make the
        optimizer afterwards. Plain layers and converted ones (:func:`convert`, before or after) both do.
    substitute : torch.nn.Module
        A trained network with batch norm layers; its own output is ignored. It is frozen in place and stays in
        evaluation mode. Put a resizing or standardization that it needs in front of it with ``nn.Sequential``.

    Attributes
    ----------
    pairs : list of (str, str)
        Names of the target's layers, each with that of the substitute's layer it follows.
    scales, shifts : torch.nn.ModuleList
        What brings statistics to the target's number of channels, for every pair: an identity, or where the numbers
        differ a learned ``nn.Linear``, which begins by choosing channels.

    Raises
    ------
    TypeError
        If one of the two is not a module.
    ValueError
        If the networks cannot be paired: one has no batch norm layers, or lazy or parametrized ones, or the target
        layers whose affine parameters are computed (pruned ones), or they share layers. In the forward pass: if a
        paired layer of the substitute did not run.
    RuntimeError
        In the backward pass, if an activation checkpoint inside the target computes layers of it again, without the
        statistics: put the checkpoint around the whole of this module.

    Notes
    -----
    Layers are paired in the order of ``named_modules()``. Where one network has more of them, they are spread evenly:
    first with first, last with last.

    The statistics are those of the batch, in evaluation too, so outputs depend on the rest of the batch.

    A training step costs three passes: forward and backward through the target, forward through the substitute
    (:func:`shrinkstats.theory.training_passes`). For an input that requires a gradient there is a fourth, backward
    through the substitute: an attack with the gradient of this module knows the defence.

    References
    ----------
    Lo & Patel (AVSS 2024), "Adaptive batch normalization networks for adversarial robustness", arXiv 2405.11708. How
    layers are paired where their numbers differ, and how a linear map begins, are choices of ours.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from shrinkstats.adapters.torch import AdaptiveBatchNormNetwork
    >>> def network(width):
    ...     return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    >>> net = AdaptiveBatchNormNetwork(network(8), substitute=network(16))
    >>> net(torch.randn(4, 3, 6, 6)).shape, net.pairs, net.scales[0]
    (torch.Size([4, 8, 4, 4]), [('1', '1')], Linear(in_features=16, out_features=8, bias=True))
    """

    def __init__(self, target: nn.Module, substitute: nn.Module) -> None:
        super().__init__()
        ours, theirs = _layers("target", target), _layers("substitute", substitute)
        if not {id(m) for m in target.modules()}.isdisjoint({id(m) for m in substitute.modules()}):
            raise ValueError("target and substitute share layers, which cannot be trained and frozen; pass a deepcopy")
        names, chosen = list(ours), list(theirs)
        self.pairs = [(names[i], chosen[j]) for i, j in enumerate(_spread(len(names), len(chosen)))]
        like = next(target.parameters(), torch.empty(0))
        widths = [(theirs[b].num_features, ours[a].num_features) for a, b in self.pairs]
        self.scales = nn.ModuleList(_match(*width, like) for width in widths)
        self.shifts = nn.ModuleList(_match(*width, like) for width in widths)
        for layer in ours.values():
            _drop_affine(layer, like)
            layer.register_forward_pre_hook(_refuse_by_itself)
        self.target = target
        self.substitute = substitute.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AdaptiveBatchNormNetwork:
        """Set the mode of the target; the substitute stays in evaluation."""
        super().train(mode)
        self.substitute.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        """What the target computes from x, with scale and shift by the substitute. Threads take turns."""
        with nullcontext() if torch.compiler.is_compiling() else _turn:
            return self._substituted(x)

    def _substituted(self, x: Tensor) -> Any:
        statistics = self._statistics(x)
        with ExitStack() as stack:
            for (name, theirs), scale, shift in zip(self.pairs, self.scales, self.shifts, strict=True):
                layer, (mean, sd) = self.target.get_submodule(name), statistics[theirs]
                stack.callback(setattr, layer, SUBSTITUTED, False)
                setattr(layer, SUBSTITUTED, True)
                for part, match, value in (("weight", scale, sd), ("bias", shift, mean)):
                    plain = getattr(layer, part)
                    stack.callback(setattr, layer, part, plain)
                    setattr(layer, part, match(value.to(plain.dtype)).to(plain.dtype))  # autocast may come between
            return self.target(x)

    def _statistics(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation, in this batch, of what reaches the paired layers of the substitute."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        names = {theirs for _, theirs in self.pairs}

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], name: str) -> None:
            seen[name] = _mean_and_sd(*inputs, *named.values(), eps=layer.eps)

        with ExitStack() as stack:
            for name in names:
                hook = self.substitute.get_submodule(name).register_forward_pre_hook(
                    lambda layer, inputs, named, name=name: look(layer, inputs, named, name), with_kwargs=True
                )
                stack.callback(hook.remove)
            self.substitute(x)
        if names - seen.keys():
            raise ValueError(
                f"layers {', '.join(sorted(names - seen.keys()))} of the substitute did not run, so they have no "
                "statistics to give; pass a substitute that runs all its batch norm layers"
            )
        return seen


def _layers(role: str, network: Any) -> dict[str, _BatchNorm]:
    """The batch norm layers by name, all of a kind that can be paired."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"{role} must be a torch.nn.Module, got {type(network).__name__}")
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)}
    if not layers:
        raise ValueError(f"the {role} ({type(network).__name__}) has no batch norm layers to pair")
    for name, layer in layers.items():
        if nn.parameter.is_lazy(layer.weight) or not layer.num_features:
            raise ValueError(f"layer {name} of the {role} is lazy: run a batch through the network first")
        if parametrize.is_parametrized(layer):
            raise ValueError(f"layer {name} of the {role} is parametrized; use remove_parametrizations first")
        computed = [part for part in ("weight", "bias") if part not in {**layer._parameters, **layer._buffers}]
        if computed and role == "target":
            raise ValueError(
                f"layer {name} of the target computes its {' and '.join(computed)} anew in every pass, as pruned and "
                "weight-normalized layers do; use torch.nn.utils.prune.remove or remove_weight_norm first"
            )
    return layers


def _refuse_by_itself(layer: nn.Module, _: Any) -> None:
    """A checkpoint inside the target would compute its layers again without the substitute's statistics."""
    if torch.compiler.is_compiling() or getattr(layer, SUBSTITUTED, False):
        return
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a backward pass computes a layer of an AdaptiveBatchNormNetwork's target again, without the statistics of "
            "its substitute: put the activation checkpoint around the AdaptiveBatchNormNetwork, not inside its target"
        )


def _spread(ours: int, theirs: int) -> list[int]:
    """Choose for each of our layers one of theirs, in order, evenly: first with first, last with last."""
    steps = max(ours - 1, 1)
    return [(2 * i * (theirs - 1) + steps) // (2 * steps) for i in range(ours)]


def _match(inputs: int, outputs: int, like: Tensor) -> nn.Module:
    """What takes a vector of `inputs` channels to one of `outputs`."""
    if inputs == outputs:
        return nn.Identity()
    linear = nn.Linear(inputs, outputs, device=like.device, dtype=like.dtype)
    with torch.no_grad():  # the statistics of real channels to begin with, not of random mixtures
        linear.bias.zero_()
        linear.weight.zero_()
        for i in range(outputs):
            linear.weight[i, i * inputs // outputs] = 1
    return linear


def _drop_affine(layer: _BatchNorm, like: Tensor) -> None:
    """Scale and shift are no parameters any more: nothing trains, decays or saves them."""
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        delattr(layer, name)
        plain = torch.full((layer.num_features,), value, device=like.device, dtype=like.dtype)
        layer.register_buffer(name, plain, persistent=False)


def _mean_and_sd(x: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """Per channel, in single precision or better; eps keeps the root of zero differentiable."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    return mean, (var + eps).sqrt()
