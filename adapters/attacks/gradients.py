"""Attacks that follow the gradient, within a ball around every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shrinkstats._arrays import positive_number
from shrinkstats.adapters.attacks.attack import Attack, Bounds, Loss, gradient, losses_of, random

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent: steps along the gradient from a random start, each followed by a projection.

    Parameters
    ----------
    eps : float
        Radius of the ball, in the units of the images: the largest change of an element for "linf", the root of the
        summed squares over an image for "l2".
    steps : int
        Of every start.
    step : float, optional
        Length of a step, in the units of `eps`; 2.5 eps / steps if left out, which reaches the ball's other side from
        any start.
    norm : {"linf", "l2"}
        The ball's. The step is along the gradient's sign, or along the gradient.
    restarts : int
        Random starts. The result is the one of the largest loss for every image by itself; images that share
        statistics may fare better with the mates they had, so the best whole start is taken if its sum is larger.
    random_start : bool
        False starts at the images.

    Raises
    ------
    ValueError
        If a number is not positive, the norm is unknown, or starts without chance are to be repeated.

    References
    ----------
    Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import PGD, classification
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    >>> loss = classification(net, labels)
    >>> changed = PGD(0.03, steps=5)(loss, images)
    >>> (loss(changed) > loss(images)).tolist()
    [True, True, True, True]
    >>> float((changed - images).abs().max()) <= 0.03 + 1e-6
    True
    """

    eps: float = 0.03
    steps: int = 20
    step: float | None = None
    norm: str = "linf"
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        positive_number("eps", self.eps)
        if self.step is not None:
            positive_number("step", self.step)
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.norm not in NORMS:
            raise ValueError(f'norm must be "linf" or "l2", got {self.norm!r}')
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"without a random start all {self.restarts} restarts are the same; use restarts=1")

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        starts = [self._climb(loss, images, generator, bounds) for _ in range(self.restarts)]
        return starts[0] if self.restarts == 1 else _best(loss, torch.stack(starts))

    def _climb(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        length = 2.5 * self.eps / self.steps if self.step is None else self.step
        x = images
        if self.random_start:
            x = images + in_ball(images, self.norm, self.eps, generator).to(images.dtype)
            x = project(x, images, self.norm, self.eps, bounds)
        for _ in range(self.steps):
            x = x + length * direction(gradient(loss, x), self.norm)
            x = project(x, images, self.norm, self.eps, bounds)
        return x


@dataclass(frozen=True)
class BIM(Attack):
    """The basic iterative method: PGD in the l-infinity ball, from the image itself.

    Parameters
    ----------
    eps : float
        The largest change of an element, in the units of the images.
    steps : int
        Gradients taken.
    step : float, optional
        Length of a step; 2.5 eps / steps if left out.

    References
    ----------
    Kurakin, Goodfellow & Bengio (2017), "Adversarial examples in the physical world".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import BIM
    >>> BIM(0.1, steps=5)(lambda x: (x - 0.45).square().sum(1), torch.tensor([[0.4, 0.95]]))
    tensor([[0.3000, 1.0000]])
    """

    eps: float = 0.03
    steps: int = 20
    step: float | None = None

    def __post_init__(self) -> None:
        self._descent()

    def _descent(self) -> PGD:
        return PGD(self.eps, self.steps, self.step, random_start=False)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        return self._descent()._change(loss, images, generator, bounds)


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of length eps along the gradient's sign.

    Parameters
    ----------
    eps : float
        The change of every element, in the units of the images.

    References
    ----------
    Goodfellow, Shlens & Szegedy (2015), "Explaining and harnessing adversarial examples".

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import FGSM
    >>> FGSM(0.1)(lambda x: x[:, 0] - x[:, 1], torch.tensor([[0.5, 0.5, 0.5]]))
    tensor([[0.6000, 0.4000, 0.5000]])
    """

    eps: float = 0.03

    def __post_init__(self) -> None:
        positive_number("eps", self.eps)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        step = self.eps * direction(gradient(loss, images), "linf")
        return project(images + step, images, "linf", self.eps, bounds)


@dataclass(frozen=True)
class Gradient(Attack):
    """One step along the gradient itself.

    Parameters
    ----------
    eps : float
        The root mean square of the change over the elements of an image, in the units of the images, before it is cut
        to the bounds: so large that FGSM's change of the same `eps` has the same length.

    References
    ----------
    "Grad" in the ICLR 2020 submission "Towards an adversarially robust normalization approach", section 2, which
    leaves the length open; this one is that of GradientAttack in Foolbox 1 and 2 (Rauber, Brendel & Bethge 2017).

    Examples
    --------
    >>> import torch
    >>> from shrinkstats.adapters.attacks import Gradient
    >>> Gradient(0.05)(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.full((1, 4), 0.5))
    tensor([[0.5600, 0.5800, 0.5000, 0.5000]])
    """

    eps: float = 0.03

    def __post_init__(self) -> None:
        positive_number("eps", self.eps)

    def _change(self, loss: Loss, images: Tensor, generator: torch.Generator | None, bounds: Bounds) -> Tensor:
        radius = self.eps * images[0].numel() ** 0.5
        step = radius * direction(gradient(loss, images), "l2")
        return project(images + step, images, "l2", radius, bounds)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The way up of length one in the norm; zero where the gradient is, NaN where it is NaN."""
    if norm == "linf":  # the sign of NaN is 0 in PyTorch: an attack that did nothing would pass for robustness
        return torch.where(gradient.isnan(), gradient, gradient.sign())
    # The largest element divides first, or the squares of a small gradient would underflow.
    smallest = torch.finfo(gradient.dtype).tiny
    largest = _rows(gradient).abs().amax(1)
    scaled = gradient / _as_rows(largest.clamp(min=smallest), gradient)
    return scaled / _as_rows(_rows(scaled).norm(dim=1).clamp(min=smallest), scaled)


def project(x: Tensor, images: Tensor, norm: str, eps: float, bounds: Bounds) -> Tensor:
    """The nearest point of the ball around the images, then cut to the bounds, which cannot leave the ball.

    Numbers of the images' dtype may not meet it: where rounding left ball or bounds, they are the next ones inside.
    """
    wide = torch.float64 if images.device.type in ("cpu", "cuda") else torch.float32
    center = images.to(wide)
    change = x.to(wide) - center
    if norm == "linf":
        change = change.clamp(-eps, eps)
    else:
        length = _rows(change).norm(dim=1)
        change = change * _as_rows((eps / length.clamp(min=eps)), change)
    exact = (center + change).clamp(*bounds)
    y = exact.to(images.dtype)
    found = y.to(wide)
    change = found - center
    if norm == "linf":
        left = change.abs() > eps
    else:
        left = _as_rows(_rows(change).norm(dim=1) > eps, change) & (change.abs() > (exact - center).abs())
    left |= found != found.clamp(*bounds)
    kind = torch.finfo(y.dtype)  # 0.6 to 1.3 of the distance to the next number, which rounds to it
    step = change.sign() * found.abs().clamp(min=kind.tiny) * (0.625 * kind.eps)  # nextafter lacks half on some devices
    return torch.where(left, (found - step).to(y.dtype), y)


def in_ball(images: Tensor, norm: str, eps: float, generator: torch.Generator | None) -> Tensor:
    """Changes drawn uniformly from the ball."""
    if norm == "linf":
        return eps * (2 * random(torch.rand, images.shape, images, generator) - 1)
    way = direction(random(torch.randn, images.shape, images, generator), "l2")
    radius = eps * random(torch.rand, (len(images),), images, generator) ** (1 / images[0].numel())
    return way * _as_rows(radius, way)


def _best(loss: Loss, starts: Tensor) -> Tensor:
    """The best of the starts (restarts, n, ...) for every image, or for all together."""
    with torch.no_grad():
        losses = torch.stack([losses_of(loss, x) for x in starts])
        each = starts[losses.argmax(0), torch.arange(losses.shape[1], device=losses.device)]
        whole = losses.sum(1)
        return each if losses_of(loss, each).sum() >= whole.max() else starts[whole.argmax()]


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1)


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
