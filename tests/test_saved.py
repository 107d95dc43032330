"""A calibrated, adapted network comes back from its state dict, whatever the file."""

import copy
import io
import json
from dataclasses import dataclass

import pytest

from shrinkstats import Statistics
from shrinkstats.estimators import (
    BatchStatistics,
    Estimator,
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

from safetensors.torch import load, save  # noqa: E402
from torch import nn  # noqa: E402
from torch.func import functional_call  # noqa: E402

from shrinkstats import estimators  # noqa: E402
from shrinkstats.adapters.torch import adapt, calibrate, convert, grouped, reset, saved  # noqa: E402
from shrinkstats.adapters.torch.streaming import Streaming  # noqa: E402

RULES = [
    BatchStatistics(), JSNorm(), Lasso(0.25), MinMaxNorm(), PriorBlend(16), PriorBlend(float("inf")), Ridge(0.1),
    RobustNorm(0.3), Stein(), Stein(mean=None, var="channel"), SteinBlend(0.1 + 0.2),
]  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


def images(n=8):
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FILES = {"memory": dict, "torch": through_torch, "safetensors": lambda state: load(save(state))}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("memory", [None, 12])
def test_the_rule_comes_back(file, memory):
    net = adapt(calibrate(network(), [images()]), SteinBlend(1.5), memory=memory)
    state = FILES[file](net.state_dict())
    fresh = convert(network(), BatchStatistics())
    assert not fresh.load_state_dict(state, strict=True).missing_keys
    assert repr(fresh[1].adaptation) == repr(net[1].adaptation)
    if memory:
        assert isinstance(fresh[1].adaptation, Streaming)
        assert fresh[1].adaptation.layer is fresh[1]
    assert torch.equal(fresh(images(3) + 1), net(images(3) + 1))
    other = adapt(network(), PriorBlend(4))
    other.load_state_dict(state, strict=True)
    assert repr(other[1].adaptation) == repr(net[1].adaptation)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_is_written_and_read(rule):
    layer = convert(nn.BatchNorm2d(3), BatchStatistics())
    layer.adaptation = rule
    assert saved.read(saved.written(layer), layer) == (rule, 1, None)


def test_every_rule_there_is_is_known():
    assert set(saved.RULES) == set(estimators.__all__) - {"Estimator"} == {type(rule).__name__ for rule in RULES}


def test_keys_are_pytorch_s_but_for_what_there_is_to_say():
    plain, net = network(), convert(network(), Stein())
    keys = list(plain.state_dict())
    assert list(net.state_dict()) == keys
    adapt(net, PriorBlend(4))
    assert set(net.state_dict()) - set(keys) == {"1._extra_state"}
    assert net.state_dict()["1._extra_state"].dtype == torch.uint8
    net.load_state_dict(plain.state_dict(), strict=True)  # says nothing of a rule: it stays
    assert net[1].adaptation == PriorBlend(4)
    assert list(reset(net).state_dict()) == keys
    plain.load_state_dict(net.state_dict(), strict=True)


def test_a_state_dict_for_functions_and_meta_devices():
    net = adapt(network(), PriorBlend(4))
    x = images()
    torch.testing.assert_close(functional_call(net, net.state_dict(), (x,)), net(x))
    with torch.device("meta"):
        empty = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), BatchStatistics()).eval()
    empty.load_state_dict(net.state_dict(), assign=True)
    torch.testing.assert_close(empty(x), net(x))


@dataclass(frozen=True)
class Own(Estimator):
    def statistics(self, moments, prior):
        return Statistics(moments.mean, moments.var())


def test_a_rule_of_one_s_own_is_named():
    net = adapt(network(), Own())
    state = net.state_dict()
    with pytest.warns(UserWarning, match=r"layer 1 was adapted by test_saved\.Own, .* call adapt again"):
        (fresh := convert(network(), Stein())).load_state_dict(state)
    assert fresh[1].adaptation is None
    adapt(fresh, Own()).load_state_dict(state)
    assert fresh[1].adaptation == Own()


def text(content):
    return torch.tensor(list(content.encode()), dtype=torch.uint8)


DAMAGED = {
    "no tensor": {"adaptation": {"estimator": "JSNorm"}},
    "no bytes": torch.ones(3),
    "no JSON": text("{"),
    "not UTF-8": torch.full((4,), 255, dtype=torch.uint8),
    "too long": text(json.dumps({"image_rows": 1}) + " " * 5000),
    "nested": text("[" * 4000),
    "a list": text("[]"),
    "something else": text('{"code": "print()"}'),
    "no rows": text('{"image_rows": 0}'),
    "true rows": text('{"image_rows": true}'),
    "no name": text('{"adaptation": {"kappa": 1}}'),
    "a list for a name": text('{"adaptation": {"estimator": []}}'),
    "a number for a rule": text('{"adaptation": 3}'),
    "unknown option": text('{"adaptation": {"estimator": "SteinBlend", "strength": 1}}'),
    "bad option": text('{"adaptation": {"estimator": "SteinBlend", "kappa": -1}}'),
    "a word for a number": text('{"adaptation": {"estimator": "SteinBlend", "kappa": "1"}}'),
    "a list for a number": text('{"adaptation": {"estimator": "SteinBlend", "kappa": [1]}}'),
    "bad memory": text('{"adaptation": {"estimator": "SteinBlend", "memory": 0}}'),
    "memory of extremes": text('{"adaptation": {"estimator": "RobustNorm", "memory": 5}}'),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_damaged_is_refused(kind):
    net = convert(network(), Stein())
    state = {**net.state_dict(), "1._extra_state": DAMAGED[kind]}
    with pytest.raises(RuntimeError, match=r"1\._extra_state: damaged, or not from shrinkstats"):
        net.load_state_dict(state)
    assert net[1].adaptation is None


def test_a_layer_with_an_extra_state_of_its_own_is_refused():
    class Counting(nn.BatchNorm2d):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(TypeError, match="extra state of its own"):
        convert(Counting(3), Stein())


@pytest.mark.parametrize("damage", ["width", "negative", "missing"])
def test_a_calibration_that_is_refused_leaves_the_rule_as_it_was(damage):
    state = adapt(calibrate(network().eval(), [images()])).state_dict()
    if damage == "width":
        state["1.noise_mean"] = torch.ones(3)
    elif damage == "negative":
        state["1.noise_sd"] = -state["1.noise_sd"]
    else:
        del state["1.noise_sd"]
    net = calibrate(network().eval(), [images() + 1])
    before = net[1].noise_mean.clone()
    with pytest.raises(RuntimeError, match="noise_"):
        net.load_state_dict(state)
    assert net[1].adaptation is None
    assert torch.equal(net[1].noise_mean, before)


CASTS = {
    "float": torch.Tensor.float,
    "double": torch.Tensor.double,
    "half": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "long": torch.Tensor.long,
    "average": lambda v: (v + v) / 2,
    "moving average": lambda v: 0.9 * v + 0.1 * v,
}


@pytest.mark.parametrize("cast", CASTS)
def test_the_rule_survives_a_cast_and_an_average(cast):
    net = adapt(calibrate(network(), [images()]), SteinBlend(1.5), memory=12)
    state = {k: CASTS[cast](v) if k.endswith("_extra_state") else v for k, v in net.state_dict().items()}
    fresh = convert(network(), BatchStatistics())
    fresh.load_state_dict(state)
    assert repr(fresh[1].adaptation) == repr(net[1].adaptation)


@pytest.mark.parametrize("value", [-1.0, 256.0, 123.5, float("nan"), float("inf"), 1j])
def test_numbers_that_are_no_bytes_are_refused(value):
    net = adapt(network(), PriorBlend(4))
    state = net.state_dict()
    state["1._extra_state"] = torch.cat([state["1._extra_state"].double()[:-1], torch.tensor([value])])
    with pytest.raises(RuntimeError, match=r"1\._extra_state: damaged, or not from shrinkstats"):
        net.load_state_dict(state)


def faint(dtype):
    """A network with a channel that hardly varied in training: what others vary by is far beyond half precision."""
    net = network()
    net[1].running_var[1:3] = 1e-7
    return net.to(dtype)


@pytest.mark.parametrize("cast", ["before", "after"])
@pytest.mark.parametrize("memory", [None, 12])
def test_noise_beyond_half_precision(cast, memory):
    """It is infinite there, and the batch says nothing of these channels."""
    dtype = torch.half if cast == "before" else torch.float
    net = calibrate(faint(dtype), [images(64).to(dtype)]).half()
    assert net[1].noise_sd.isinf().any()
    fresh = convert(faint(torch.half), BatchStatistics())
    fresh.load_state_dict(adapt(net, memory=memory).state_dict())
    assert torch.equal(fresh[1].noise_sd, net[1].noise_sd)
    for n in (1, 3, 8):
        x = (images(n) * 1.5 + 1).half().requires_grad_()
        y = net(x)
        assert y.isfinite().all()
        (y.float() * torch.linspace(-0.01, 0.01, y.numel()).view_as(y)).sum().backward()
        assert x.grad.isfinite().all()
        with torch.no_grad():
            torch.testing.assert_close(net(x), fresh(x)) if memory is None else fresh(x)
    if memory is None:
        with grouped(net, 2), torch.no_grad():
            assert net(x).isfinite().all()


@pytest.mark.parametrize("name", ["noise_mean", "noise_sd", "noise_sd_bias"])
@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 64))])
def test_infinite_noise_is_the_prior(name, n):
    net = adapt(calibrate(network(), [images(64)]))
    x = images(n) + 1
    getattr(net[1], name).fill_(float("inf"))
    y, plain = net(x), reset(copy.deepcopy(net))(x)
    (sd, mean), (sd_plain, mean_plain) = (torch.std_mean(v, (0, 2, 3)) for v in (y, plain))
    if name == "noise_mean":
        torch.testing.assert_close(mean / sd, mean_plain / sd_plain)
    else:
        torch.testing.assert_close(sd, sd_plain)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), y)


@pytest.mark.parametrize("name", ["noise_mean", "noise_sd", "noise_sd_bias"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_noise_that_nothing_can_have_is_not_loaded(name, value):
    net = calibrate(network(), [images()])
    state = net.state_dict() | {f"1.{name}": torch.full_like(getattr(net[1], name), value)}
    with pytest.raises(RuntimeError, match=f"{name} should hold"):
        net.load_state_dict(state)


@pytest.mark.parametrize("assign", [True, False])
def test_a_calibrated_layer_whose_statistics_were_taken_out(assign):
    net = calibrate(network(), [images()])
    net[1].track_running_stats, net[1].running_mean, net[1].running_var = False, None, None
    state = {k: v.clone() for k, v in net.state_dict().items()}
    noise = net[1].noise_mean.clone()
    net[1].noise_mean.zero_()
    net.load_state_dict(state, assign=assign)
    assert torch.equal(net[1].noise_mean, noise)
    with pytest.raises(RuntimeError, match=r"calibration of 1: noise_mean should have shape \(4,\)"):
        net.load_state_dict(state | {"1.noise_mean": torch.ones(3)})


@pytest.mark.parametrize("memory", [None, 8])
@pytest.mark.parametrize("names", [(), ("0.bias",), ("1.weight",), ("1.weight", "1.bias")])
def test_a_checkpoint_that_says_nothing_of_a_layer_s_statistics_leaves_its_calibration(names, memory):
    """As PyTorch leaves tensors that are not named: the rule goes on with what it had."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    adapt(calibrate(net, [torch.randn(4, 3, 6, 6) for _ in range(4)], batches=4), memory=memory)
    net[1].image_rows = 3
    before = {name: value.clone() for name, value in net.state_dict().items()}
    part = {name: before[name] + 1 for name in names}
    net.load_state_dict(part, strict=False)
    for name, value in net.state_dict().items():
        assert torch.equal(value, part.get(name, before[name])), name
    assert net[1].image_rows == 3
    trained = {name: v for name, v in before.items() if "noise" not in name and "extra" not in name}
    net.load_state_dict(trained, strict=False)
    assert net[1].noise_mean is None  # other statistics, and a calibration for them is not there
    assert net[1].image_rows == 1
