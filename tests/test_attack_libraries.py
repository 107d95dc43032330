"""Our attacks against those of Foolbox, and theirs under our way to call."""

import importlib
import math
import random
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
library = pytest.importorskip("shrinkstats.adapters.attacks.library", reason="needs the extra shrinkstats[attacks]")

import eagerpy  # noqa: E402
from foolbox import PyTorchModel, attacks  # noqa: E402
from torch import nn  # noqa: E402

from shrinkstats.adapters.attacks import BIM, FGSM, PGD, classification, count_passes, margin  # noqa: E402
from shrinkstats.adapters.attacks.gradients import in_ball  # noqa: E402

AutoPGD, CarliniWagner, DeepFool = library.AutoPGD, library.CarliniWagner, library.DeepFool
Foolbox, Square = library.Foolbox, library.Square

THEIRS = [
    (CarliniWagner(searches=4, steps=60), "l2", math.inf),
    (CarliniWagner(0.3, searches=3, steps=30), "l2", 0.3),
    (DeepFool(), "l2", math.inf),
    (DeepFool(0.05, norm="linf"), "linf", 0.05),
    (AutoPGD(0.05, steps=10), "linf", 0.05),
    (AutoPGD(0.3, steps=10, restarts=2, norm="l2"), "l2", 0.3),
    (AutoPGD(0.05, steps=10, objective="logit ratio"), "linf", 0.05),
    (Square(0.05, queries=40), "linf", 0.05),
    (Foolbox(attacks.LinfRepeatedAdditiveUniformNoiseAttack(repeats=5), 0.1), "linf", 0.1),
]


def case(n=8):
    """A network in training mode, images, and the classes it gives them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), nn.Flatten()]
        net = nn.Sequential(*layers, nn.Linear(6 * 8 * 8, 4))
        images = torch.rand(n, 3, 10, 10)
    return net, images, net(images).argmax(1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FGSM(0.03), attacks.LinfFastGradientAttack()),
        (BIM(0.03, steps=6, step=0.01), attacks.LinfBasicIterativeAttack(abs_stepsize=0.01, steps=6)),
        (PGD(0.03, steps=6, step=0.01), attacks.LinfPGD(abs_stepsize=0.01, steps=6)),
        (PGD(0.5, steps=6, step=0.2, norm="l2"), attacks.L2PGD(abs_stepsize=0.2, steps=6)),
        (PGD(0.5, steps=1, step=0.5, norm="l2", random_start=False), attacks.L2FastGradientAttack()),
    ],
    ids=repr,
)
def test_ours_are_foolbox_s(ours, theirs, monkeypatch):
    net, images, labels = case()
    net.eval()

    def same_start(x, eps):
        start = in_ball(images, getattr(ours, "norm", "linf"), eps, torch.Generator().manual_seed(3))
        return x + eagerpy.astensor(start)

    monkeypatch.setattr(theirs, "get_random_start", same_start)
    _, expected, _ = theirs(PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=ours.eps)
    found = ours(classification(net, labels), images, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("attack", "norm", "eps"), THEIRS, ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_theirs_keep_our_rules(attack, norm, eps, training):
    net, images, labels = case()
    net.train(training)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = images.clone()
    changed = attack(classification(net, labels), images, generator=torch.Generator().manual_seed(1))
    change = (changed - images).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (length <= eps + 1e-5).all()
    assert 0 <= changed.min() <= changed.max() <= 1
    assert changed.dtype == images.dtype
    assert not changed.requires_grad
    assert not torch.equal(changed, images)
    assert torch.equal(images, before)
    assert all(m.training is training for m in net.modules())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for p in net.parameters() if p is not net[0].weight)


@pytest.mark.parametrize("attack", [THEIRS[5][0], THEIRS[7][0], THEIRS[8][0]], ids=repr)
def test_theirs_draw_from_our_generator_and_leave_the_global_ones(attack):
    net, images, labels = case()
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    loss = classification(net, labels)
    one, two, other = (attack(loss, images, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("attack", [attack for attack, _, eps in THEIRS[:8] if eps > 0.3], ids=repr)
def test_theirs_fool(attack):
    net, images, labels = case()
    net.eval()
    left = (net(attack(classification(net, labels), images)).argmax(1) == labels).float().mean()
    assert left < 0.5


def test_the_smallest_change_of_a_linear_network():
    """DeepFool and Carlini-Wagner reach the border of a linear network, |margin| / |difference of weights| away."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = 0.5 + 0.02 * torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = net(images).argmax(1)
    loss = margin(net, labels)
    weight = net[1].weight[0] - net[1].weight[1]
    distance = (-loss(images) / weight.norm()).detach()
    for attack, slack in ((DeepFool(), 0.05), (CarliniWagner(searches=9, steps=200), 0.1)):
        changed = attack(loss, images)
        assert (loss(changed) > -1e-5).all()
        found = (changed - images).flatten(1).norm(dim=1)
        torch.testing.assert_close(found, distance, rtol=slack, atol=1e-3)


def test_square_keeps_the_batch_whole():
    net, images, labels = case()
    sizes = set()
    net.register_forward_hook(lambda module, inputs, output: sizes.add(len(inputs[0])))
    Square(0.3, queries=30)(classification(net, labels), images)
    assert sizes == {len(images)}


def test_their_passes_are_counted():
    net, images, labels = case()
    with count_passes(net) as passes:
        Foolbox(attacks.LinfPGD(steps=5), 0.03)(classification(net, labels), images)
    assert passes.backward == 5
    assert passes.forward >= 5


@pytest.mark.parametrize("attack", [THEIRS[0][0], THEIRS[2][0], THEIRS[4][0], THEIRS[7][0], THEIRS[8][0]], ids=repr)
def test_a_loss_without_logits(attack):
    with pytest.raises(TypeError, match="needs a loss made by classification or margin, got function"):
        attack(lambda x: x.flatten(1).sum(1), torch.rand(2, 3, 10, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepFool(norm="l1"), 'norm must be "linf" or "l2"'),
        (lambda: AutoPGD(norm="l1"), 'norm must be "linf" or "l2"'),
        (lambda: Square(0), "eps must be above 0"),
        (lambda: AutoPGD(-1), "eps must be above 0"),
        (lambda: AutoPGD(objective="dlr"), "objective must be one of 'cross entropy', 'logit ratio', got 'dlr'"),
        (lambda: Foolbox(attacks.LinfPGD(), 0), "eps must be above 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("missing", ["foolbox", "art.attacks.evasion"])
def test_without_a_library_the_extra_is_named(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, library.__name__)
    with pytest.raises(ModuleNotFoundError, match=r'need \S+: pip install "shrinkstats\[attacks\]"'):
        importlib.import_module(library.__name__)
