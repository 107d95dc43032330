"""Grouped evaluation: one pass gives what a loop over small batches gives."""

import copy
import pickle

import numpy as np
import pytest

from shrinkstats.estimators import (
    BatchStatistics,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import adapt, calibrate, convert, grouped, groups, reset, revert  # noqa: E402

RULES = [
    BatchStatistics(),
    PriorBlend(4),
    SteinBlend(),
    Stein(),
    Stein.published(),
    Stein(mean=None, var="channel"),
    JSNorm(),
    RobustNorm(),
    MinMaxNorm(),
    Ridge(0.1),
    Lasso(0.1),
]


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    nn.init.uniform_(net[1].weight)
    nn.init.normal_(net[1].bias)
    for _ in range(20):
        net(torch.randn(64, 3, 10, 10))
    return calibrate(net.eval(), [torch.randn(64, 3, 10, 10) for _ in range(4)])


def looped(net, x, size):
    return torch.cat([net(part) for part in x.split(size)])


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("size", [1, 4, 24])
@torch.no_grad()
def test_a_pass_is_the_loop(net, rule, size):
    x = 1.5 * torch.randn(24, 3, 10, 10).double() + 0.5
    adapt(net.double(), rule)
    expected = looped(net, x, size)
    with grouped(net, size) as same:
        assert same is net
        torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(looped(net, x, size), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 7), (12, 5, 4, 3), (12, 5, 2, 3, 4)])
@torch.no_grad()
def test_shapes_and_dtypes(shape, dtype):
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](5).to(dtype)
    adapt(layer.eval(), PriorBlend(3))
    x = torch.randn(shape).to(dtype) + 2
    expected = looped(layer, x, 4)
    with grouped(layer, 4):
        y = layer(x)
    assert y.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def test_memory_order_is_kept(net):
    adapt(net)
    x = torch.randn(8, 3, 10, 10).to(memory_format=torch.channels_last)
    with torch.no_grad(), grouped(net[:2], 4):
        y = net[:2](x)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_those_of_the_loop(net):
    adapt(net.double(), SteinBlend())
    start = torch.randn(6, 3, 10, 10).double() + 0.3

    def gradients(run):
        x = start.clone().requires_grad_()
        net.zero_grad()
        run(x).square().sum().backward()
        return [x.grad, *(p.grad.clone() for p in net.parameters())]

    expected = gradients(lambda x: looped(net, x, 3))
    with grouped(net, 3):
        for a, b in zip(gradients(net), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_moments_of_groups_are_those_of_parts():
    from shrinkstats import moments

    x = torch.randn(12, 5, 4, 3, dtype=torch.float64) + 100
    stack = groups.moments(x, 3, extremes=True)
    for i, part in enumerate(x.split(3)):
        m = moments(part)
        assert (stack.count, stack.samples, stack.sample_weight) == (m.count, m.samples, m.sample_weight)
        for name in ("mean", "m2", "minimum", "maximum", "sample_m2"):
            np.testing.assert_allclose(getattr(stack, name)[i], getattr(m, name), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(stack.noise[i], m.noise, rtol=1e-10, atol=1e-10)


def test_training_and_trained_statistics_are_as_ever(net):
    x = torch.randn(6, 3, 10, 10)
    expected = net(x)
    with grouped(net, 2):
        assert torch.equal(net(x), expected)
        convert(net, BatchStatistics()).train()
        y = net(x)
    torch.testing.assert_close(y, nn.Sequential(*net).train()(x), rtol=1e-4, atol=1e-5)


def test_without_running_statistics_groups_are_batches_too():
    layer = convert(nn.BatchNorm2d(3, track_running_stats=False), Stein()).eval()
    x = torch.randn(6, 3, 5, 5)
    with torch.no_grad(), grouped(layer, 2):
        torch.testing.assert_close(layer(x), torch.cat([layer(x[i : i + 2]) for i in (0, 2, 4)]))


def test_a_subclass_keeps_what_it_adds():
    class Loud(nn.BatchNorm2d):
        def forward(self, x):
            return 10 * super().forward(x)

    layer = adapt(Loud(3).eval(), BatchStatistics())
    x = torch.randn(6, 3, 5, 5)
    expected = looped(layer, x, 2)
    with torch.no_grad(), grouped(layer, 2):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_contexts_nest_and_leave_nothing(net):
    adapt(net)
    x = torch.randn(6, 3, 10, 10)
    with grouped(net, 2):
        with grouped(net, 3):
            net(x)
        assert net[1].group_size == 2
    assert net[1].group_size is None
    with pytest.raises(RuntimeError, match="inside"), grouped(net, 2):
        raise RuntimeError("inside")
    assert net[1].group_size is None
    convert(revert(reset(net)), Stein())


def test_errors(net):
    with pytest.raises(ValueError, match="at least 1"), grouped(net, 0):
        pass
    adapt(net)
    with grouped(net, 4), pytest.raises(ValueError, match="6 images do not divide"):
        net(torch.randn(6, 3, 10, 10))


def test_far_from_zero_nothing_is_lost():
    x = (1e5 + torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()
    net = adapt(nn.Sequential(nn.BatchNorm2d(3)).eval(), BatchStatistics())
    with grouped(net, 4):
        y = net(x)
    torch.testing.assert_close(y, torch.cat([net(x[:4]), net(x[4:])]), rtol=0, atol=1e-5)


def test_a_copy_made_within_the_context_is_not_grouped():
    net = adapt(nn.Sequential(nn.BatchNorm2d(3)).eval(), PriorBlend(16))
    x = torch.randn(8, 3, 4, 4)
    expected = net(x)
    with grouped(net, 4):
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net[0]))]
        assert not torch.equal(net(x), expected)
    for twin in copies:
        assert torch.equal(twin(x), expected)
        twin(x[:3])


@pytest.mark.parametrize(
    "call",
    [
        lambda n: adapt(n, PriorBlend(16), memory=2.5),
        lambda n: adapt(n, memory="8"),
        lambda n: grouped(n, 2.0).__enter__(),
        lambda n: calibrate(n, [], batches="3"),
    ],
)
def test_numbers_that_are_not_whole_are_named(call):
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    with pytest.raises(TypeError, match=r"(memory|size|batches) must be a whole number, got"):
        call(net)
    assert type(net[0]) is nn.BatchNorm2d
