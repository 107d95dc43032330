"""Finished attacks of Foolbox and the Adversarial Robustness Toolbox, called like our own.

Importing this module needs the extra ``shrinkstats[attacks]``; the rest of the package does not.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shrinkstats._arrays import positive_number
from shrinkstats.adapters.attacks.attack import Attack, Bounds, Loss
from shrinkstats.adapters.attacks.losses import Classification, Network

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Foolbox 3.3.4 imports scipy.ndimage.filters
        import foolbox
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'attacks of libraries need {error.name}: pip install "shrinkstats[attacks]"', name=error.name
    ) from error

__all__ = ["Foolbox", "Toolbox"]


@dataclass(frozen=True)
class Foolbox(Attack):
    """Any attack of Foolbox 3, untargeted, under our way to call.

    Parameters
    ----------
    attack : foolbox.attacks.Attack
        An attack, with its own options.
    eps : float or None
        Radius of the ball that the result is cut to, in the norm of the attack. None is none, for the attacks that
        look for the smallest change.

    Raises
    ------
    TypeError
        When called with a loss that ``classification`` or ``margin`` did not make: libraries want the logits.

    References
    ----------
    Rauber, Zimmermann, Bethge & Brendel (2020), "Foolbox Native".

    Examples
    --------
    >>> import foolbox, torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import Foolbox
    >>> net, images, labels = torch.nn.Linear(4, 3), torch.rand(5, 4), torch.arange(5) % 3
    >>> changed = Foolbox(foolbox.attacks.LinfDeepFoolAttack(), eps=0.1)(classification(net, labels), images)
    >>> float((changed - images).abs().max()) <= 0.1 + 1e-6
    True
    """

    attack: Any
    eps: float | None

    def __post_init__(self) -> None:
        if self.eps is not None:
            positive_number("eps", self.eps)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        net, labels = _parts(self, loss)
        model = foolbox.PyTorchModel(_Hidden(net, images.device).eval(), bounds=bounds, device=images.device)
        with _seeded(generator, images.device):
            _, changed, _ = self.attack(model, images, labels, epsilons=self.eps)
        return changed


@dataclass(frozen=True)
class Toolbox(Attack):
    """Any evasion attack of the Adversarial Robustness Toolbox, untargeted, under our way to call.

    All images make one batch. Many attacks leave images out of it as soon as they are fooled: with batch statistics the
    others lose mates.

    Parameters
    ----------
    make : callable
        Takes the toolbox's estimator, gives the attack with its own options.

    Raises
    ------
    TypeError
        When called with a loss that ``classification`` or ``margin`` did not make: libraries want the logits.

    Examples
    --------
    >>> import torch
    >>> from art.attacks.evasion import AutoProjectedGradientDescent
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import Toolbox
    >>> options = {"eps": 0.25, "eps_step": 0.5, "max_iter": 10, "verbose": False}
    >>> apgd = Toolbox(lambda net: AutoProjectedGradientDescent(net, **options))
    >>> loss = classification(lambda x: 9 * x.flatten(1), torch.tensor([0]))
    >>> apgd(loss, torch.tensor([[[[0.6, 0.4, 0.4]]]])).argmax() == 0
    tensor(False)
    """

    make: Callable[[PyTorchClassifier], Any]

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        net, labels = _parts(self, loss)
        with torch.no_grad():
            classes = net(images).shape[1]
        estimator = PyTorchClassifier(
            _Hidden(net, images.device),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=classes,
            clip_values=bounds,
            device_type="cpu",
        )
        with _seeded(generator, images.device):
            attack = self.make(estimator)
            if "batch_size" in attack.attack_params:
                attack.set_params(batch_size=len(images))  # those that share statistics
            changed = attack.generate(images.float().cpu().numpy(), labels.cpu().numpy())
        return torch.as_tensor(changed, device="cpu").to(images).clamp(*bounds)


class _Hidden(nn.Module):
    """A network that a library may call, and neither switch to another mode, nor move, nor fill with gradients."""

    def __init__(self, net: Network, device: torch.device) -> None:
        super().__init__()
        self.call = lambda x: net(x.to(device)).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        return _ToImagesOnly.apply(x, self.call)


class _ToImagesOnly(torch.autograd.Function):
    """The network's outputs, with a gradient for the images and none for the parameters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Network) -> Tensor:
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ctx.x = x.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.y = call(ctx.x)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.autograd.grad(ctx.y, ctx.x, gradient, retain_graph=True)[0], None


def _parts(attack: Attack, loss: Loss) -> tuple[Network, Tensor]:
    if not isinstance(loss, Classification):
        raise TypeError(
            f"{type(attack).__name__} needs a loss made by classification or margin, got {type(loss).__name__}: "
            "the library asks for logits and labels"
        )
    return loss.net, loss.labels


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Libraries draw from global generators: these start from ours, and are put back after."""
    place = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**31, (), generator=generator, device=place))
    arrays, plain = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(arrays)  # noqa: NPY002
            random.setstate(plain)


# --- for one release: attacks that had names of their own ------------------------------------------------------------


def _carlini_wagner(eps: float | None = None, searches: int = 9, steps: int = 1000, confidence: float = 0.0) -> Foolbox:
    options = {"binary_search_steps": searches, "steps": steps, "confidence": confidence, "abort_early": True}
    return Foolbox(foolbox.attacks.L2CarliniWagnerAttack(**options), eps)


def _deep_fool(eps: float | None = None, steps: int = 50, norm: str = "l2") -> Foolbox:
    kind = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[norm]
    return Foolbox(kind(steps=steps), eps)


def _auto_pgd(
    eps: float = 0.03, steps: int = 100, restarts: int = 1, norm: str = "linf", objective: str = "cross entropy"
) -> Toolbox:
    kind = {"cross entropy": "cross_entropy", "logit ratio": "difference_logits_ratio"}[objective]
    options = {"norm": {"linf": np.inf, "l2": 2}[norm], "eps": float(eps), "eps_step": 2 * float(eps)}
    options |= {"max_iter": steps, "nb_random_init": restarts, "loss_type": kind, "verbose": False}
    return Toolbox(lambda net: AutoProjectedGradientDescent(net, **options))


def _square(eps: float = 0.03, queries: int = 5000) -> Toolbox:
    def never_done(outputs: Any, labels: Any) -> Any:  # the batch stays whole, and the statistics of the others too
        return np.zeros(len(outputs), dtype=bool)

    options = {"norm": np.inf, "adv_criterion": never_done, "max_iter": queries, "eps": float(eps), "verbose": False}
    return Toolbox(lambda net: SquareAttack(net, **options))


_NAMED = {
    "CarliniWagner": (_carlini_wagner, "Foolbox(foolbox.attacks.L2CarliniWagnerAttack(...), eps)"),
    "DeepFool": (_deep_fool, "Foolbox(foolbox.attacks.L2DeepFoolAttack(...), eps)"),
    "AutoPGD": (_auto_pgd, "Toolbox(lambda net: art.attacks.evasion.AutoProjectedGradientDescent(net, ...))"),
    "Square": (_square, "Toolbox(lambda net: art.attacks.evasion.SquareAttack(net, ...))"),
}


def __getattr__(name: str) -> Any:
    if name not in _NAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made, instead = _NAMED[name]
    warnings.warn(f"{name} goes with the next release; write {instead}", DeprecationWarning, stacklevel=2)
    return made
