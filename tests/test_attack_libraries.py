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
from art.attacks import evasion  # noqa: E402
from foolbox import PyTorchModel, attacks  # noqa: E402
from torch import nn  # noqa: E402

from shrinkstats.adapters.attacks import BIM, FGSM, PGD, classification, count_passes, margin  # noqa: E402
from shrinkstats.adapters.attacks.gradients import in_ball  # noqa: E402

Foolbox, Toolbox = library.Foolbox, library.Toolbox


def carlini_wagner(eps, searches, steps):
    return Foolbox(attacks.L2CarliniWagnerAttack(binary_search_steps=searches, steps=steps), eps)


def auto_pgd(eps, **options):
    options = {"eps": eps, "eps_step": 2 * eps, "max_iter": 10, "verbose": False, **options}
    return Toolbox(lambda net: evasion.AutoProjectedGradientDescent(net, **options))


def square(eps, queries):
    """Nothing is ever done, so that the batch stays whole."""
    options = {"eps": eps, "max_iter": queries, "adv_criterion": lambda y, labels: np.zeros(len(y), bool)}
    return Toolbox(lambda net: evasion.SquareAttack(net, **options, verbose=False))


THEIRS = {
    "Carlini-Wagner": (carlini_wagner(None, 4, 60), "l2", math.inf),
    "Carlini-Wagner in a ball": (carlini_wagner(0.3, 3, 30), "l2", 0.3),
    "DeepFool": (Foolbox(attacks.L2DeepFoolAttack(), None), "l2", math.inf),
    "DeepFool in a ball": (Foolbox(attacks.LinfDeepFoolAttack(), 0.05), "linf", 0.05),
    "APGD": (auto_pgd(0.05), "linf", 0.05),
    "APGD in l2": (auto_pgd(0.3, nb_random_init=2, norm=2), "l2", 0.3),
    "APGD on the ratio": (auto_pgd(0.05, loss_type="difference_logits_ratio"), "linf", 0.05),
    "square": (square(0.05, 40), "linf", 0.05),
    "noise": (Foolbox(attacks.LinfRepeatedAdditiveUniformNoiseAttack(repeats=5), 0.1), "linf", 0.1),
}


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


@pytest.mark.parametrize(("attack", "norm", "eps"), THEIRS.values(), ids=THEIRS)
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


@pytest.mark.parametrize("name", ["APGD in l2", "square", "noise"])
def test_theirs_draw_from_our_generator_and_leave_the_global_ones(name):
    attack = THEIRS[name][0]
    net, images, labels = case()
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    loss = classification(net, labels)
    one, two, other = (attack(loss, images, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("name", ["Carlini-Wagner", "DeepFool"])
def test_theirs_fool(name):
    attack = THEIRS[name][0]
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
    for attack, slack in ((THEIRS["DeepFool"][0], 0.05), (carlini_wagner(None, 9, 200), 0.1)):
        changed = attack(loss, images)
        assert (loss(changed) > -1e-5).all()
        found = (changed - images).flatten(1).norm(dim=1)
        torch.testing.assert_close(found, distance, rtol=slack, atol=1e-3)


def test_the_toolbox_keeps_the_batch_whole():
    net, images, labels = case(150)  # more than it takes at a time
    sizes = set()
    net.register_forward_hook(lambda module, inputs, output: sizes.add(len(inputs[0])))
    square(0.3, 10)(classification(net, labels), images)
    assert sizes == {len(images)}


def test_their_passes_are_counted():
    net, images, labels = case()
    with count_passes(net) as passes:
        Foolbox(attacks.LinfPGD(steps=5), 0.03)(classification(net, labels), images)
    assert passes.backward == 5
    assert passes.forward >= 5


@pytest.mark.parametrize("name", ["noise", "square"])
def test_a_loss_without_logits(name):
    attack = THEIRS[name][0]
    with pytest.raises(TypeError, match="needs a loss made by classification or margin, got function"):
        attack(lambda x: x.flatten(1).sum(1), torch.rand(2, 3, 10, 10))


def test_bad_options():
    with pytest.raises(ValueError, match="eps must be above 0"):
        Foolbox(attacks.LinfPGD(), 0)


@pytest.mark.parametrize(
    ("name", "options", "same"),
    [
        ("CarliniWagner", {"searches": 4, "steps": 60}, carlini_wagner(None, 4, 60)),
        ("DeepFool", {"eps": 0.05, "norm": "linf"}, THEIRS["DeepFool in a ball"][0]),
        ("AutoPGD", {"eps": 0.3, "steps": 10, "restarts": 2, "norm": "l2"}, THEIRS["APGD in l2"][0]),
        ("Square", {"eps": 0.05, "queries": 40}, THEIRS["square"][0]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_old_names_make_the_same_for_one_release(name, options, same):
    with pytest.warns(DeprecationWarning, match=f"{name} goes with the next release; write (Foolbox|Toolbox)"):
        old = getattr(library, name)(**options)
    net, images, labels = case()
    loss = classification(net.eval(), labels)
    one, two = (attack(loss, images, generator=torch.Generator().manual_seed(1)) for attack in (old, same))
    assert torch.equal(one, two)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        library.nothing  # noqa: B018


@pytest.mark.parametrize("missing", ["foolbox", "art.attacks.evasion"])
def test_without_a_library_the_extra_is_named(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, library.__name__)
    with pytest.raises(ModuleNotFoundError, match=r'need \S+: pip install "shrinkstats\[attacks\]"'):
        importlib.import_module(library.__name__)
