"""convert and revert on networks."""

import copy
import io
import pickle
from functools import partial

import pytest

from shrinkstats.estimators import BatchStatistics, PriorBlend, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

from shrinkstats.adapters.torch import (  # noqa: E402
    ShrinkBatchNorm1d,
    ShrinkBatchNorm2d,
    ShrinkBatchNorm3d,
    adapt,
    adapted,
    calibrate,
    classes,
    convert,
    revert,
)
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm, ShrinkSyncBatchNorm  # noqa: E402


class Activated(nn.BatchNorm2d):
    """The usual subclass: something around super().forward."""

    def __init__(self, num_features, slope):
        super().__init__(num_features)
        self.act = nn.LeakyReLU(slope)

    def forward(self, input):
        return self.act(super().forward(input))


class Scaled(Activated):
    """A subclass of a subclass, in the old way of writing it."""

    def forward(self, input):
        return self._scaled(super(Scaled, self).forward(input))  # noqa: UP008

    def _scaled(self, x):
        return 2 * x


class Mixin:
    def forward(self, input):
        return super().forward(input) + 1


class Mixed(Mixin, nn.BatchNorm2d):
    pass


def _assert(condition, message):
    assert condition, message


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's of that name: batch norm written out, dropout, activation."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, apply_act=True, act_layer=nn.ReLU, drop_layer=None):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.drop = nn.Identity() if drop_layer is None else drop_layer()
        self.act = act_layer(inplace=True) if apply_act else nn.Identity()

    def forward(self, x):
        _assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        x = F.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            use_batch,
            factor,
            self.eps,
        )
        x = self.drop(x)
        x = self.act(x)
        return x


class SyncBatchNormAct(nn.SyncBatchNorm):
    """As timm's of that name."""

    def forward(self, x):
        x = super().forward(x)
        return self.act(x) if hasattr(self, "act") else x


class FrozenBatchNorm2d(nn.Module):
    """As torchvision's of that name: no batch norm for PyTorch, and constant."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(num_features))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(num_features))

    def forward(self, x):
        slope = (self.weight * (self.running_var + self.eps).rsqrt()).reshape(1, -1, 1, 1)
        return (x - self.running_mean.reshape(1, -1, 1, 1)) * slope + self.bias.reshape(1, -1, 1, 1)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


def network():
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(8)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), shared, nn.ReLU(), nn.Conv2d(8, 8, 3), shared,
        nn.AdaptiveAvgPool2d(2), nn.Unflatten(2, (1, 2)), nn.BatchNorm3d(8), nn.Flatten(), nn.BatchNorm1d(32),
    )  # fmt: skip
    net(torch.randn(16, 3, 10, 10))
    return net.eval()


@pytest.fixture
def images():
    return torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def test_there_and_back(images):
    net = network()
    before, classes = net(images), [type(m) for m in net.modules()]
    identities = [id(t) for t in (*net.modules(), *net.parameters(), *net.buffers())]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    assert convert(net, Stein()) is net
    assert identities == [id(t) for t in (*net.modules(), *net.parameters(), *net.buffers())]
    assert isinstance(net[1], ShrinkBatchNorm2d)
    assert isinstance(net[1], nn.BatchNorm2d)
    assert torch.equal(net(images), before)  # evaluation uses the running statistics, as it did
    net.train()(images).sum().backward()
    weight = net[1].weight.clone()
    optimizer.step()
    assert not torch.equal(net[1].weight, weight)

    net = network()
    revert(convert(net, Stein()))
    assert torch.equal(net(images), before)
    assert [type(m) for m in net.modules()] == classes
    assert vars(net[1]).keys() == vars(nn.BatchNorm2d(8)).keys()
    assert net[1]._buffers.keys() == nn.BatchNorm2d(8)._buffers.keys()


def test_converting_again_changes_the_estimator():
    net = convert(convert(network(), Stein()), RobustNorm())
    assert net[1].estimator == RobustNorm()
    assert "noise_mean" not in net.state_dict()


def test_converting_twice_is_converting_once():
    net = convert(nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3), nn.SyncBatchNorm(3)), Stein())
    kinds, attributes = [type(m) for m in net], [dict(vars(m)) for m in net]
    convert(net, Stein())
    assert [type(m) for m in net] == kinds
    assert [vars(m) for m in net] == attributes


def test_a_single_layer():
    assert isinstance(convert(nn.BatchNorm2d(4), Stein()), ShrinkBatchNorm2d)


def test_modes_and_frozen_parameters_stay():
    net = network().train()
    net[1].eval()
    net[1].weight.requires_grad_(False)
    convert(net, Stein())
    assert not net[1].training
    assert net[7].training
    assert not net[1].weight.requires_grad


def test_checkpoints_go_both_ways(images):
    vanilla = network()
    converted = convert(network(), Stein())
    converted.load_state_dict(vanilla.state_dict())
    network().load_state_dict(converted.state_dict())
    calibrate(converted, [images])
    fresh = convert(network(), Stein())
    fresh.load_state_dict(converted.state_dict())
    assert torch.equal(fresh[1].noise_sd, converted[1].noise_sd)
    fresh.load_state_dict(vanilla.state_dict())  # other weights: the calibration goes
    assert fresh[1].noise_mean is None


def test_copies_and_files(images):
    net = adapt(calibrate(network(), [images, images]))
    expected = net(images)
    assert torch.equal(copy.deepcopy(net)(images), expected)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = convert(network(), BatchStatistics())
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(adapt(loaded)(images), expected)


KINDS = {
    "1d": (partial(nn.BatchNorm1d, 3), (6, 3), ShrinkBatchNorm1d),
    "2d": (partial(nn.BatchNorm2d, 3), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "3d": (partial(nn.BatchNorm3d, 3), (6, 3, 2, 2, 2), ShrinkBatchNorm3d),
    "without bias": (partial(nn.BatchNorm2d, 3, bias=False), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "without parameters": (partial(nn.BatchNorm2d, 3, affine=False), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "without buffers": (partial(nn.BatchNorm2d, 3, track_running_stats=False), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "sync 2d": (partial(nn.SyncBatchNorm, 3), (6, 3), ShrinkSyncBatchNorm),
    "sync 5d": (partial(nn.SyncBatchNorm, 3), (6, 3, 2, 2, 2), ShrinkSyncBatchNorm),
    "lazy 1d": (nn.LazyBatchNorm1d, (6, 3), ShrinkBatchNorm),
    "lazy 2d": (nn.LazyBatchNorm2d, (6, 3, 4, 4), ShrinkBatchNorm),
    "lazy 3d": (partial(nn.LazyBatchNorm3d, affine=False), (6, 3, 2, 2, 2), ShrinkBatchNorm),
    "activated": (partial(Activated, 3, 0.3), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "scaled": (partial(Scaled, 3, 0.3), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "mixed": (partial(Mixed, 3), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "timm": (partial(BatchNormAct2d, 3), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "timm, dropping": (partial(BatchNormAct2d, 3, drop_layer=Doubled), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "timm, plain": (partial(BatchNormAct2d, 3, apply_act=False), (6, 3, 4, 4), ShrinkBatchNorm2d),
    "timm sync": (partial(SyncBatchNormAct, 3), (6, 3, 4, 4), ShrinkSyncBatchNorm),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batch_statistics_change_nothing_but_the_class(kind):
    make, shape, becomes = KINDS[kind]
    generator = torch.Generator().manual_seed(2)
    ours, theirs = make(), make()
    attributes = list(vars(theirs)), list(theirs._buffers)
    convert(ours, BatchStatistics())
    assert isinstance(ours, becomes)
    assert type(ours).__name__ == "Shrink" + type(theirs).__name__
    for _ in range(2):
        x = torch.randn(shape, generator=generator) + 1
        g = torch.randn(shape, generator=generator)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y1, y2 = ours(x1), theirs(x2)
        torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)
        y1.backward(g), y2.backward(g)
        torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
    assert isinstance(ours, becomes)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    revert(ours)
    assert type(ours) is type(theirs)
    if "lazy" not in kind:
        assert (list(vars(ours)), list(ours._buffers)) == attributes


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimator_is_used(kind):
    make, shape, _ = KINDS[kind]
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(3)) + 1
    expected = make()(x)
    assert not torch.allclose(convert(make(), RobustNorm())(x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [True, False], ids=["same process", "another process"])
def test_copies_and_pickles(kind, known, monkeypatch):
    make, shape, becomes = KINDS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    net = convert(nn.Sequential(make(), nn.Identity()), RobustNorm())
    copies = []
    if "lazy" not in kind:  # a lazy layer is pickled before its first pass; PyTorch cannot deepcopy it then
        net(x)
        copies.append(copy.deepcopy(net))
    files = io.BytesIO(), pickle.dumps(net)
    torch.save(net, files[0])
    files[0].seek(0)
    if not known:
        monkeypatch.setattr(classes, "_derived", {})
    copies += [torch.load(files[0], weights_only=False), pickle.loads(files[1])]
    expected = net(x)
    for other in copies:
        assert isinstance(other[0], becomes)
        assert other[0].estimator == RobustNorm()
        assert torch.equal(other(x), expected)
        torch.testing.assert_close(other.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert "Shrink" not in type(revert(copies[-1])[0]).__name__


def test_a_lazy_layer_waits_for_its_first_pass(images):
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(momentum=None))
    convert(net, Stein())
    assert net[1].has_uninitialized_params()
    assert type(revert(net)[1]) is nn.LazyBatchNorm2d
    convert(net, Stein())(images)
    assert type(net[1]) is ShrinkBatchNorm2d
    assert net[1].weight.shape == (4,)
    assert net[1].momentum is None
    assert net[1].estimator == Stein()
    assert type(revert(net)[1]) is nn.BatchNorm2d
    assert vars(net[1]).keys() == vars(nn.BatchNorm2d(4)).keys()
    lazy = convert(nn.Sequential(nn.LazyBatchNorm2d()), Stein())
    lazy.load_state_dict(nn.Sequential(nn.BatchNorm2d(3)).state_dict())
    assert type(lazy.eval()(images)) is torch.Tensor


def test_calibrating_lazy_layers(images):
    net = calibrate(nn.Sequential(nn.LazyBatchNorm2d()), [images])
    assert net[0].noise_mean.shape == (3,)


def test_groups(monkeypatch):
    mine, whole = object(), object()
    net = nn.Sequential(nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.SyncBatchNorm(3, process_group=mine))
    convert(net, Stein())
    assert [layer.process_group for layer in net] == [None, None, mine]
    monkeypatch.setattr(type(torch.distributed.group), "WORLD", whole)  # initialized after the conversion
    assert [layer.process_group for layer in net] == [None, whole, mine]
    convert(net, RobustNorm(), process_group=whole)
    assert [layer.process_group for layer in net] == [whole, whole, whole]
    convert(net, Stein())
    assert [layer.process_group for layer in net] == [whole, whole, whole]
    assert "process_group" not in vars(revert(net)[0])
    assert convert(nn.SyncBatchNorm(3, process_group=mine), Stein(), process_group=whole).process_group is whole
    assert revert(convert(nn.SyncBatchNorm(3, process_group=mine), Stein())).process_group is mine


def test_a_converted_sync_batch_norm_is_none_for_pytorch():
    assert not isinstance(convert(nn.SyncBatchNorm(3), Stein()), nn.SyncBatchNorm)  # refused by DDP on the CPU
    with pytest.raises(ValueError, match="at least 2D"):
        convert(nn.SyncBatchNorm(3), Stein())(torch.ones(3))


def test_frozen_batch_norm_is_left_alone():
    net = convert(nn.Sequential(FrozenBatchNorm2d(3), nn.BatchNorm2d(3)), Stein())
    assert type(net[0]) is FrozenBatchNorm2d
    with pytest.raises(ValueError, match="no batch norm layers"):
        convert(FrozenBatchNorm2d(3), Stein())


def test_device_and_dtype_stay():
    layer = convert(nn.BatchNorm2d(3, dtype=torch.float64), Stein())
    assert layer.weight.dtype == layer.running_var.dtype == torch.float64
    assert layer(torch.randn(4, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert convert(nn.BatchNorm2d(3, device="meta"), Stein()).weight.is_meta


@pytest.mark.parametrize("make", [partial(nn.BatchNorm2d, 3), partial(BatchNormAct2d, 3)], ids=["plain", "timm"])
def test_hooks_stay(make):
    seen = []
    net = nn.Sequential(make())
    layer = net[0]
    layer.register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    layer.register_forward_hook(lambda module, inputs, output: seen.append("after"))
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("backward"))
    layer.register_state_dict_post_hook(lambda module, state, prefix, metadata: seen.append("state"))
    layer.weight.register_hook(lambda grad: seen.append("weight"))
    convert(net, Stein())
    net(torch.randn(4, 3, 2, 2, requires_grad=True)).sum().backward()
    net.state_dict()
    assert sorted(seen) == ["after", "backward", "before", "state", "weight"]


@pytest.mark.parametrize("make", [partial(nn.BatchNorm2d, 3), partial(Activated, 3, 0.3)], ids=["plain", "activated"])
def test_parametrized_layers(make):
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    theirs = make()
    parametrize.register_parametrization(theirs, "weight", Doubled())
    with torch.no_grad():
        theirs.weight = torch.tensor([1.0, 2.0, 3.0])
    ours = convert(copy.deepcopy(theirs), BatchStatistics())
    assert isinstance(ours, ShrinkBatchNorm2d)
    assert parametrize.is_parametrized(ours, "weight")
    torch.testing.assert_close(copy.deepcopy(ours)(x), theirs(x))
    ours.zero_grad()
    ours(x).square().sum().backward()
    assert ours.parametrizations.weight.original.grad is not None

    reverted = revert(copy.deepcopy(ours))
    assert type(reverted).__name__ == type(theirs).__name__
    assert type(reverted).__bases__ == type(theirs).__bases__
    torch.testing.assert_close(copy.deepcopy(reverted)(x), theirs(x))
    for layer in (ours, reverted):  # either may be freed of its parametrization, or get another
        parametrize.register_parametrization(layer, "bias", Doubled())
        for name in ("bias", "weight"):
            parametrize.remove_parametrizations(layer, name)
        torch.testing.assert_close(layer(x), theirs(x))
    assert type(ours).__name__ == "Shrink" + make.func.__name__
    assert type(reverted) is type(revert(ours)) is make.func


def test_parametrized_after_the_conversion():
    layer = convert(nn.BatchNorm2d(3), Stein())
    parametrizations.spectral_norm(layer, "weight")
    convert(layer, RobustNorm())
    assert layer.estimator == RobustNorm()
    torch.testing.assert_close(layer.weight.norm(), torch.tensor(1.0))
    assert type(revert(layer)).__bases__ == (nn.BatchNorm2d,)
    assert layer(copy.deepcopy(layer)(torch.randn(4, 3, 2, 2))).shape == (4, 3, 2, 2)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_computed_by_hooks():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(6))
    layer = torch.nn.utils.weight_norm(nn.BatchNorm2d(3), "weight")
    expected = layer(x)
    torch.testing.assert_close(convert(layer, BatchStatistics())(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_networks(in_place, images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.BatchNorm2d(4))
    inner = copy.deepcopy(net)
    compiled = torch.compile(net, backend="eager")
    if in_place:
        net.compile(backend="eager")
        compiled = net
    before = compiled(images)
    torch.testing.assert_close(before, inner(images))
    assert convert(compiled, RobustNorm()) is compiled
    assert isinstance(net[1], ShrinkBatchNorm2d)
    after = compiled(images)
    torch.testing.assert_close(after, convert(inner, RobustNorm())(images))
    assert not torch.allclose(after, before, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(revert(compiled)(images), before, rtol=1e-4, atol=1e-5)
    assert [type(m) for m in net] == [nn.Conv2d, BatchNormAct2d, nn.BatchNorm2d]


def test_wrapped_networks(images):
    net = network()
    wrapped = nn.DataParallel(net)
    assert convert(wrapped, Stein()) is wrapped
    assert isinstance(net[1], ShrinkBatchNorm2d)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    torch.optim.swa_utils.update_bn([images], averaged)
    assert averaged.module[1].estimator == Stein()


def refused_layers():
    class WithoutSuper(nn.BatchNorm2d):
        def forward(self, input):
            return F.batch_norm(input, None, None, self.weight, self.bias, True) + 1

    class Unbound(nn.BatchNorm2d):
        def forward(self, input):
            return nn.BatchNorm2d.forward(self, input)

    class Sometimes(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) if self.training else self._own(input)

        def _own(self, input):
            return input - self.running_mean[:, None, None]

    class Below(WithoutSuper):
        def forward(self, input):
            return 2 * super().forward(input)

    class ActBeforeDrop(BatchNormAct2d):
        def forward(self, x):
            return self.drop(self.act(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)))

    class BelowCopied(BatchNormAct2d):
        def forward(self, x):
            return super().forward(x) + 1

    class Squeezed(BatchNormAct2d):
        def forward(self, x):
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
            x = self.drop(x)
            return self.squeeze(self.act(x))

    class Estimating(nn.BatchNorm2d):
        estimator = "its own"

    class Tracking(nn.BatchNorm2d):
        def _track(self):
            pass

    replaced = nn.BatchNorm2d(3)
    replaced.forward = lambda x: x
    kinds = (WithoutSuper, Unbound, Sometimes, Below, ActBeforeDrop, BelowCopied, Squeezed, Estimating, Tracking)
    return [kind(3) for kind in kinds] + [replaced]


@pytest.mark.parametrize("layer", refused_layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("call", [partial(convert, estimator=SteinBlend()), adapt, partial(calibrate, loader=[])])
def test_what_cannot_be_converted_is_named_and_nothing_changed(layer, call):
    kind, attributes = type(layer), dict(vars(layer))
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(layer))
    with pytest.raises(TypeError, match=rf"1\.0 \({kind.__module__}\.{kind.__qualname__}\): its? "):
        call(net)
    assert type(net[0]) is nn.BatchNorm2d
    assert (type(layer), vars(layer)) == (kind, attributes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_and_quantized_layers_are_named():
    scripted = nn.Sequential(nn.BatchNorm2d(3), torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))))
    with pytest.raises(TypeError, match=r"1\.0 .*torch\.jit"):
        convert(scripted, Stein())
    fused = torch.ao.nn.intrinsic.BNReLU2d(nn.BatchNorm2d(3), nn.ReLU())
    with pytest.raises(TypeError, match=r"the model itself \(torch.*BNReLU2d\): fused"):
        convert(fused, Stein())
    with pytest.raises(TypeError, match=r"quantized.*BatchNorm2d"):
        convert(nn.Sequential(torch.ao.nn.quantized.BatchNorm2d(3)), Stein())
    assert type(scripted[0]) is nn.BatchNorm2d
    convert(nn.Sequential(nn.BatchNorm2d(3), torch.jit.script(nn.ReLU())), Stein())  # which has no norm


@pytest.mark.parametrize("estimator", [Stein(), PriorBlend(3.0), SteinBlend()], ids=str)
def test_nothing_of_ours_is_left_after_training(estimator):
    """A reverted network is pickled without us, and `adapted` leaves layers that trained within it as they were."""
    x, expected = torch.randn(4, 3, 5, 5), set(vars(nn.BatchNorm2d(3)))
    net = convert(nn.Sequential(nn.BatchNorm2d(3)), estimator)
    net(x)
    assert set(vars(revert(net)[0])) == expected
    with adapted(net.eval(), PriorBlend(4)):
        convert(net, estimator)
        net.train()(x)
        net.eval()
    assert set(vars(net[0])) == expected


def test_a_subclass_of_ours_is_not_reverted():
    class Mine(ShrinkBatchNorm2d):
        pass

    net = convert(nn.Sequential(nn.BatchNorm2d(3), Mine(3)), RobustNorm())
    assert net[1].estimator == RobustNorm()
    with pytest.raises(TypeError, match=r"1 \(.*Mine\)"):
        revert(net)
    assert type(net[0]) is ShrinkBatchNorm2d


def test_errors():
    with pytest.raises(ValueError, match="no batch norm layers"):
        convert(nn.Linear(2, 2), Stein())
    with pytest.raises(TypeError, match="estimator"):
        convert(network(), "stein")
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        convert([1, 2], Stein())


# --- classes whose forward pass is their own: tried, not read ------------------------------------------------------


class AroundIt(nn.BatchNorm2d):
    """By another name than super: the call is what counts."""

    def forward(self, input):
        method = getattr(super(), "for" + "ward")
        return method(input).sigmoid()


class Elsewhere(nn.BatchNorm2d):
    """In words, super().forward; what it returns is the work of other code."""

    def forward(self, input):
        if input.ndim == 3:
            return super().forward(input)
        return normalized_elsewhere(self, input)


def normalized_elsewhere(layer, x):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.training)


class Forgetting(nn.BatchNorm2d):
    """Calls super().forward for the running statistics, and normalizes itself."""

    def forward(self, input):
        super().forward(input)
        return normalized_elsewhere(self, input)


class Twice(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(super().forward(input))


class Conditional(nn.BatchNorm2d):
    def forward(self, input, labels):
        return super().forward(input) * labels


class Unweighted(BatchNormAct2d):
    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, self.momentum, self.eps)
        return self.act(self.drop(x))


class ChannelsLast(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Dropping(nn.BatchNorm2d):
    def forward(self, input):
        return F.normalize(F.dropout(super().forward(input), 0.5, self.training))


class Awkward(nn.BatchNorm2d):
    """Counts its passes, is hooked, cannot be copied as a whole, and draws random numbers."""

    passes = 0

    def forward(self, input):
        self.passes += 1
        return super().forward(input + torch.rand(())) + 0 * torch.rand(())


@pytest.mark.parametrize("kind", [AroundIt, ChannelsLast, Dropping, Awkward, Activated, Mixed])
def test_a_class_that_calls_ours_is_converted(kind):
    layer = kind(3, 0.3) if kind is Activated else kind(3)
    x = torch.randn(6, 4, 4, 3) if kind is ChannelsLast else torch.randn(6, 3, 4, 4)
    twin = convert(copy.deepcopy(layer), BatchStatistics())
    for training in (True, False):
        torch.manual_seed(0)
        expected = layer.train(training)(x)
        torch.manual_seed(0)
        torch.testing.assert_close(twin.train(training)(x), expected, rtol=1e-5, atol=1e-5)
    assert type(revert(twin)) is kind


REFUSED = {
    Elsewhere: "does not leave the normalization",
    Forgetting: "does not leave the normalization",
    Twice: "does not leave the normalization",
    Unweighted: "does not leave the normalization",
    Conditional: "fails on a small trial input.*labels",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_class_that_does_not_is_refused(kind):
    with pytest.raises(TypeError, match=rf"1 .*{kind.__name__}.*{REFUSED[kind]}.*exclude"):
        convert(nn.Sequential(nn.BatchNorm2d(3), kind(3)), Stein())


def test_a_lazy_layer_with_a_forward_of_its_own_is_run_first():
    class Lazy(nn.LazyBatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(TypeError, match="run the network once before"):
        convert(Lazy(), Stein())


@pytest.mark.parametrize("kind", [Awkward, BatchNormAct2d, Dropping, Forgetting])
def test_a_trial_leaves_no_trace(kind):
    layer = kind(3)
    layer.register_forward_pre_hook(lambda *_: pytest.fail("a hook was called"))
    layer.register_state_dict_post_hook(lambda *_: pytest.fail("a hook was called"))
    layer.weight.grad = torch.ones(3)
    before = {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(layer).items()}
    values = [v.clone() for v in (*layer.parameters(), *layer.buffers())]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    classes.refusal(layer)
    assert torch.equal(torch.rand(3), expected)
    assert vars(layer) == before
    assert all(torch.equal(a, b) for a, b in zip((*layer.parameters(), *layer.buffers()), values, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("where", ["meta", "half", "weights by hooks", "frozen", "no statistics"])
def test_layers_in_any_state_are_tried(where):
    layer = BatchNormAct2d(3)
    if where == "meta":
        layer.to("meta")
    elif where == "half":
        layer.half()
    elif where == "weights by hooks":
        layer = torch.nn.utils.weight_norm(layer, "weight")
        layer(torch.randn(2, 3, 4, 4))
    elif where == "frozen":
        layer.eval().requires_grad_(False)
    else:
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        layer.track_running_stats = False
    assert isinstance(convert(layer, Stein()), ShrinkBatchNorm2d)


def test_synchronizing_a_converted_network_is_an_error():
    """It would make new layers, and the rule would be lost without a word."""
    net = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), Stein())
    with pytest.raises(TypeError, match="process_group"):
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert type(net[1]) is ShrinkBatchNorm2d
    assert net[1].affine is True
    assert "affine=True" in repr(net[1])
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(revert(net))
    assert type(synchronized[1]) is nn.SyncBatchNorm
    with pytest.raises(TypeError, match="process_group"):
        nn.SyncBatchNorm.convert_sync_batchnorm(convert(synchronized, Stein()))
    assert ShrinkBatchNorm2d(3, affine=False).affine is False


def test_code_that_reads_affine():
    layer = ShrinkBatchNorm2d(3)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) if self.layer.affine else x

    net, x = Reader().eval(), torch.randn(4, 3, 5, 5)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))
    torch.testing.assert_close(torch.export.export(net, (x,), strict=True).module()(x), net(x))
    del layer.affine
    assert not hasattr(layer, "affine")
    for change in (lambda: layer.affine, lambda: delattr(layer, "affine")):
        with pytest.raises(AttributeError, match="affine"):
            change()
    layer.affine = False
    assert layer.affine is False
