"""Streams: small batches add up, what is past fades, and a change is noticed."""

import copy
import math
import pickle

import pytest

from shrinkstats.estimators import BatchStatistics, PriorBlend, RobustNorm, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from shrinkstats.adapters.torch import adapt, calibrate, grouped, reset  # noqa: E402
from shrinkstats.adapters.torch.again import RECALLED  # noqa: E402
from shrinkstats.adapters.torch.streaming import CHANGE, Memory  # noqa: E402


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return calibrate(nn.BatchNorm2d(4).eval(), [torch.randn(256, 4, 3, 3)])


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    for _ in range(30):
        net(torch.randn(64, 3, 8, 8))
    return calibrate(net.eval(), [torch.randn(64, 3, 8, 8) for _ in range(4)])


def remembered(layer):
    return layer.adaptation.state.long


def test_memory_is_the_weighted_moments_of_all_images(layer):
    generator = torch.Generator().manual_seed(1)
    sizes, capacity = [3, 1, 5, 2], 8
    batches = [torch.randn(n, 4, 3, 3, generator=generator).double() for n in sizes]
    adapt(layer, BatchStatistics(), memory=capacity)
    weights = torch.empty(0, dtype=torch.float64)
    for x in batches:
        layer(x)
        weights = torch.cat([weights * (1 - len(x) / capacity), torch.ones(len(x)).double()])
    memory, images = remembered(layer), torch.cat(batches)
    w = (weights / weights.sum())[:, None, None, None]
    mean = (w * images).sum((0, 2, 3)) / 9
    var = (w * (images - mean[:, None, None]).square()).sum((0, 2, 3)) / 9
    between = (w[..., 0, 0] * (images.mean((2, 3)) - mean).square()).sum(0)
    torch.testing.assert_close(memory.mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(memory.var, var, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(memory.between, between, rtol=1e-10, atol=1e-12)
    assert memory.weight == pytest.approx(float(weights.sum()))
    assert memory.images == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))


def test_many_small_batches_say_as_much_as_twice_the_memory():
    one = Memory(1.0, 1.0, *[torch.zeros(2)] * 3)
    memory = one
    for _ in range(2000):
        memory = memory.then(one, 50)
    assert memory.weight == pytest.approx(50)
    assert memory.images == pytest.approx(99)


def test_the_first_batch_is_as_without_memory(net):
    x = torch.randn(16, 3, 8, 8) + 0.5
    expected = adapt(net)(x)
    torch.testing.assert_close(adapt(net, memory=64)(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(adapt(net, memory=64)(x), adapt(net, memory=64)(x))


def test_a_batch_as_large_as_the_memory_stands_alone(net):
    x, y = torch.randn(2, 16, 3, 8, 8)
    adapt(net, memory=16)(x)
    torch.testing.assert_close(net(y), adapt(net)(y), rtol=1e-4, atol=1e-5)


def test_single_images_add_up(layer):
    generator = torch.Generator().manual_seed(2)
    stream = torch.randn(200, 4, 3, 3, generator=generator) + 0.4
    with torch.no_grad():
        adapt(layer, memory=64)
        for image in stream:
            layer(image[None])
    memory = remembered(layer)
    assert 100 < memory.images < 128
    chance = math.sqrt(4 / 9 / memory.images)  # of the distance of four means over 9 pixels each
    assert float((memory.mean - 0.4).norm()) < 3 * chance


@torch.no_grad()
def test_a_change_is_noticed_and_chance_is_not(layer):
    generator = torch.Generator().manual_seed(3)
    adapt(layer, memory=64)
    least = math.inf
    for step in range(600):
        layer(torch.randn(1, 4, 3, 3, generator=generator))
        least = min(least, remembered(layer).images) if step > 300 else least
    assert least > 100  # it never forgot
    for _ in range(8):
        layer(torch.randn(1, 4, 3, 3, generator=generator) + 2)
    assert remembered(layer).images < 20
    assert float((remembered(layer).mean - 2).abs().max()) < 1
    assert CHANGE > 1


@torch.no_grad()
def test_groups_follow_each_other(net):
    x = torch.cat([torch.randn(20, 3, 8, 8), torch.randn(20, 3, 8, 8) + 2]).double()
    adapt(net.double(), memory=8)
    expected = torch.cat([net(part) for part in x.split(2)])
    adapt(net, memory=8)
    with grouped(net, 2):
        torch.testing.assert_close(torch.cat([net(x[:10]), net(x[10:])]), expected, rtol=1e-9, atol=1e-9)


def test_reset_and_adapt_forget(net):
    (x, y), state = torch.randn(2, 4, 3, 8, 8), copy.deepcopy(net.state_dict())
    before = net(y)
    first = adapt(net, memory=32)(y)
    net(x)
    assert not torch.equal(net(y), first)
    assert torch.equal(adapt(net, memory=32)(y), first)
    assert torch.equal(reset(net)(y), before)
    for name, value in state.items():
        assert torch.equal(net.state_dict()[name], value)


def test_copies_go_their_own_way(net):
    adapt(net, memory=32)(torch.randn(4, 3, 8, 8))
    twin = copy.deepcopy(net)
    assert twin[1].adaptation.layer is twin[1]
    x, y = torch.randn(2, 4, 3, 8, 8)
    expected = copy.deepcopy(net)(y)
    twin(x)
    assert torch.equal(net(y), expected)


def test_no_gradient_through_the_statistics_and_a_batch_counts_once(layer):
    adapt(layer, PriorBlend(2), memory=32)
    x = torch.randn(4, 4, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    images = remembered(layer).images
    scale = (gradient.amax((0, 2, 3)), gradient.amin((0, 2, 3)))
    torch.testing.assert_close(*scale)  # a constant slope
    assert images == 4


def test_without_calibration_the_stream_measures_its_own_noise():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(4).eval()
    with pytest.warns(UserWarning, match="not calibrated"):
        adapt(layer, memory=64)
    with torch.no_grad():
        for x in torch.randn(100, 1, 4, 3, 3) + 1:
            y = layer(x)
    assert torch.isfinite(y).all()
    noise = remembered(layer).between.sum() / 4
    assert float(noise) == pytest.approx(1 / 9, rel=0.5)


def test_training_does_not_remember(net):
    adapt(net, memory=16).train()
    net(torch.randn(4, 3, 8, 8))
    assert net[1].adaptation.state.long is None


# --- what is not finite ------------------------------------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf]


def spoiled(x, value):
    x = x.clone()
    x[1, 2, 0, 1] = value
    return x


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("rule", [SteinBlend(), PriorBlend(4), BatchStatistics()], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_finite_is_not_remembered(layer, value, rule, first):
    """The batch itself is what it is without a memory: NaN in its channel, and in all that the rule pools."""
    batches = torch.randn(6, 4, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    place = 0 if first else 3
    adapt(layer, rule, memory=16)
    expected = [layer(x) for i, x in enumerate(batches) if i != place]
    state = copy.deepcopy(layer.adaptation.state)
    alone = adapt(layer, rule)(spoiled(batches[place], value)).isnan()
    adapt(layer, rule, memory=16)
    found = [layer(spoiled(x, value) if i == place else x) for i, x in enumerate(batches)]
    assert alone[:, 2].all()
    assert torch.equal(found.pop(place).isnan(), alone)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(layer.adaptation.state.long, state.long, strict=True):
        assert ours == theirs if isinstance(ours, float) else torch.equal(ours, theirs)


@pytest.mark.parametrize("value", BAD)
def test_a_stack_of_batches_with_one_that_is_not_finite(layer, value):
    x = torch.randn(12, 4, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    x[5] = spoiled(x[4:6], value)[1]
    adapt(layer, memory=8)
    expected = torch.cat([layer(part) for part in x.split(2)])
    adapt(layer, memory=8)
    with grouped(layer, 2):
        y = layer(x)
    assert y[4:6].isnan().any()
    assert torch.isfinite(y[6:]).all()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_what_overflows_half_precision_or_the_memory_is_not_remembered(layer):
    adapt(layer, memory=8)
    layer(torch.randn(2, 4, 3, 3))
    before = remembered(layer)
    layer((torch.randn(2, 4, 3, 3) * 1e6).half())
    layer(torch.randn(2, 4, 3, 3).double() * 1e200)  # finite, with squares that are not
    assert remembered(layer) is before


def test_a_second_derivative_after_a_batch_that_was_not_finite(layer):
    adapt(layer, PriorBlend(2), memory=32)
    x = torch.randn(4, 4, 3, 3, requires_grad=True)
    y = layer(x)
    state = vars(layer.adaptation.state).copy()
    layer(torch.full((2, 4, 3, 3), math.nan, requires_grad=True)).sum().backward()
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.isfinite(gradient).all()
    assert all(vars(layer.adaptation.state)[name] is value for name, value in state.items())


@torch.no_grad()
def test_a_change_is_noticed_after_a_batch_that_was_not_finite(layer):
    generator = torch.Generator().manual_seed(3)
    adapt(layer, memory=64)
    for _ in range(100):
        layer(torch.randn(1, 4, 3, 3, generator=generator))
    layer(torch.full((1, 4, 3, 3), math.inf))
    assert remembered(layer).images > 50
    for _ in range(8):
        layer(torch.randn(1, 4, 3, 3, generator=generator) + 2)
    assert remembered(layer).images < 20


# --- traces, exports, transforms -----------------------------------------------------------------------------------

TRANSFORMS = {
    "export": lambda net, x: torch.export.export(net, (x,)),
    "export, strict": lambda net, x: torch.export.export(net, (x,), strict=True),
    "onnx": lambda net, x: torch.onnx.export(net, (x,), dynamo=True, verbose=False),
    "jit.trace": lambda net, x: torch.jit.trace(net, x),
    "compile": lambda net, x: torch.compile(net, fullgraph=True, backend="aot_eager")(x),
    "vmap": lambda net, x: torch.func.vmap(net)(x[None]),
    "grad": lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
    "jvp": lambda net, x: torch.func.jvp(net, (x,), (x,)),
    "make_fx": lambda net, x: make_fx(net)(x),
    "make_fx, symbolic": lambda net, x: make_fx(net, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x),
    "fake": lambda net, x: net(FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)),
    "meta": lambda net, x: copy.deepcopy(net).to("meta")(x.to("meta")),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's own tools still use what it deprecates
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_stream_refuses_what_would_freeze_it(net, transform, used):
    adapt(net, memory=16)
    x, y = torch.randn(2, 4, 3, 8, 8)
    if used:
        net(x)
    states = [vars(net[i].adaptation.state).copy() for i in (1, 4)]
    expected = copy.deepcopy(net)(y)
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"with memory cannot be traced|_stream"):
        transform(net, x)
    for i, state in zip((1, 4), states, strict=True):
        assert all(vars(net[i].adaptation.state)[name] is value for name, value in state.items())
    assert torch.equal(net(y), expected)


@torch.no_grad()
def test_a_stream_in_a_graph_with_breaks(net):
    adapt(net, memory=16)
    twin = copy.deepcopy(net)
    torch.compiler.reset()
    compiled = torch.compile(twin, backend="aot_eager")
    for x in torch.randn(3, 4, 3, 8, 8):
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(remembered(twin[4]), remembered(net[4]), rtol=1e-5, atol=1e-5)


def test_a_stream_is_pickled_with_what_it_remembers(net):
    adapt(net, memory=32)(torch.randn(4, 3, 8, 8))
    twin = pickle.loads(pickle.dumps(net))
    assert twin[1].adaptation.layer is twin[1]
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(twin(x), net(x))
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(x), twin(x))


def test_errors(net):
    with pytest.raises(ValueError, match="memory counts images"):
        adapt(net, memory=0)
    with pytest.raises(TypeError):
        adapt(net, memory=1.5)
    with pytest.raises(ValueError, match="do not fade"):
        adapt(net, RobustNorm(), memory=16)
    assert net[1].adaptation is None
    assert SteinBlend() == adapt(net)[1].adaptation


def test_what_backward_computes_again_is_not_remembered_again(net):
    """Checkpoints and second derivatives ask for batches that came before others."""
    x = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in range(3)]

    def gradients(run):
        adapt(net, SteinBlend(), memory=16)
        total = sum(run(v).square().sum() for v in x)
        weight = net[1].adaptation.state.long.weight
        found = torch.autograd.grad(total, x)
        assert net[1].adaptation.state.long.weight == weight
        return found

    plain = gradients(net)
    for ours, theirs in zip(gradients(lambda v: checkpoint(net, v, use_reentrant=False)), plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    adapt(net, SteinBlend(), memory=16)
    early, _ = net(x[0]), net(x[1])
    (found,) = torch.autograd.grad(early.square().sum(), x[0], create_graph=True)
    torch.testing.assert_close(found, plain[0])
    adapt(net, SteinBlend(), memory=16)
    early = net(x[0])
    late = checkpoint(net, x[0], use_reentrant=False)
    for i in range(RECALLED):
        checkpoint(net, x[1] + i, use_reentrant=False)
    (found,) = torch.autograd.grad(early.square().sum(), x[0], create_graph=True)  # its graph knows
    torch.testing.assert_close(found, plain[0])
    with pytest.raises(RuntimeError, match="call backward sooner"):
        torch.autograd.grad(late.square().sum(), x[0])


def test_a_new_batch_within_a_backward_pass_is_remembered(net):
    adapt(net, SteinBlend(), memory=16)
    x, y = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net(x)
    expected = copy.deepcopy(net)
    one, found = torch.ones(1, requires_grad=True), []
    one.register_hook(lambda g: found.append(net(y).detach()))
    (one * 2).sum().backward()
    assert torch.equal(found[0], expected(y))
    assert remembered(net[1]).weight == remembered(expected[1]).weight > 4


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_that_a_checkpoint_calls_many_times(layer, reentrant):
    """As a recurrent network does."""

    def run(x):
        for i in range(12):
            x = layer(x + i).sin()
        return x

    found = []
    for call in (run, lambda x: checkpoint(run, x, use_reentrant=reentrant)):
        adapt(layer, PriorBlend(2), memory=16)
        x = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
        call(x).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_the_same_images_again_are_images_too(net):
    adapt(net, SteinBlend(), memory=16)
    for _ in range(3):
        net(torch.ones(4, 3, 8, 8))
    assert net[1].adaptation.state.long.weight > 8


# --- passes that are refused ---------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Its second layer sees nine rows of every image, once it is told to."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.flat = nn.BatchNorm2d(4), nn.BatchNorm1d(4), False

    def forward(self, x):
        y = self.stem(x).flatten(2)
        return self.norm(y.transpose(1, 2).flatten(0, 1) if self.flat else y)


REFUSED = {
    "rows": lambda net, x: (setattr(net, "flat", True), net(x)),
    "rows of calibrated images": lambda net, x: (setattr(net.norm, "image_rows", 5), net(x)),
    "channels": lambda net, x: (setattr(net.norm, "running_mean", torch.zeros(3)), net(x)),
    "interrupted": lambda net, x: (setattr(net.norm, "_watch", interrupt), net(x)),
}


def interrupt(x):
    raise KeyboardInterrupt


@torch.no_grad()
@pytest.mark.parametrize("used", [0, 1, RECALLED + 1])
@pytest.mark.parametrize("kind", REFUSED)
def test_nothing_of_a_refused_pass_is_remembered(kind, used):
    net = adapt(Tokens().eval(), PriorBlend(4), memory=16)
    for x in torch.randn(used, 4, 4, 3, 3):
        net(x)
    twin, x = copy.deepcopy(net), torch.randn(4, 4, 3, 3)
    states = [vars(layer.adaptation.state) for layer in (net.stem, net.norm)]
    before = [{**state, "seen": state["seen"].copy()} for state in states]
    for _ in range(2):
        with pytest.raises((ValueError, RuntimeError, KeyboardInterrupt)):
            REFUSED[kind](net, x)
        for layer, state in zip((net.stem, net.norm), before, strict=True):
            assert vars(layer.adaptation.state).keys() == state.keys()
            assert all(a is b for a, b in zip(layer.adaptation.state.seen, state["seen"], strict=True))
            assert layer.adaptation.state.long is state["long"]
            assert layer.adaptation.state.recent is state["recent"]
    net.flat, net.norm.image_rows, net.norm._watch = False, 1, None
    net.norm.running_mean = twin.norm.running_mean.clone()
    assert torch.equal(net(x), twin(x))


class Domains(nn.Module):
    """A norm for each of two domains."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x, domain):
        return self.norms[domain](x)


@torch.no_grad()
def test_layers_that_calibration_saw_take_images_may_run_by_themselves():
    net, images = Domains().eval(), [torch.randn(16, 3, 4, 4) for _ in range(2)]
    calibrate(net, images, forward=lambda net, x: (net(x, 0), net(x, 1)))
    adapt(net, PriorBlend(4), memory=32)
    net(images[0], 0), net(images[1][:8], 1), net(images[0][:4], 0)
    assert [norm.adaptation.state.long.images for norm in net.norms] == [pytest.approx(20, rel=0.1), 8]


@torch.no_grad()
def test_images_of_another_size_are_refused_where_a_layer_sees_images():
    net = Tokens().eval()
    net.flat = True
    adapt(calibrate(net, [torch.randn(4, 4, 3, 3) for _ in range(2)]), PriorBlend(4), memory=16)
    with pytest.raises(ValueError, match=r"layer norm sees 16 rows where layer stem sees 4.*of the size to evaluate"):
        net(torch.randn(4, 4, 6, 6))


@torch.no_grad()
def test_streams_from_a_file_know_the_other_layers_of_their_network():
    state = adapt(Tokens().eval(), PriorBlend(4), memory=16).state_dict()
    nets = [adapt(Tokens().eval(), PriorBlend(4)) for _ in range(2)]
    for net in nets:
        net.load_state_dict(state)
        net.flat = True
    assert nets[0].stem.adaptation.peers is nets[0].norm.adaptation.peers
    assert nets[0].norm.adaptation.peers is not nets[1].norm.adaptation.peers
    for net in nets:
        with pytest.raises(ValueError, match=r"layer norm sees 36 rows where layer stem sees 4"):
            net(torch.randn(4, 4, 3, 3))
        assert net.stem.adaptation.state.long is None
    for net in nets:
        net.flat = False
    nets[0](torch.randn(4, 4, 3, 3)), nets[1](torch.randn(8, 4, 3, 3))  # networks that know nothing of each other
