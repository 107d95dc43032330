"""What PyTorch does with modules: compile, export, fold, transform, trace, record. Equal results, or a clear error."""

import copy
import io

import numpy as np
import pytest
from test_layers import ESTIMATORS

from shrinkstats import _arrays
from shrinkstats.estimators import BatchStatistics, Estimator, PriorBlend, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

import torch.autograd.forward_ad as forward_ad  # noqa: E402
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, stack_module_state, vmap  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils.fusion import fuse_conv_bn_eval  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, again, calibrate, convert  # noqa: E402
from shrinkstats.adapters.torch.noise import noise_of  # noqa: E402

# PyTorch's own tools still use what it deprecates.
pytorch_s_own_warnings = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*is deprecated:DeprecationWarning", "ignore:.*LeafSpec:FutureWarning"
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def network(estimator, *, seed=0):
    """A trained network: every layer has seen data, and its running statistics are not those of a new one."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6)
    )
    convert(net, estimator)
    for i in range(3):
        net(random(8, 3, 8, 8, seed=i))
    return net


def assert_same_state(ours, theirs, **tolerance):
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def train(layer, x, g):
    """One forward and backward pass: the output and all gradients."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(g)
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    return [y.detach(), leaf.grad, *gradients]


# --- torch.compile ---------------------------------------------------------------------------------------------


def check_compiled(estimator, backend, mode, momentum=0.1):
    torch.manual_seed(0)
    layer = ShrinkBatchNorm2d(4, estimator, momentum=momentum)
    layer.running_mean.normal_(), layer.running_var.uniform_(1, 2)
    if mode == "adapted":
        calibrate(layer, [random(8, 4, 5, 5)])
        layer.adaptation = estimator
    layer.train(mode == "training")
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    for step in range(2):
        x, g = random(6, 4, 5, 5, seed=step) + 1, random(6, 4, 5, 5, seed=step + 10)
        for ours, theirs in zip(train(compiled, x, g), train(layer, x, g), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert_same_state(twin, layer)


# The means and spreads of the others come about as one of these does; `make long` compiles them all.
IN_SHORT = [Stein(), SteinBlend()]


@pytest.mark.parametrize("mode", ["training", "evaluation", "adapted"])
@pytest.mark.parametrize(
    "estimator", [e if e in IN_SHORT else pytest.param(e, marks=pytest.mark.long) for e in ESTIMATORS], ids=str
)
def test_compile(estimator, mode, monkeypatch):
    """A graph without breaks, without a warning, and nothing prepared by an earlier call."""
    monkeypatch.setattr(_arrays, "_known", {})
    check_compiled(estimator, "aot_eager", mode)


def test_compile_with_a_cumulative_average():
    check_compiled(Stein(), "aot_eager", "training", momentum=None)


@pytest.mark.parametrize(
    "estimator", [*(pytest.param(e, marks=pytest.mark.long) for e in (Stein(), PriorBlend(3.0))), SteinBlend()], ids=str
)
@torch._dynamo.config.patch(recompile_limit=2)
def test_compile_for_batches_of_any_size(estimator):
    """One graph for the first size and one for all others."""
    layer = ShrinkBatchNorm2d(4, estimator)
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for n in (4, 5, 6, 7):
        torch.testing.assert_close(compiled(random(n, 4, 5, 5)), layer(random(n, 4, 5, 5)), rtol=1e-5, atol=1e-5)


@pytorch_s_own_warnings
@pytest.mark.long
@pytest.mark.parametrize("estimator", [Stein(), SteinBlend()], ids=str)
def test_compile_to_machine_code(estimator):
    """SteinBlend's gradient depends on the running statistics as they were before this batch updated them."""
    check_compiled(estimator, "inductor", "training")


# --- export ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_export(estimator):
    net, x = network(estimator).eval(), random(5, 3, 8, 8)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.testing.assert_close(program.module()(x[:3]), net(x[:3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", [PriorBlend(3.0), SteinBlend()], ids=str)
def test_export_of_an_adapted_network(estimator):
    x = random(5, 3, 8, 8)
    net = adapt(calibrate(network(BatchStatistics()), [x, x]).eval(), estimator)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x + 1), net(x + 1), rtol=1e-4, atol=1e-5)


SIZES = (1, 2, 4, 7, 32)
RULES = [SteinBlend(), PriorBlend(3.0), BatchStatistics()]


def adapted(rule, i=0):
    """A calibrated, adapted network."""
    return adapt(calibrate(network(BatchStatistics(), seed=i), [random(16, 3, 8, 8, seed=1)] * 2).eval(), rule)


@torch.no_grad()
def agrees_at_all_sizes(call, net):
    for n in SIZES:
        x = random(n, 3, 8, 8, seed=n) + 1
        torch.testing.assert_close(call(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_export_of_an_adapted_network_for_batches_of_any_size(rule):
    net = adapted(rule)
    program = torch.export.export(net, (random(4, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    agrees_at_all_sizes(program.module(), net)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # constants pass by float32
@pytorch_s_own_warnings
@pytest.mark.long
def test_onnx_of_an_adapted_network_for_batches_of_any_size():
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    net, file = adapted(SteinBlend()), io.BytesIO()
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(net, (random(4, 3, 8, 8),), dynamo=True, verbose=False, dynamic_shapes=shapes).save(file)
    session = runtime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name
    agrees_at_all_sizes(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), net)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytorch_s_own_warnings
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_trace_of_an_adapted_network(rule):
    net = adapted(rule)
    agrees_at_all_sizes(torch.jit.trace(net, random(4, 3, 8, 8)), net)


@pytest.mark.long
@pytorch_s_own_warnings
def test_compile_of_an_adapted_layer_for_batches_of_any_size():
    net = adapt(calibrate(nn.BatchNorm2d(3).eval(), [random(16, 3, 8, 8)]))
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    agrees_at_all_sizes(compiled, net)


DYNAMIC = ({0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)},)


def run_onnx_at_any_size(net, x):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    file = io.BytesIO()
    torch.onnx.export(net, (x,), dynamo=True, verbose=False, dynamic_shapes=DYNAMIC).save(file)
    session = runtime.InferenceSession(file.getvalue())
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def compiled(net, x):
    torch.compiler.reset()
    return torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")


PROGRAMS = {
    "export": lambda net, x: torch.export.export(net, (x,), dynamic_shapes=DYNAMIC).module(),
    "export, strict": lambda net, x: torch.export.export(net, (x,), dynamic_shapes=DYNAMIC, strict=True).module(),
    "trace": torch.jit.trace,
    "compile": compiled,
    "onnx": run_onnx_at_any_size,
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:not calibrated:UserWarning")
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # constants pass by float32
@pytorch_s_own_warnings
@pytest.mark.parametrize(
    "program", [p if p in ("export", "trace") else pytest.param(p, marks=pytest.mark.long) for p in PROGRAMS]
)
@pytest.mark.parametrize(
    ("rule", "calibrated", "rows"),
    [(Stein(), False, 1), (SteinBlend(), False, 1), (SteinBlend(), True, 2)],
    ids=["Stein", "uncalibrated", "calibrated"],
)
def test_programs_for_images_of_any_number_and_size(rule, calibrated, rows, program):
    """A single image, whose noise comes from its pixels, and other images than the program was made with."""
    net = Pairs().eval() if rows == 2 else nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    if calibrated:
        calibrate(net, [random(16, 3, 8, 8, seed=1)])
    adapt(net, rule)
    call = PROGRAMS[program](net, random(4, 3, 8, 8))
    for n, h, w in ((1, 8, 8), (2, 8, 8), (7, 8, 8), (5, 10, 6), (1, 12, 9), (32, 6, 6)):
        x = random(n, 3, h, w, seed=n) + 1
        torch.testing.assert_close(call(x), net(x), rtol=1e-4, atol=1e-4)


class Pairs(nn.Module):
    """Every image is two rows of its batch norm layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(torch.stack([y, 2 * y + 1], 1).flatten(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("strict", [True, False])
def test_export_of_training_for_images_of_any_number_and_size(strict):
    layer = ShrinkBatchNorm2d(3, Stein())
    twin = copy.deepcopy(layer)
    program = torch.export.export(twin, (random(4, 3, 8, 8),), dynamic_shapes=DYNAMIC, strict=strict).module()
    for n, h, w in ((2, 8, 8), (1, 12, 9), (5, 10, 6)):
        x = random(n, 3, h, w, seed=n) + 1
        torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-5)
    assert_same_state(program, layer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 100])
def test_noise_for_a_size_that_a_graph_leaves_open(rows, n):
    layer = ShrinkBatchNorm2d(3)
    layer.noise_mean, layer.noise_sd, layer.noise_sd_bias = random(3), random(rows, 3), random(rows, 3, seed=1)
    expected = noise_of(layer, n, torch.Tensor.double)
    for ours, theirs in zip(noise_of(layer, torch.tensor(n), torch.Tensor.double), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


class Loud(nn.BatchNorm2d):
    def forward(self, x):
        return 10 * super().forward(x)


@pytest.mark.parametrize("mode", ["training", "evaluation", "adapted"])
def test_symbolic_trace(mode):
    """A layer is a step of the graph; what a subclass adds is in the graph as well."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), Loud(4))
    convert(net, Stein())
    if mode == "adapted":
        adapt(calibrate(net.eval(), [random(16, 3, 8, 8)]))
    net.train(mode == "training")
    traced, twin = torch.fx.symbolic_trace(net), copy.deepcopy(net)
    x = random(5, 3, 8, 8)
    torch.testing.assert_close(traced(x), twin(x))
    assert_same_state(net, twin)
    called = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert [node.target for node in called] == ["0", "1", "2"]
    assert traced.get_submodule("1") is net[1]
    with pytest.raises(torch.fx.proxy.TraceError, match="trace the network"):
        torch.fx.symbolic_trace(net[1])


def run_onnx(net, x):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    file = io.BytesIO()
    torch.onnx.export(net, (x,), dynamo=True, verbose=False).save(file)
    session = runtime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


@pytorch_s_own_warnings
@pytest.mark.parametrize("estimator", [Stein(), RobustNorm()], ids=str)
def test_onnx(estimator):
    net, x = network(estimator).eval(), random(5, 3, 8, 8)
    torch.testing.assert_close(run_onnx(net, x), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # constants pass by float32
@pytorch_s_own_warnings
def test_onnx_of_an_adapted_network():
    x = random(5, 3, 8, 8)
    net = adapt(calibrate(network(BatchStatistics()), [x, x]).eval(), PriorBlend(3.0))
    torch.testing.assert_close(run_onnx(net, x), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if type(e).scale is Estimator.scale], ids=str)
def test_folding_into_a_convolution(estimator):
    """Elsewhere, as for RobustNorm, running_var holds ranges, which PyTorch's function takes for variances."""
    net, x = network(estimator).eval(), random(5, 3, 8, 8)
    torch.testing.assert_close(fuse_conv_bn_eval(net[0], net[1])(x), net[1](net[0](x)), rtol=1e-4, atol=1e-5)


# --- torch.func ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_functional_call(estimator, training):
    net, x = network(estimator).train(training), random(5, 3, 8, 8)
    other = network(estimator, seed=1).train(training)
    before = copy.deepcopy(net.state_dict())
    state = {k: v.detach().clone() for k, v in other.state_dict().items()}
    torch.testing.assert_close(functional_call(net, state, (x,)), other(x))
    for name, value in before.items():
        assert torch.equal(net.state_dict()[name], value)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(state[name], value)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_vmap_over_an_ensemble(estimator, training, momentum):
    nets = [network(estimator, seed=i).train(training) for i in range(3)]
    for net in nets:
        net[1].momentum = net[5].momentum = momentum
    x = random(5, 3, 8, 8)
    parameters, buffers = stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")
    found = vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), in_dims=(0, 0, None))(parameters, buffers, x)
    torch.testing.assert_close(found, torch.stack([net(x) for net in nets]), rtol=1e-4, atol=1e-5)
    for name, value in buffers.items():
        expected = torch.stack([net.state_dict()[name] for net in nets])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_functional_gradients(estimator):
    net, x = network(estimator).double(), random(5, 3, 8, 8).double()
    parameters = {k: v.detach() for k, v in net.named_parameters()}

    def loss(parameters):
        buffers = {k: v.clone() for k, v in net.named_buffers()}
        return functional_call(net, (parameters, buffers), (x,)).pow(3).sum()

    found = grad(loss)(parameters)
    copy_ = copy.deepcopy(net)
    copy_(x).pow(3).sum().backward()
    for name, value in copy_.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-8, atol=1e-8)


@pytorch_s_own_warnings
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_forward_mode(estimator):
    layer = ShrinkBatchNorm2d(3, estimator, dtype=torch.float64)
    layer.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    x = random(4, 3, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: copy.deepcopy(layer)(x), x, check_forward_ad=True)
    with forward_ad.dual_level():
        layer(forward_ad.make_dual(x.detach(), torch.ones_like(x)))
        assert forward_ad.unpack_dual(layer.running_mean).tangent is None


# --- recording what happens ------------------------------------------------------------------------------------


@pytorch_s_own_warnings
@pytest.mark.parametrize("estimator", [Stein(), RobustNorm()], ids=str)
def test_trace(estimator):
    net, x = network(estimator).eval(), random(5, 3, 8, 8)
    traced = torch.jit.trace(net, x)
    torch.testing.assert_close(traced(random(3, 3, 8, 8, seed=1)), net(random(3, 3, 8, 8, seed=1)))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_recorded_operations(estimator):
    """A graph of what a training step computes; the kernels, which write memory themselves, would not be in it."""
    net = network(estimator).requires_grad_(False)
    state = copy.deepcopy(net.state_dict())

    def forward(x):
        return functional_call(net, {k: v.clone() for k, v in state.items()}, (x,))

    x = random(5, 3, 8, 8)
    recorded = make_fx(forward)(x)
    torch.testing.assert_close(recorded(x + 1), forward(x + 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", [Stein(), SteinBlend(), RobustNorm()], ids=str)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_of_activations(estimator, reentrant):
    layer = ShrinkBatchNorm2d(3, estimator, momentum=0.0)
    twin, x, g = copy.deepcopy(layer), random(4, 3, 5, 5), random(4, 3, 5, 5, seed=1)
    found = train(nn.Sequential(layer).requires_grad_(), x, g)
    leaf = x.clone().requires_grad_()
    checkpoint(twin, leaf, use_reentrant=reentrant).backward(g)
    for ours, theirs in zip(found[1:], [leaf.grad, twin.weight.grad, twin.bias.grad], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("estimator", [BatchStatistics(), PriorBlend(16), SteinBlend()], ids=str)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("momentum", "joint"), [(0.1, True), (None, False)])
def test_checkpointing_with_running_statistics_that_moved_on(estimator, reentrant, momentum, joint):
    """Also where batches pile up before the backward passes."""
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(3)]
        net = convert(nn.ModuleList(blocks), estimator)
        losses = []
        for i in range(4):
            x = (random(4, 3, 6, 6, seed=i) * (i + 1)).requires_grad_()
            for block in net:
                block[1].momentum = momentum
                x = checkpoint(block, x, use_reentrant=reentrant) if checkpointed else block(x)
            losses.append(x.square().mean())
        for loss in [sum(losses)] if joint else losses:
            loss.backward()
        found.append([p.grad for p in net.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.long
@pytest.mark.parametrize(
    "estimator",
    [
        BatchStatistics(),
        pytest.param(PriorBlend(16), marks=pytest.mark.xfail(reason="docs/design.md, The passes", strict=True)),
    ],
    ids=str,
)
def test_checkpointing_of_compiled_layers(estimator):
    """What is compiled keeps nothing of its passes, so a prior is not what it was."""
    layer, twin = (ShrinkBatchNorm2d(3, estimator) for _ in range(2))
    torch.compiler.reset()
    compiled, found = torch.compile(twin, backend="aot_eager"), []
    for call in (layer, lambda x: checkpoint(compiled, x, use_reentrant=False)):
        x = (random(4, 3, 5, 5) * 3).requires_grad_()
        (call(x) * random(4, 3, 5, 5, seed=1)).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_a_batch_that_came_too_long_ago_is_refused():
    layer, x = ShrinkBatchNorm2d(3, PriorBlend(16)), random(4, 3, 5, 5).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    later = [checkpoint(layer, x.detach() + i + 1, use_reentrant=False) for i in range(again.RECALLED)]
    assert len(later) == len(layer._seen)
    with pytest.raises(RuntimeError, match=f"more than {again.RECALLED} checkpointed .*call backward sooner"):
        y.sum().backward()
    assert not copy.deepcopy(layer)._seen


def test_saved_tensors_can_be_kept_elsewhere():
    layer, x, g = ShrinkBatchNorm2d(3), random(4, 3, 5, 5), random(4, 3, 5, 5, seed=1)
    expected = train(copy.deepcopy(layer), x, g)
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t.clone(), lambda t: t):
        found = train(layer, x, g)
    assert sorted(seen) == [3, 3, 300]  # the input and vectors
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_an_input_changed_before_backward_is_an_error():
    layer, x = ShrinkBatchNorm2d(3), random(4, 3, 5, 5)
    y = layer(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_subclass_of_tensor():
    class Image(torch.Tensor):
        pass

    layer, x = ShrinkBatchNorm2d(3), random(4, 3, 5, 5)
    y = copy.deepcopy(layer)(x.as_subclass(Image))
    assert isinstance(y, Image)
    torch.testing.assert_close(y.as_subclass(torch.Tensor), layer(x))


def test_the_meta_device():
    layer = ShrinkBatchNorm2d(3, device="meta")
    assert layer(torch.empty(4, 3, 5, 5, device="meta")).shape == (4, 3, 5, 5)


def test_gradients_twice_from_one_graph():
    layer, x, g = ShrinkBatchNorm2d(3), random(4, 3, 5, 5).requires_grad_(), random(4, 3, 5, 5, seed=1)
    y = layer(x)
    (first,) = torch.autograd.grad(y, x, g, retain_graph=True)
    layer(random(4, 3, 5, 5, seed=2))  # updates the running statistics
    (second,) = torch.autograd.grad(y, x, g)
    np.testing.assert_array_equal(first, second)
