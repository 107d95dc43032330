"""Adaptive batch normalization networks against their formula, and what they cost."""

import copy
import itertools
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from shrinkstats.adapters.models import resnet20  # noqa: E402
from shrinkstats.adapters.torch import AdaptiveBatchNormNetwork, abnn, convert, revert  # noqa: E402
from shrinkstats.estimators import BatchStatistics, JSNorm, RobustNorm, Stein  # noqa: E402
from shrinkstats.theory import training_passes  # noqa: E402


def network(*widths, seed=0, inputs=3, **options):
    """Convolution, batch norm and ReLU for every width; running statistics and affine parameters are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for width in widths:
        norm = nn.BatchNorm2d(width, **options)
        layers += [nn.Conv2d(inputs, width, 3, padding=1), norm, nn.ReLU()]
        inputs = width
    net = nn.Sequential(*layers).double()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.1)
    for layer in net[::3]:
        layer.weight.data.sub_(0.6)
    return net


def images(n=4, seed=1):
    return torch.randn(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def along(vector):
    return vector[:, None, None]


def by_hand(model, x, training):
    """The formula, for two networks of `network`: a loop over their layers side by side."""
    y, s = x, x
    layers = list(
        zip(model.target[::3], model.target[1::3], model.substitute[::3], model.substitute[1::3], strict=True)
    )
    for i, (conv, norm, their_conv, their_norm) in enumerate(layers):
        y, s = conv(y), their_conv(s)
        sd = (s.var((0, 2, 3), unbiased=False) + their_norm.eps).sqrt()
        mean = s.mean((0, 2, 3))
        if training:
            center, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        else:
            center, var = norm.running_mean, norm.running_var
        white = (y - along(center)) / along((var + norm.eps).sqrt())
        y = torch.relu(along(model.scales[i](sd)) * white + along(model.shifts[i](mean)))
        s = (s - along(their_norm.running_mean)) / along((their_norm.running_var + their_norm.eps).sqrt())
        s = torch.relu(along(their_norm.weight) * s + along(their_norm.bias))
    return y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(4, 6), (6, 3)], ids=str)
def test_the_formula(training, widths):
    model = AdaptiveBatchNormNetwork(network(4, 6), network(*widths, seed=1)).train(training)
    for maps in (model.scales, model.shifts):
        for linear in maps:
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight), nn.init.normal_(linear.bias)
    expected = by_hand(model, images(), training)
    torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-10)


def test_a_copy_as_substitute_undoes_batch_norm():
    """Whitening and the same network's own statistics cancel: what is left has no batch norm at all."""
    target = network(4, 6, 3)
    bare = nn.Sequential(*(layer for layer in copy.deepcopy(target) if not isinstance(layer, nn.BatchNorm2d)))
    substitute = copy.deepcopy(target)
    for norm in substitute[1::3]:  # so that the substitute's own batch norm does nothing either
        norm.running_mean.zero_(), norm.running_var.fill_(1 - norm.eps)
        nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
    model = AdaptiveBatchNormNetwork(target, substitute)
    torch.testing.assert_close(model(images()), bare(images()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("norm", "shape"), [
    (nn.BatchNorm1d, (4, 3)), (nn.BatchNorm1d, (4, 3, 5)), (nn.BatchNorm2d, (4, 3, 5, 5)),
    (nn.BatchNorm3d, (4, 3, 2, 2, 2)),
])  # fmt: skip
def test_in_every_dimension_the_statistics_become_the_substitute_s(norm, shape):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    double = nn.Identity()
    double.register_forward_hook(lambda module, inputs, output: 2 * output + 1)
    model = AdaptiveBatchNormNetwork(nn.Sequential(norm(3)).double(), nn.Sequential(double, norm(3)).double())
    axes = [axis for axis in range(x.ndim) if axis != 1]
    y, s = model(x), 2 * x + 1
    torch.testing.assert_close(y.mean(axes), s.mean(axes))
    torch.testing.assert_close(y.var(axes, unbiased=False), s.var(axes, unbiased=False), rtol=1e-4, atol=0)


@given(st.integers(1, 60), st.integers(1, 60))
def test_layers_are_paired_in_order_and_evenly(ours, theirs):
    found = abnn._spread(ours, theirs)
    assert len(found) == ours
    assert found[0] == 0
    assert found[-1] == (theirs - 1 if ours > 1 else 0)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert not steps or (min(steps) >= 0 and max(steps) - min(steps) <= 1)
    assert all(abs(2 * j * (ours - 1) - 2 * i * (theirs - 1)) <= ours - 1 for i, j in enumerate(found))  # the nearest
    if ours == theirs:
        assert found == list(range(ours))


def test_pairs_of_networks_of_different_depth():
    model = AdaptiveBatchNormNetwork(network(4, 4, 4), network(4, 4, 4, 4, 4))
    assert model.pairs == [("1", "1"), ("4", "7"), ("7", "13")]
    model = AdaptiveBatchNormNetwork(network(4, 4, 4), network(4))
    assert model.pairs == [("1", "1"), ("4", "1"), ("7", "1")]
    assert model(images()).shape == (4, 4, 5, 5)


def test_where_channels_differ_a_linear_map_is_learned_which_begins_with_real_channels():
    model = AdaptiveBatchNormNetwork(network(4, 6, 2), network(4, 3, 6))
    assert [type(m) for m in model.scales] == [type(m) for m in model.shifts] == [nn.Identity, nn.Linear, nn.Linear]
    statistics = torch.arange(6.0, dtype=torch.float64)
    assert model.scales[1](statistics[:3]).tolist() == [0, 0, 1, 1, 2, 2]
    assert model.shifts[2](statistics).tolist() == [0, 3]
    model(images()).pow(2).sum().backward()
    for linear in (*model.scales[1:], *model.shifts[1:]):
        assert linear.weight.grad.abs().sum() > 0


def passes(model, x):
    """How often the first convolutions of target and substitute are passed, forward and backward."""
    counts = {"target forward": 0, "target backward": 0, "substitute forward": 0, "substitute backward": 0}

    def count(role, output):
        counts[f"{role} forward"] += 1
        if output.requires_grad:
            output.register_hook(lambda g: counts.update({f"{role} backward": counts[f"{role} backward"] + 1}))

    for role in ("target", "substitute"):
        getattr(model, role)[0].register_forward_hook(lambda module, inputs, output, role=role: count(role, output))
    model(x).pow(2).mean().backward()
    return counts


def test_training_costs_three_passes():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8))
    counts = passes(model, images())
    assert counts == {"target forward": 1, "target backward": 1, "substitute forward": 1, "substitute backward": 0}
    assert sum(counts.values()) == training_passes("ABNN")


def test_an_attack_that_knows_the_defence_goes_through_both_networks():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8)).eval()
    x = images().requires_grad_()
    assert set(passes(model, x).values()) == {1}
    knowing = x.grad.clone()
    x.grad = None
    model._statistics = lambda x: {
        k: (m.detach(), s.detach()) for k, (m, s) in type(model)._statistics(model, x).items()
    }
    model(x).pow(2).mean().backward()
    assert (knowing - x.grad).abs().max() > 0.1 * knowing.abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_gradients(training):
    model = AdaptiveBatchNormNetwork(network(2, 3), network(3, 2, seed=1)).train(training)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)

    def forward(x, *values):
        return torch.func.functional_call(copy.deepcopy(model), dict(zip(names, values, strict=True)), (x,))

    # Smooth activations: finite differences do not step over a kink.
    for part in (model.target, model.substitute):
        part[2], part[5] = nn.Softplus(), nn.Softplus()
    assert torch.autograd.gradcheck(forward, (images(2)[..., :3, :3].requires_grad_(), *parameters))


def test_the_substitute_is_frozen_and_stays_in_evaluation():
    substitute = network(4, 8)
    substitute.append(nn.Dropout(0.5))
    before = copy.deepcopy(substitute.state_dict())
    model = AdaptiveBatchNormNetwork(network(4, 6), substitute)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        model.train()
        assert model.target.training
        assert not any(module.training for module in substitute.modules())
        optimizer.zero_grad()
        model(images()).pow(2).mean().backward()
        optimizer.step()
    for name, value in substitute.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(p.requires_grad for p in substitute.parameters())


def test_the_affine_parameters_are_gone():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8))
    parameters = {name for name, p in model.named_parameters() if p.requires_grad}
    maps = {f"{kind}.1.{name}" for kind in ("scales", "shifts") for name in ("weight", "bias")}
    assert parameters == {f"target.{i}.{name}" for i in (0, 3) for name in ("weight", "bias")} | maps
    assert not {"target.1.weight", "target.4.bias"} & model.state_dict().keys()
    assert {"target.1.running_mean", "substitute.1.weight"} <= model.state_dict().keys()


def test_layers_without_affine_parameters_get_scale_and_shift_too():
    plain, bare = (AdaptiveBatchNormNetwork(network(4, 6, affine=a), network(4, 6, seed=1)) for a in (True, False))
    bare.target.load_state_dict(plain.target.state_dict())
    torch.testing.assert_close(bare(images()), plain(images()))


def test_state_dict_round_trip(tmp_path):
    model, other = (AdaptiveBatchNormNetwork(network(4, 6, seed=s), network(4, 8, seed=s + 1)) for s in (0, 5))
    for linear in (model.scales[1], model.shifts[1]):
        nn.init.normal_(linear.weight)
    model(images())
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.eval()(images()), model.eval()(images()))


def test_copies_are_independent():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8))
    model(images()).sum().backward()
    expected = copy.deepcopy(model).eval()(images())
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for other in copies:
        assert torch.equal(other.eval()(images()), expected)


@pytest.mark.parametrize("estimator", [BatchStatistics(), Stein(), JSNorm(), RobustNorm()], ids=str)
def test_converted_layers(estimator):
    """Converted before or after, and whichever whitens: the statistics of the substitute scale it."""
    before = AdaptiveBatchNormNetwork(convert(network(4, 6), estimator), convert(network(4, 8), Stein()))
    after = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8))
    convert(after.target, estimator)
    y = before(images())
    torch.testing.assert_close(after(images()), y, rtol=1e-10, atol=1e-10)
    plain = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8))(images())
    assert torch.allclose(y, plain, rtol=1e-6, atol=1e-6) == (estimator == BatchStatistics())
    revert(after.target)
    torch.testing.assert_close(after(images()), plain, rtol=1e-10, atol=1e-10)


def test_an_error_on_the_way_leaves_nothing_behind():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 6, seed=1))
    expected = copy.deepcopy(model)(images())
    hook = model.target[5].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images())
    hook.remove()
    for norm in model.target[1::3]:
        assert norm.weight.eq(1).all()
        assert not norm.weight.requires_grad
    assert not model.substitute[1]._forward_pre_hooks
    assert torch.equal(model(images()), expected)


def test_half_precision():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 8)).float()
    expected = copy.deepcopy(model)(images().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(images().float())
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
    y = model.to(torch.bfloat16)(images().bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


def test_a_residual_network_learns():
    torch.manual_seed(0)
    x, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    substitute = nn.Sequential(nn.Upsample(scale_factor=0.5), resnet20())
    for _ in range(20):  # running statistics, which trained networks have
        substitute(x)
    model = AdaptiveBatchNormNetwork(resnet20(), substitute)
    assert len(model.pairs) == 19
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def shared():
    net = network(4)
    return net, nn.Sequential(net)


class HalfUsed(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: (network(4), "resnet"), TypeError, "substitute must be a torch.nn.Module, got str"),
    (lambda: (nn.Sequential(nn.GroupNorm(1, 4)), network(4)), ValueError, r"target \(Sequential\) has no batch norm"),
    (lambda: (network(4), nn.Conv2d(3, 4, 3)), ValueError, r"substitute \(Conv2d\) has no batch norm"),
    (lambda: (nn.Sequential(nn.LazyBatchNorm2d()), network(4)), ValueError, "0 of the target is lazy"),
    (lambda: (nn.Sequential(nn.LazyBatchNorm2d(affine=False)), network(4)), ValueError, "0 of the target is lazy"),
    (shared, ValueError, "share layers"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_networks_that_cannot_be_paired(make, error, message):
    target, substitute = make()
    before = list(target.state_dict())
    with pytest.raises(error, match=message):
        AdaptiveBatchNormNetwork(target, substitute)
    assert list(target.state_dict()) == before
    if isinstance(substitute, nn.Module):
        assert all(p.requires_grad for p in substitute.parameters())


def test_a_parametrized_layer_is_refused():
    target = network(4)
    parametrizations.weight_norm(target[1], dim=None)
    with pytest.raises(ValueError, match=r"layer 1 of the target is parametrized; use remove_parametrizations"):
        AdaptiveBatchNormNetwork(target, network(4))


def test_a_substitute_that_does_not_run_its_layers():
    model = AdaptiveBatchNormNetwork(network(4, 6), HalfUsed(*network(4, 6)))
    with pytest.raises(ValueError, match="layers 4 of the substitute did not run"):
        model(images())


@torch.no_grad()
def test_threads_share_a_network():
    model = AdaptiveBatchNormNetwork(network(4, 6), network(4, 6)).eval()
    batches = [images() * (k + 1) + k for k in range(4)] * 15
    expected = [model(x) for x in batches]
    before = copy.deepcopy([vars(m)["_buffers"] for m in model.modules()])
    with ThreadPoolExecutor(4) as pool:
        for found, y in zip(pool.map(torch.no_grad()(model), batches), expected, strict=True):
            torch.testing.assert_close(found, y)
    after = [vars(m)["_buffers"] for m in model.modules()]
    torch.testing.assert_close(before, after)


def computed(layer, how):
    if how == "pruned":
        prune.identity(layer, "weight")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch has a newer one, which is refused too
            nn.utils.weight_norm(layer)


@pytest.mark.parametrize("how", ["pruned", "weight norm"])
def test_layers_that_compute_their_scale_are_refused(how):
    target, substitute = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    computed(target[1], how)
    before = dict(target.named_parameters())
    with pytest.raises(ValueError, match=r"layer 1 of the target computes its weight anew.*prune.remove"):
        AdaptiveBatchNormNetwork(target, substitute)
    assert dict(target.named_parameters()).keys() == before.keys()
    assert all(p.requires_grad for p in substitute.parameters())
    AdaptiveBatchNormNetwork(substitute, target)(torch.randn(2, 3, 6, 6))  # nobody sets the scale of a substitute


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_inside_the_target_are_refused(reentrant):
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=reentrant)

    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    net = AdaptiveBatchNormNetwork(Checkpointed(*parts), copy.deepcopy(nn.Sequential(*parts)))
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="put the activation checkpoint around the AdaptiveBatchNormNetwork"):
        net(x).sum().backward()
    plain = AdaptiveBatchNormNetwork(nn.Sequential(*copy.deepcopy(parts)), copy.deepcopy(net.substitute))
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (found,) = torch.autograd.grad(checkpoint(plain, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_made_without_memory_and_loaded():
    def build():
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        return AdaptiveBatchNormNetwork(net, copy.deepcopy(net))

    net, x = build(), torch.randn(4, 3, 6, 6)
    with torch.device("meta"):
        empty = build()
    empty.load_state_dict(net.state_dict(), assign=True)
    assert torch.equal(empty(x), net(x))


def test_a_substitute_that_names_its_input():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(input=x)

    target = nn.Sequential(nn.BatchNorm2d(3))
    x = torch.randn(4, 3, 6, 6)
    named = AdaptiveBatchNormNetwork(copy.deepcopy(target), Named())(x)
    assert torch.equal(named, AdaptiveBatchNormNetwork(target, nn.Sequential(nn.BatchNorm2d(3)))(x))
