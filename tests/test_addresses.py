"""Tensors on their way to compiled code: what PyTorch notes beside the memory counts, and the memory stays its own."""

import ast
import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

import shrinkstats
from shrinkstats.estimators import BatchStatistics, MinMaxNorm, PriorBlend, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.utils._device import _device_constructors  # noqa: E402

from shrinkstats.adapters.attacks import PGD  # noqa: E402
from shrinkstats.adapters.torch import (  # noqa: E402
    ShrinkBatchNorm2d,
    adapt,
    addresses,
    calibrate,
    convert,
    grouped,
    shift_report,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def negated(v):
    """The same numbers, lazily negated: the memory holds their opposites."""
    v = torch.complex(torch.zeros_like(v), -v).conj().imag
    assert v.is_neg()
    return v


# --- lazy signs, zeros that are nowhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("of_what", ["x", "g", "weight", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lazily_negated_tensors_are_batch_norm(dtype, of_what):
    x, g, weight, bias = (random(*s, seed=i).to(dtype) for i, s in enumerate([(4, 6, 5, 3)] * 2 + [(6,)] * 2))
    ours, theirs = ShrinkBatchNorm2d(6, BatchStatistics(), dtype=dtype), nn.BatchNorm2d(6, dtype=dtype)
    results = []
    for layer, lies in ((ours, negated), (theirs, torch.clone)):
        at = {"x": x, "g": g, "weight": weight, "bias": bias}
        for name in at:
            at[name] = lies(at[name]) if of_what in (name, "all") else at[name]
        layer.weight, layer.bias = nn.Parameter(at["weight"]), nn.Parameter(at["bias"])
        leaf = at["x"].detach().requires_grad_()
        y = layer(leaf)
        y.backward(at["g"])
        results.append([y, leaf.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rule", [SteinBlend(), BatchStatistics(), RobustNorm()], ids=str)
@pytest.mark.parametrize("way", ["alone", "groups", "stream"])
def test_lazily_negated_images_in_an_adapted_layer(way, rule):
    if way == "stream" and rule == RobustNorm():
        return
    layer = calibrate(nn.BatchNorm2d(6).eval(), [random(16, 6, 4, 4)])
    x, outputs = random(4, 6, 5, 3) + 1, []
    for each in (x, negated(x)):
        adapt(layer, rule, memory=8 if way == "stream" else None)
        if way == "groups":
            with grouped(layer, 2):
                outputs.append(layer(each))
        else:
            outputs.append(layer(each))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("rule", [Stein(), RobustNorm()], ids=str)
def test_tensors_of_zeros_that_are_nowhere(rule):
    outputs = []
    for zeros in (torch.zeros, torch._efficientzerotensor):
        layer = ShrinkBatchNorm2d(6, rule)
        x = zeros((4, 6, 3, 3)).requires_grad_()
        y = layer(x)
        y.backward(zeros((4, 6, 3, 3)))
        outputs.append([y, x.grad, layer.weight.grad, layer.running_var])
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())  # NaN where a gradient has a power of 0


def test_a_sparse_gradient():
    layer, g = ShrinkBatchNorm2d(6), torch.zeros(4, 6, 3, 3)
    g[0, 1, 2, 0] = 2
    gradients = []
    for each in (g, g.to_sparse()):
        x = random(4, 6, 3, 3).requires_grad_()
        layer(x).backward(each)
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("convert_", [torch.Tensor.to_sparse, torch.Tensor.to_mkldnn])
def test_inputs_that_are_not_strided_are_refused(convert_):
    layer = adapt(calibrate(nn.BatchNorm2d(6).eval(), [random(16, 6, 4, 4)]))
    for each in (ShrinkBatchNorm2d(6), layer):
        before = copy.deepcopy(each.state_dict())
        with pytest.raises(TypeError, match=r"layout torch\.\w+; .* \.to_dense\(\)"):
            each(convert_(random(4, 6, 3, 3)))
        for name, value in before.items():
            assert torch.equal(each.state_dict()[name], value)


# --- NumPy's view --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_array_is_the_memory(dtype):
    x = random(3, 4, 5).to(dtype)
    for v in (x, x[:, 1:3], x.transpose(0, 2), x[::2, :, 1], x[:1].expand(3, 4, 5), x[0, 0, :1], x.sum(), x[:, :0]):
        assert np.array_equal(addresses.array(v), v.tolist()) or v.numel() == 0
        assert addresses.array(v).shape == tuple(v.shape)
    addresses.array(x.transpose(0, 2))[4, 3, 2] = 7
    assert x[2, 3, 4] == 7
    assert x.untyped_storage().resizable()


def test_the_array_keeps_the_memory():
    x = random(1000)
    expected, storage = x.tolist(), weakref.ref(x)
    v = addresses.array(x)
    del x
    gc.collect()
    assert storage() is None
    random(1000, seed=1)
    np.testing.assert_array_equal(v, np.float32(expected))


def test_an_address_of_numbers_that_are_not_there():
    for v in (negated(random(3)), torch._efficientzerotensor(3)):
        with pytest.raises(RuntimeError, match=r"shape \(3,\) has no numbers in memory"):
            addresses.address(v)
    assert addresses.address(torch.empty(0)) == 0


def test_nobody_else_asks_where_a_tensor_lies():
    """So that a lazy sign cannot be forgotten, and no storage is marked."""
    folder = Path(addresses.__file__).parent
    asked = {
        f"{path.name}: {node.attr}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("data_ptr", "numpy", "from_numpy", "__array__", "storage")
    }
    known = {"addresses.py: data_ptr", "addresses.py: from_numpy", "memory.py: data_ptr"}
    on_copies = {"shift.py: numpy", "streaming.py: numpy"}
    assert asked <= known | on_copies


# --- storages ------------------------------------------------------------------------------------------------------


def assert_resizable(model, *others):
    tensors = [*model.parameters(), *model.buffers(), *others]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    assert all(v.untyped_storage().resizable() for v in tensors)


@pytest.mark.parametrize("rule", [Stein(), SteinBlend(), RobustNorm()], ids=str)
def test_storages_stay_the_user_s(rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(24))
    x, g = random(8, 3, 4, 4).requires_grad_(), random(8, 24)
    kept = []
    net.register_forward_pre_hook(lambda _, inputs: kept.extend(inputs))
    for layer in (net[1], net[4]):
        layer.register_forward_pre_hook(lambda _, inputs: kept.extend(inputs))
        layer.register_forward_hook(lambda *values: kept.append(values[2]))
    convert(net, rule)
    net(x).backward(g)
    assert_resizable(net, x, x.grad, g, *kept)
    images = [v.detach().clone() for v in (x, x + 1)]
    calibrate(net, images)
    shift_report(net, images)
    assert_resizable(net, *images, *kept)
    for memory in (None, 8):
        if memory and rule == RobustNorm():
            continue
        adapt(net.eval(), rule if rule != Stein() else SteinBlend(), memory=memory)
        with torch.no_grad():
            net(images[0])
        x.grad = None
        net(x).backward(g)
        with grouped(net, 4), torch.no_grad():
            net(images[1])
        shift_report(net, images)
        assert_resizable(net, x, x.grad, g, *images, *kept)


MADE_BY_DEFAULT = {  # parameters, which are made where the user says, and a program of its own
    "adapters/attacks/standardized.py",
    "adapters/commands/digits",
    "adapters/models",
    "adapters/torch/abnn.py",
}


def test_every_tensor_is_made_on_a_device_that_is_named():
    """A default device is for the user's tensors: ours go where the layer or the images are."""
    names = {function.__name__ for function in _device_constructors()}
    root = Path(__file__).parent.parent
    unnamed = [
        f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}"
        for path in (*sorted((root / "adapters").rglob("*.py")), root / "shrinkstats/kernels/torch.py")
        if not any(path.is_relative_to(root / place) for place in MADE_BY_DEFAULT)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr in names) == ("torch", True)
        and not any(keyword.arg in ("device", None) for keyword in node.keywords)
    ]
    assert not unnamed


def everything(layer, x):
    """What layers and reports make of images on the CPU."""
    made = [layer.train()(x), layer(x.clone().requires_grad_()), layer(x.as_subclass(Seen))]
    made[1].sum().backward()
    made.append(shrinkstats.moments(x).mean)
    shrinkstats.normalize(x.clone().requires_grad_(), Stein(), axis=1).sum().backward()
    calibrate(layer, [x])
    report = shift_report(layer, [x])
    state = adapt(layer.eval(), memory=8).state_dict()
    made += [layer(x), layer(x.as_subclass(Seen))]
    layer.load_state_dict(state)
    for rule in (SteinBlend(), PriorBlend(4), Stein(), RobustNorm()):
        for memory in (None, 8) if rule != RobustNorm() else (None,):
            adapt(layer, rule, memory=memory)
            with grouped(layer, 2):
                made += [layer(x), layer(x.clone().requires_grad_())]
            made += [layer(x), layer(x.clone().requires_grad_()), layer(x.as_subclass(Seen))]
            made[-2].sum().backward()
    made.append(PGD(steps=1)(lambda x: layer(x).flatten(1).sum(1), x.sigmoid(), generator=torch.Generator()))
    return [*made, layer.running_mean, layer.running_var, layer.noise_sd], report.rows


class Seen(torch.Tensor):
    """What compiled passes leave alone."""


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("rule", [Stein(), SteinBlend(), MinMaxNorm()], ids=str)
def test_another_default_device_changes_nothing(rule, momentum):
    layer, x = ShrinkBatchNorm2d(3, rule, momentum=momentum), random(4, 3, 5, 5)
    twin = copy.deepcopy(layer)
    expected, rows = everything(layer, x)
    with torch.device("meta"):
        found, same = everything(twin, x)
    assert same == rows
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(torch.Tensor(a), torch.Tensor(b))
