"""An input and the vectors of a layer that do not go together: PyTorch's own errors, and nothing changed."""

import copy
import warnings

import pytest

from shrinkstats.estimators import BatchStatistics, PriorBlend, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.func import functional_call  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, calibrate, convert, grouped  # noqa: E402
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS  # noqa: E402


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calibrated(**options):
    return calibrate(nn.BatchNorm2d(6, **options).eval(), [random(16, 6, 4, 4)])


def quietly_adapted(layer, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not calibrated
        return adapt(layer, *arguments, **options)


def outcome(call):
    """The error a call ends with, or none."""
    try:
        call()
    except Exception as error:
        return type(error), str(error).splitlines()[0]
    return None


# --- channels --------------------------------------------------------------------------------------------------

TRAINING = {"stein": Stein(), "batch": BatchStatistics(), "extremes": RobustNorm()}
ADAPTED = {"blend": SteinBlend(), "prior": PriorBlend(4), "batch": BatchStatistics()}


@pytest.mark.parametrize("channels", [0, 1, 4, 5, 7, 12])
@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("estimator", TRAINING.values(), ids=TRAINING)
def test_other_channels_are_what_they_are_to_batch_norm(estimator, training, affine, tracking, channels):
    options = {"affine": affine, "track_running_stats": tracking}
    ours = ShrinkBatchNorm2d(6, estimator, **options).train(training)
    theirs = nn.BatchNorm2d(6, **options).train(training)
    before = copy.deepcopy(ours.state_dict())
    x = random(4, channels, 5, 5)
    expected = outcome(lambda: theirs(x))
    assert outcome(lambda: ours(x)) == expected
    assert (expected is None) == (channels == 0 or not (affine or tracking))
    if expected is not None:
        for name, value in before.items():
            assert torch.equal(ours.state_dict()[name], value)


def in_groups(layer, x):
    with grouped(layer, 1):
        layer(x)


@pytest.mark.parametrize("size", [(4, 4096, 5, 5), (4, 4, 5, 5), (4, 12, 5, 5), (4, 5, 1, 1), (1, 1, 3, 3)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("way", ["gradient", "no gradient", "half", "grouped", "stream", "subclass", "grad", "vmap"])
@pytest.mark.parametrize("rule", ADAPTED.values(), ids=ADAPTED)
def test_other_channels_in_an_adapted_layer(rule, way, affine, size):
    layer = adapt(calibrated(affine=affine), rule, memory=8 if way == "stream" else None)
    x = random(*size)
    before = copy.deepcopy(layer.state_dict())
    call = {
        "half": lambda: layer(x.half()),
        "grouped": lambda: in_groups(layer, x),
        "subclass": lambda: layer(x.as_subclass(type("Image", (torch.Tensor,), {}))),
        "grad": lambda: torch.func.grad(lambda x: layer(x).sum())(x),
        "vmap": lambda: torch.func.vmap(layer)(x[None]),
    }.get(way, lambda: layer(x))
    with torch.set_grad_enabled(way == "gradient"), pytest.raises(RuntimeError) as error:
        call()
    assert str(error.value) == f"running_mean should contain {size[1]} elements not 6"
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value)
    if way == "stream":
        assert layer.adaptation.state.long is None


@pytest.mark.parametrize("training", [True, False])
def test_other_channels_compiled(training):
    layer = adapt(calibrated()).train(training)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    with pytest.raises(Exception, match="running_mean should contain 5 elements not 6"):
        compiled(random(4, 5, 3, 3))


def test_an_error_comes_in_pytorch_s_order():
    """One value a channel is the first complaint."""
    x = random(1, 5, 1, 1)
    assert outcome(lambda: ShrinkBatchNorm2d(6)(x))[0] is outcome(lambda: nn.BatchNorm2d(6)(x))[0] is ValueError


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 0, 5, 5), (0, 0, 5, 5)])
def test_no_channels(shape, training):
    layer = ShrinkBatchNorm2d(0).train(training)
    empty = ShrinkBatchNorm2d(0, affine=False, track_running_stats=False).train(training)
    assert outcome(lambda: layer(torch.empty(shape))) == outcome(
        lambda: nn.BatchNorm2d(0).train(training)(torch.empty(shape))
    )
    assert empty(torch.empty(shape)).shape == shape
    with pytest.raises(RuntimeError, match="should contain 3 elements not 0"):
        layer(random(4, 3, 5, 5))


# --- vectors that were put in ------------------------------------------------------------------------------------

VECTORS = ("running_mean", "running_var", "weight", "bias")
LENGTHS = [(3,), (12,), (1,), (), (0,)]


def replaced(layer, name, value):
    layer = copy.deepcopy(layer)
    if name in ("weight", "bias"):
        value = nn.Parameter(value, requires_grad=value.is_floating_point())
    setattr(layer, name, value)
    return layer


@pytest.mark.parametrize("mode", ["training", "evaluation", "adapted"])
@pytest.mark.parametrize("shape", LENGTHS, ids=str)
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_other_lengths(name, shape, mode):
    value, x = torch.ones(shape), random(4, 6, 5, 5)
    expected = outcome(lambda: replaced(nn.BatchNorm2d(6).train(mode == "training"), name, value)(x))
    layer = replaced(adapt(calibrated()) if mode == "adapted" else ShrinkBatchNorm2d(6), name, value)
    assert outcome(lambda: layer.train(mode == "training")(x)) == expected
    with torch.no_grad():
        assert outcome(lambda: layer(x)) == expected
    assert expected[0] is RuntimeError


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize(
    "value",
    [torch.ones(6, 1), torch.ones(6, dtype=torch.int64), torch.ones(6, dtype=torch.complex64), torch.ones(6).bool()],
    ids=lambda v: f"{tuple(v.shape)} {v.dtype}",
)
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_that_are_none(name, value, adapted):
    layer = replaced(adapt(calibrated()) if adapted else ShrinkBatchNorm2d(6), name, value)
    with pytest.raises(RuntimeError, match=name):
        layer(random(4, 6, 5, 5))


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_elsewhere(name, adapted):
    layer = replaced(adapt(calibrated()) if adapted else ShrinkBatchNorm2d(6), name, torch.ones(6, device="meta"))
    with pytest.raises(RuntimeError, match=f"same device, but {name} is on meta and the input on cpu"):
        layer(random(4, 6, 5, 5))


@pytest.mark.parametrize("rule", [Stein(), SteinBlend(), RobustNorm()], ids=str)
@pytest.mark.parametrize("mode", ["training", "adapted", "adapted without gradients"])
@pytest.mark.parametrize("lie", ["steps", "half", "double", "negative"])
def test_vectors_that_lie_otherwise(lie, mode, rule):
    """Of other types, with gaps between them, or stored with the other sign."""
    dtype = torch.float16 if lie == "half" else torch.float64 if lie == "double" else torch.float32
    torch.manual_seed(0)
    layer = ShrinkBatchNorm2d(6, rule)
    nn.init.uniform_(layer.weight), nn.init.normal_(layer.bias)
    for v in layer.state_dict().values():
        if v.is_floating_point():
            v.copy_(v.to(dtype))
    calibrate(layer, [random(16, 6, 4, 4)])
    if mode != "training":
        adapt(layer.eval(), SteinBlend() if rule == Stein() else rule)
    other = copy.deepcopy(layer)
    for name in (*VECTORS, *NOISE_BUFFERS):
        v = getattr(other, name).detach()
        if lie == "steps":
            v = torch.stack([v, v], -1)[..., 0]
        elif lie == "negative":
            v = torch.complex(torch.zeros_like(v), -v).conj().imag
            assert v.is_neg()
        elif name not in NOISE_BUFFERS:
            v = v.to(dtype)
        setattr(other, name, nn.Parameter(v) if name in ("weight", "bias") else v)
    outputs = []
    for each in (layer, other):
        x = random(4, 6, 5, 5, seed=1).requires_grad_()
        with torch.set_grad_enabled(mode != "adapted without gradients"):
            y = each(x)
        outputs.append([y.detach(), each.running_mean, each.running_var])
        if y.requires_grad:
            y.backward(random(4, 6, 5, 5, seed=2))
            outputs[-1] += [x.grad, each.weight.grad, each.bias.grad]
    tolerance = {"rtol": 2e-3, "atol": 2e-3} if lie == "half" else {"rtol": 1e-5, "atol": 1e-6}
    for ours, expected in zip(outputs[1], outputs[0], strict=True):
        torch.testing.assert_close(ours.float().resolve_neg(), expected, **tolerance)


def test_one_of_the_running_statistics_alone():
    x = random(4, 6, 5, 5)
    for name in ("running_mean", "running_var"):
        theirs = nn.BatchNorm2d(6)
        setattr(theirs, name, None)
        ours = ShrinkBatchNorm2d(6)
        setattr(ours, name, None)
        assert outcome(lambda ours=ours: ours(x)) == outcome(lambda theirs=theirs: theirs(x))


def test_running_statistics_that_were_taken_out():
    """A habit of theirs, to evaluate with batch statistics; `track_running_stats` stays as it was."""
    ours, theirs = ShrinkBatchNorm2d(6, BatchStatistics()), nn.BatchNorm2d(6)
    x = random(4, 6, 5, 5)
    for training in (True, False):
        for layer in (ours, theirs):
            layer.running_mean = layer.running_var = None
            layer.train(training)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 1
    ours.num_batches_tracked = None
    ours.train()(x)


@pytest.mark.parametrize("no_gradient", [True, False])
def test_functional_call_with_vectors_of_another_length(no_gradient):
    for layer in (ShrinkBatchNorm2d(6), adapt(calibrated())):
        for name in VECTORS:
            with torch.set_grad_enabled(not no_gradient), pytest.raises(RuntimeError, match=f"{name} should contain 6"):
                functional_call(layer, {name: torch.ones(5)}, (random(4, 6, 3, 3),))
    for name in NOISE_BUFFERS:
        with pytest.raises(RuntimeError, match=rf"{name} should have shape \(.*\), got \(5,\)"):
            functional_call(adapt(calibrated()), {name: torch.ones(5)}, (random(4, 6, 3, 3),))


def test_a_parametrized_weight_in_an_adapted_layer():
    class Twice(nn.Module):
        def forward(self, v):
            return 2 * v

    layer = adapt(calibrated())
    x = random(4, 6, 3, 3)
    expected = 2 * layer(x).detach()
    nn.utils.parametrize.register_parametrization(layer, "weight", Twice())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.complex64], ids=str)
def test_inputs_of_other_types(dtype):
    for layer in (ShrinkBatchNorm2d(6), adapt(calibrated())):
        with pytest.raises(TypeError, match="expected a floating point input"):
            layer(torch.zeros(4, 6, 3, 3).to(dtype))


# --- calibrations of other shapes --------------------------------------------------------------------------------

WRONG = {
    "too short": ("noise_mean", torch.ones(5)),
    "too long": ("noise_mean", torch.ones(7)),
    "a number": ("noise_mean", torch.tensor(1.0)),
    "narrow table": ("noise_sd", torch.ones(2, 5)),
    "wide table": ("noise_sd_bias", torch.ones(2, 7)),
    "no rows": ("noise_sd", torch.ones(0, 6)),
    "other rows": ("noise_sd_bias", torch.ones(1, 6)),
    "a vector": ("noise_sd", torch.ones(6)),
    "integers": ("noise_sd", torch.ones(2, 6, dtype=torch.int64)),
}


@pytest.mark.parametrize("memory", [None, 8])
@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG)
def test_a_calibration_that_does_not_fit_is_an_error(name, value, memory):
    layer = adapt(calibrated(), memory=memory)
    setattr(layer, name, value)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), pytest.raises(RuntimeError, match=r"noise_\w+ should .* calibrate anew"):
            layer(random(4, 6, 3, 3))
    with pytest.raises(RuntimeError, match="calibrate anew"), grouped(layer, 2):
        layer(random(4, 6, 3, 3))


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("before", ["calibrated", "not calibrated"])
@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG)
def test_a_calibration_that_does_not_fit_is_not_loaded(name, value, before, strict, assign):
    layer = calibrated() if before == "calibrated" else ShrinkBatchNorm2d(6)
    had = [getattr(layer, name) for name in NOISE_BUFFERS]
    with pytest.raises(RuntimeError, match=r"calibration of the layer: noise_\w+ should") as error:
        layer.load_state_dict(calibrated().state_dict() | {name: value}, strict=strict, assign=assign)
    assert "Missing" not in str(error.value)
    assert "Unexpected" not in str(error.value)
    assert all(getattr(layer, name) is v for name, v in zip(NOISE_BUFFERS, had, strict=True))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("missing", NOISE_BUFFERS)
def test_a_part_of_a_calibration_is_not_loaded(missing, strict):
    net, state = nn.Sequential(calibrated()), nn.Sequential(calibrated()).state_dict()
    had = net[0].noise_mean
    del state[f"0.{missing}"]
    with pytest.raises(RuntimeError, match=rf"calibration of 0: {missing} should be a tensor, got NoneType"):
        net.load_state_dict(state, strict=strict)
    assert net[0].noise_mean is had


def test_a_calibration_for_a_layer_without_running_statistics_is_unexpected():
    layer = ShrinkBatchNorm2d(6, track_running_stats=False)
    state = {k: v for k, v in calibrated().state_dict().items() if not k.startswith(("running", "num"))}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"noise_mean"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).unexpected_keys == list(NOISE_BUFFERS)
    assert layer.noise_mean is None


def test_a_calibration_takes_the_layer_s_type_or_is_assigned():
    state = calibrated().double().state_dict()
    layer = ShrinkBatchNorm2d(6)
    layer.load_state_dict(state)
    assert layer.noise_sd.dtype == torch.float32
    layer = ShrinkBatchNorm2d(6, device="meta")
    layer.load_state_dict(state, assign=True)
    assert layer.noise_sd is state["noise_sd"]
    x = random(4, 6, 3, 3).double()
    torch.testing.assert_close(adapt(layer.eval())(x), adapt(calibrated().double())(x))


def test_a_lazy_layer_takes_a_calibration():
    lazy = convert(nn.Sequential(nn.LazyBatchNorm2d()), Stein())
    lazy.load_state_dict(nn.Sequential(calibrated()).state_dict())
    assert lazy[0].noise_mean.shape == (6,)
    lazy = convert(nn.Sequential(nn.LazyBatchNorm2d()), Stein())
    with pytest.raises(RuntimeError, match="calibration of 0: noise_sd should"):
        lazy.load_state_dict(nn.Sequential(calibrated()).state_dict() | {"0.noise_sd": torch.ones(2, 5)})
