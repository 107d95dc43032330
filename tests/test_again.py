"""Calls that a backward pass makes again: each finds what was known when it was made first."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, again, calibrate, grouped  # noqa: E402
from shrinkstats.estimators import PriorBlend, Stein, SteinBlend  # noqa: E402


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def block(estimator):
    torch.manual_seed(0)
    return nn.Sequential(ShrinkBatchNorm2d(3, estimator), nn.Conv2d(3, 2, 3), Sine()).double()


def images(seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(1, 2, size=(4, 3, 6, 6)))


CHANGES = {
    "flipped": lambda x: x.flip(-1),
    "permuted": lambda x: x[torch.tensor([1, 0, 3, 2])],
    "larger": lambda x: nn.functional.interpolate(x, scale_factor=2),
    "another, both whitened": lambda x: images(1).requires_grad_(),
    "the same": lambda x: x * 1.0,
}
ORDERS = {
    "both": lambda a, b: (a + b).backward(),
    "in their order": lambda a, b: (a.backward(), b.backward()),
    "the other way round": lambda a, b: (b.backward(), a.backward()),
    "the first": lambda a, b: a.backward(),
    "twice": lambda a, b: ((a + b).backward(retain_graph=True), (a + b).backward()),
}


def gradients(net, x, change, order, checkpointed):
    """Of a network that sees a batch and a changed one before there is a backward pass."""
    f = net if checkpointed is None else partial(checkpoint, net, use_reentrant=checkpointed)
    whitened = nn.functional.instance_norm if change is CHANGES["another, both whitened"] else torch.clone
    order(f(whitened(x)).sum(), 2 * f(whitened(change(x))).square().sum())
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize(
    ("change", "order"),
    sorted({*((c, "both") for c in CHANGES), *(("flipped", o) for o in ORDERS), *(("the same", o) for o in ORDERS)}),
)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("mode", ["training", "stream"])
def test_two_batches_of_equal_moments_are_told_apart(change, order, reentrant, mode):
    if mode == "training":
        net = block(PriorBlend(4.0))
    else:
        net = adapt(calibrate(block(Stein()), [images(seed) for seed in range(2, 6)], batches=4).eval(), memory=16)
    x = images().requires_grad_()
    expected = gradients(copy.deepcopy(net), x, CHANGES[change], ORDERS[order], None)
    if reentrant and change == "the same":
        with pytest.raises(RuntimeError, match=r"saw several times.*use_reentrant=False"):
            gradients(net, x, CHANGES[change], ORDERS[order], reentrant)
        return
    for ours, theirs in zip(gradients(net, x, CHANGES[change], ORDERS[order], reentrant), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_batch_twice_in_one_checkpoint():
    found = []
    for call in (lambda f, x: f(x), partial(checkpoint, use_reentrant=False)):
        net, x = block(PriorBlend(4.0)), images().requires_grad_()
        call(lambda x, net=net: net(x) + net(x) * net(x).cos(), x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_calls_that_no_backward_pass_makes_again_are_not_kept():
    layer = ShrinkBatchNorm2d(3, PriorBlend(4.0))
    layer(images().float()).sum().backward()
    assert "_seen" not in vars(layer)
    stream = adapt(nn.Sequential(nn.BatchNorm2d(3)).eval(), PriorBlend(4.0), memory=8)
    with torch.inference_mode():
        stream(images().float())
    assert not stream[0].adaptation.state.seen


@pytest.mark.parametrize("estimator", [Stein(), PriorBlend(4.0), SteinBlend()], ids=str)
def test_inputs_are_autograd_s_alone_to_keep(estimator):
    alive = []
    net = nn.Sequential(*[nn.Sequential(ShrinkBatchNorm2d(3, estimator), nn.Tanh()) for _ in range(6)])
    for part in net:
        part[0].register_forward_pre_hook(lambda layer, inputs: alive.append(weakref.ref(inputs[0])))
    x = images().float().requires_grad_()
    y = checkpoint(net, x, use_reentrant=False)
    gc.collect()
    assert sum(a() is not None for a in alive) == 1  # the first one's, which is x
    y.sum().backward()
    loss = net(x).sum()
    alive.clear()
    loss = net(x).sum()
    loss.backward()
    gc.collect()
    assert sum(a() is not None for a in alive) == 1
    del loss
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.detach().numpy().copy()), lambda i: None):
        alive.clear()
        y = net(x * 2)
    gc.collect()
    assert not any(a() is not None for a in alive)
    del y


@pytest.mark.parametrize("estimator", [Stein(), PriorBlend(4.0), SteinBlend()], ids=str)
def test_selective_checkpoints(estimator):
    found = []
    policy = partial(create_selective_checkpoint_contexts, [torch.ops.aten.convolution.default])
    for context in (None, policy):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), ShrinkBatchNorm2d(4, estimator), nn.Conv2d(4, 2, 3)).double()
        x = images().requires_grad_()
        y = net(x) if context is None else checkpoint(net, x, use_reentrant=False, context_fn=context)
        y.sin().sum().backward()
        found.append([x.grad, *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("counting", ["forward", "backward", "both"])
def test_reentrant_checkpoints_while_operations_are_counted(counting):
    """Passes are plain operations where a mode records them: a prior found in one kind of pass serves the other."""
    found = []
    for modes in ("", counting):
        net, x = block(PriorBlend(4.0)), images().requires_grad_()
        with FlopCounterMode(display=False) if modes in ("forward", "both") else torch.enable_grad():
            loss = checkpoint(net, x, use_reentrant=True).square().sum()
        with FlopCounterMode(display=False) if modes in ("backward", "both") else torch.enable_grad():
            loss.backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_threads_that_share_a_checkpointed_layer():
    layer = ShrinkBatchNorm2d(3, PriorBlend(4.0), momentum=0.0).double()
    inputs = [images(seed) for seed in range(4)]

    def gradient(x, checkpointed):
        x = x.clone().requires_grad_()
        y = checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
        return torch.autograd.grad(y.square().sum(), x)[0]

    expected = [gradient(x, False) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for ours, theirs in zip(pool.map(partial(gradient, checkpointed=True), inputs), expected, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_what_pytorch_does_not_show_is_refused_or_told_by_the_data(monkeypatch):
    """Before PyTorch 2.8 nobody sees which checkpoint calls."""
    monkeypatch.setattr(again, "HOOKS", None)
    for change, order in (("flipped", "both"), ("larger", "in their order")):
        net, x = block(PriorBlend(4.0)), images().requires_grad_()
        expected = gradients(copy.deepcopy(net), x, CHANGES[change], ORDERS[order], None)
        for ours, theirs in zip(gradients(net, x, CHANGES[change], ORDERS[order], False), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="saw several times"):
        gradients(block(PriorBlend(4.0)), images().requires_grad_(), CHANGES["the same"], ORDERS["both"], False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("memory", [None, 16])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_broken_channel_does_not_hide_a_batch(reentrant, memory, value):
    """The other channels find what was known of them."""
    x, found = images(), []
    x[1, 2, 3, 3] = value
    for checkpointed in (False, True):
        layer = nn.BatchNorm2d(3).double() if memory else ShrinkBatchNorm2d(3, PriorBlend(4.0)).double()
        net = adapt(nn.Sequential(layer).eval(), PriorBlend(4.0), memory=memory) if memory else nn.Sequential(layer)
        net(images(1))
        f = partial(checkpoint, net, use_reentrant=reentrant) if checkpointed else net
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        net(images(2) * 5)
        y[:, :2].square().sum().backward()
        found.append(leaf.grad[:, :2])
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_groups_of_a_batch_twice_in_one_checkpoint():
    """Several batches make one call: its groups are found together."""
    found = []
    for call in (lambda f, x: f(x), partial(checkpoint, use_reentrant=False)):
        net = adapt(nn.Sequential(nn.BatchNorm2d(3).double()).eval(), PriorBlend(4.0), memory=6)
        net(images(1))
        x = images().requires_grad_()
        with grouped(net, 2):
            call(lambda x, net=net: net(x) + net(x) * net(x).cos(), x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
