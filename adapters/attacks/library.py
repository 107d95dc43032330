"""Finished attacks of Foolbox and the Adversarial Robustness Toolbox, called like our own.

Importing this module needs the extra ``shrinkstats[attacks]``; the rest of the package does not.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shrinkstats._arrays import positive_number
from shrinkstats.adapters.attacks.attack import Attack, Bounds, Loss
from shrinkstats.adapters.attacks.gradients import NORMS
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

__all__ = ["AutoPGD", "CarliniWagner", "DeepFool", "Foolbox", "Square"]


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
class CarliniWagner(Attack):
    """The smallest change in l2 that fools, by Adam on the margin, as Foolbox has it.

    Parameters
    ----------
    eps : float or None
        Radius of the ball that the change is cut to; None keeps it whatever its length. Images that could not be
        fooled stay as they are.
    searches, steps : int
        Values of the constant that weighs margin against length, and steps for each.
    confidence : float
        Margin, in logits, that counts as fooled.

    References
    ----------
    Carlini & Wagner (2017), "Towards evaluating the robustness of neural networks".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import CarliniWagner
    >>> images = torch.tensor([[0.6, 0.4]])
    >>> changed = CarliniWagner(searches=6, steps=100)(classification(lambda x: 10 * x, torch.tensor([0])), images)
    >>> print(f"{float((changed - images).norm()):.2f}")  # the border is 0.1 sqrt(2) away
    0.14
    """

    eps: float | None = None
    searches: int = 9
    steps: int = 1000
    confidence: float = 0.0

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.searches, steps=self.steps, confidence=self.confidence, abort_early=True
        )
        return Foolbox(attack, self.eps)._change(loss, images, generator, bounds)


@dataclass(frozen=True)
class DeepFool(Attack):
    """Steps to the nearest border of the linearized network, as Foolbox has it.

    Parameters
    ----------
    eps : float or None
        Radius of the ball that the change is cut to; None keeps it whatever its length.
    steps : int
        At most.
    norm : {"l2", "linf"}
        What is kept small.

    References
    ----------
    Moosavi-Dezfooli, Fawzi & Frossard (2016), "DeepFool: a simple and accurate method to fool deep neural networks".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import DeepFool
    >>> changed = DeepFool()(classification(lambda x: x, torch.tensor([0])), torch.tensor([[0.75, 0.25]]))
    >>> changed.argmax(1)
    tensor([1])
    """

    eps: float | None = None
    steps: int = 50
    norm: str = "l2"

    def __post_init__(self) -> None:
        _known_norm(self.norm)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        kind = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[self.norm]
        return Foolbox(kind(steps=self.steps), self.eps)._change(loss, images, generator, bounds)


@dataclass(frozen=True)
class AutoPGD(Attack):
    """PGD whose step length adapts (APGD of AutoAttack), as the Adversarial Robustness Toolbox has it.

    Parameters
    ----------
    eps : float
        Radius of the ball.
    steps, restarts : int
        Steps of a start, and random starts.
    norm : {"linf", "l2"}
        The ball's.
    objective : {"cross entropy", "logit ratio"}
        What is raised: APGD-CE, or APGD-DLR, whose scale the network cannot choose.

    Notes
    -----
    The library leaves images out of the batch as soon as they are fooled: with batch statistics the others lose mates.

    References
    ----------
    Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import AutoPGD
    >>> loss = classification(lambda x: 9 * x.flatten(1), torch.tensor([0]))
    >>> AutoPGD(0.25, steps=10)(loss, torch.tensor([[[[0.6, 0.4, 0.4]]]])).argmax() == 0
    tensor(False)
    """

    eps: float = 0.03
    steps: int = 100
    restarts: int = 1
    norm: str = "linf"
    objective: str = "cross entropy"

    def __post_init__(self) -> None:
        positive_number("eps", self.eps)
        _known_norm(self.norm)
        if self.objective not in _OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(map(repr, _OBJECTIVES))}, got {self.objective!r}")

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        def run(estimator: Any) -> Any:
            return AutoProjectedGradientDescent(
                estimator,
                norm=_ORDERS[self.norm],
                eps=float(self.eps),
                eps_step=2 * float(self.eps),  # as in the paper, section 3.1
                max_iter=self.steps,
                nb_random_init=self.restarts,
                batch_size=len(images),
                loss_type=_OBJECTIVES[self.objective],
                verbose=False,
            )

        return _by_toolbox(self, run, loss, images, generator, bounds)


@dataclass(frozen=True)
class Square(Attack):
    """Random squares, kept where they lower the margin: a black-box attack (of AutoAttack), by the same toolbox.

    Parameters
    ----------
    eps : float
        The largest change of an element, in the units of the images.
    queries : int
        Squares tried, for all images of a batch at once; the batch stays whole.

    References
    ----------
    Andriushchenko, Croce, Flammarion & Hein (2020), "Square attack: a query-efficient black-box adversarial attack
    via random search".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import classification
    >>> from shrinkstats.adapters.attacks.library import Square
    >>> images, net = torch.rand(4, 3, 8, 8), lambda x: x.mean((2, 3))
    >>> loss = classification(net, net(images).argmax(1))
    >>> bool((loss(Square(0.1, queries=50)(loss, images)) > loss(images)).all())
    True
    """

    eps: float = 0.03
    queries: int = 5000

    def __post_init__(self) -> None:
        positive_number("eps", self.eps)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        def never_done(outputs: Any, labels: Any) -> Any:
            # The toolbox drops what is fooled from the batch, which would change the statistics of the others.
            return np.zeros(len(outputs), dtype=bool)

        def run(estimator: Any) -> Any:
            return SquareAttack(
                estimator,
                norm=np.inf,
                adv_criterion=never_done,
                max_iter=self.queries,
                eps=float(self.eps),
                batch_size=len(images),
                verbose=False,
            )

        return _by_toolbox(self, run, loss, images, generator, bounds)


_ORDERS = {"linf": np.inf, "l2": 2}
_OBJECTIVES = {"cross entropy": "cross_entropy", "logit ratio": "difference_logits_ratio"}


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


def _by_toolbox(
    attack: Attack, make: Any, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds
) -> Tensor:
    net, labels = _parts(attack, loss)
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
        changed = make(estimator).generate(images.float().cpu().numpy(), labels.cpu().numpy())
    return torch.as_tensor(changed, device="cpu").to(images).clamp(*bounds)


def _parts(attack: Attack, loss: Loss) -> tuple[Network, Tensor]:
    if not isinstance(loss, Classification):
        raise TypeError(
            f"{type(attack).__name__} needs a loss made by classification or margin, got {type(loss).__name__}: "
            "the library asks for logits and labels"
        )
    return loss.net, loss.labels


def _known_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f'norm must be "linf" or "l2", got {norm!r}')


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
