"""The PyTorch layers against nn.BatchNorm, against finite differences, and against `normalize`."""

import copy

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Prior, Statistics
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

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm1d, ShrinkBatchNorm2d, ShrinkBatchNorm3d  # noqa: E402
from shrinkstats.kernels import cpu  # noqa: E402

ESTIMATORS = [
    BatchStatistics(),
    Stein(),
    Stein.published(),
    Stein(mean="channel", var="channel"),
    Stein(mean=None, var=None),
    JSNorm(),
    RobustNorm(),
    RobustNorm(power=1.0),
    MinMaxNorm(),
    Ridge(0.1),
    Lasso(0.1),
    PriorBlend(3.0),
    SteinBlend(),
]
DIMENSIONS = [
    pytest.param(ShrinkBatchNorm1d, nn.BatchNorm1d, (6, 5), id="1d"),
    pytest.param(ShrinkBatchNorm1d, nn.BatchNorm1d, (6, 5, 3), id="1d with length"),
    pytest.param(ShrinkBatchNorm2d, nn.BatchNorm2d, (4, 5, 3, 2), id="2d"),
    pytest.param(ShrinkBatchNorm3d, nn.BatchNorm3d, (3, 5, 2, 1, 2), id="3d"),
]


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"bias": False}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize(("ours", "theirs", "shape"), DIMENSIONS)
def test_batch_statistics_are_batch_norm(ours, theirs, shape, options):
    generator = torch.Generator().manual_seed(0)
    layer, rival = ours(5, BatchStatistics(), **options), theirs(5, **options)
    for _ in range(3):
        x = torch.randn(shape, generator=generator) * 3 + 2
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y1, y2 = layer(x1), rival(x2)
        g = torch.randn(shape, generator=generator)
        y1.backward(g)
        y2.backward(g)
        torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-4, atol=1e-5)
    for name, value in rival.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for ours_, theirs_ in zip(layer.parameters(), rival.parameters(), strict=True):
        torch.testing.assert_close(ours_.grad, theirs_.grad, rtol=1e-4, atol=1e-4)
    layer.eval(), rival.eval()
    layer.load_state_dict(rival.state_dict())
    if layer.track_running_stats:
        assert torch.equal(layer(x), rival(x))
    else:
        torch.testing.assert_close(layer(x), rival(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize(("ours", "theirs", "shape"), DIMENSIONS)
def test_gradients(ours, theirs, shape, estimator):
    torch.manual_seed(1)
    layer = ours(5, estimator, dtype=torch.float64)

    def forward(x, weight, bias):
        return torch.func.functional_call(copy.deepcopy(layer), {"weight": weight, "bias": bias}, (x,))

    x = (torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    weight, bias = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(forward, (x, weight, bias))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize(("ours", "theirs", "shape"), DIMENSIONS)
def test_forward_and_buffers_follow_the_estimates(ours, theirs, shape, estimator):
    torch.manual_seed(2)
    layer = ours(5, estimator, dtype=torch.float64, momentum=0.3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer.running_mean.normal_(), layer.running_var.uniform_(1, 2)
    prior = Statistics(layer.running_mean.numpy().copy(), layer.running_var.numpy().copy())
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    expected = shrinkstats.normalize(
        x.numpy(), estimator, weight=layer.weight.detach().numpy(), bias=layer.bias.detach().numpy(), prior=prior
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-10)

    batch = shrinkstats.moments(x.numpy())
    center, scale = estimator(batch, prior=prior, eps=0.0)
    spread = np.ptp(x.numpy(), axis=tuple(i for i in range(x.ndim) if i != 1))
    if not isinstance(estimator, RobustNorm | MinMaxNorm):
        spread = scale**2 * batch.count / (batch.count - 1)
    np.testing.assert_allclose(layer.running_mean, 0.7 * prior.mean + 0.3 * center, rtol=1e-10)
    np.testing.assert_allclose(layer.running_var, 0.7 * prior.var + 0.3 * spread, rtol=1e-10)

    layer.eval()
    mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
    power = getattr(estimator, "power", 1.0 if isinstance(estimator, MinMaxNorm) else None)
    scale = np.sqrt(var + layer.eps) if power is None else var**power + layer.eps
    along = (-1, *[1] * (x.ndim - 2))
    slope = (layer.weight.detach().numpy() / scale).reshape(along)
    expected = (x.numpy() - mean.reshape(along)) * slope + layer.bias.detach().numpy().reshape(along)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_stay_and_statistics_are_wide(dtype):
    torch.manual_seed(3)
    layer = ShrinkBatchNorm2d(4)
    x = (torch.randn(8, 4, 6, 6) + 3).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    expected = ShrinkBatchNorm2d(4)(x.double())
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("estimator", [BatchStatistics(), Stein(), RobustNorm(), PriorBlend(3.0)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (4, 3, 0, 4)])
def test_an_empty_batch_leaves_the_statistics_alone(estimator, training, adapted, shape):
    layer, rival = ShrinkBatchNorm2d(3, estimator).train(training), nn.BatchNorm2d(3).train(training)
    layer.adaptation = SteinBlend() if adapted else None
    x = torch.empty(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == rival(x).shape
    for name, value in rival.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    y.sum().backward()
    assert x.grad.shape == shape
    assert layer.weight.grad.tolist() == [0, 0, 0]


def test_the_passes_over_nothing():
    x = np.zeros((0, 4, 3, 3), np.float32)
    total, product = cpu.reduce_grad(x, x, 1, np.zeros(4))
    assert total.tolist() == product.tolist() == [0, 0, 0, 0]


def test_a_rule_of_ones_own():
    class Centered(Estimator):
        def statistics(self, moments, prior):
            return Statistics(moments.mean, 0 * moments.mean + 1)

    x = torch.randn(4, 3, 5, 5)
    y = ShrinkBatchNorm2d(3, Centered(), eps=0.0)(x)
    torch.testing.assert_close(y, x - x.mean((0, 2, 3), keepdim=True))


def test_calibrated_prior_reaches_the_estimator():
    layer = ShrinkBatchNorm2d(3, dtype=torch.float64).eval()
    layer.noise_mean = torch.tensor([0.4, 0.4, 0.4], dtype=torch.float64)
    layer.noise_sd = torch.full((2, 3), 0.1, dtype=torch.float64)
    layer.noise_sd_bias = torch.full((2, 3), -0.2, dtype=torch.float64)
    layer.adaptation = SteinBlend()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64) + 0.5
    noise = shrinkstats.SamplingNoise(np.full(3, 0.1), np.full(3, 0.025), np.full(3, -0.05))
    expected = shrinkstats.normalize(x.numpy(), SteinBlend(), prior=Prior(np.zeros(3), np.ones(3), noise))
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10)


def test_errors():
    with pytest.raises(TypeError, match=r"estimator .* got 0.001"):
        ShrinkBatchNorm2d(3, 0.001)
    with pytest.raises(ValueError, match="4D"):
        ShrinkBatchNorm2d(3)(torch.randn(2, 3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ShrinkBatchNorm1d(3)(torch.randn(1, 3))
    with pytest.raises(ValueError, match="track_running_stats=True"):
        ShrinkBatchNorm2d(3, SteinBlend(), track_running_stats=False)(torch.randn(2, 3, 4, 4))


def test_representation_names_the_rule():
    assert "estimator=RobustNorm(power=0.2)" in repr(ShrinkBatchNorm2d(3, RobustNorm()))


def test_with_two_channels_a_nan_stays_in_its_own():
    x = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[0, 1] = float("nan")
    given = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    x.requires_grad_()
    ShrinkBatchNorm2d(2, Stein(mean="channel", var=None))(x).backward(given)
    assert torch.isfinite(x.grad[:, 0]).all()


NUMBERS = {
    "momentum a tensor": {"momentum": torch.tensor(0.3)},
    "eps a tensor": {"eps": torch.tensor(0.1)},
    "eps a double": {"eps": torch.tensor(0.1, dtype=torch.float64)},
    "both": {"momentum": torch.tensor(0.3), "eps": torch.tensor(0.1)},
    "nothing counted": {"momentum": None, "num_batches_tracked": None},
    "not counted": {"num_batches_tracked": None},
}
WAYS = ["fused", "generic", "compiled"]


def run_as(way, layer, x):
    """What a layer makes of images, by the compiled passes, by plain operations, or in a graph."""
    if way == "compiled":
        torch.compiler.reset()
        return torch.compile(layer, backend="aot_eager")(x)
    return layer(x if way == "fused" else x.as_subclass(Seen))


class Seen(torch.Tensor):
    """What compiled passes leave alone."""


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.long) if w == "compiled" else w for w in WAYS])
@pytest.mark.parametrize("attributes", NUMBERS.values(), ids=NUMBERS)
def test_attributes_of_the_kinds_that_pytorch_takes(attributes, way):
    layer, rival = ShrinkBatchNorm2d(3, BatchStatistics()), nn.BatchNorm2d(3)
    for one in (layer, rival):
        for name, value in attributes.items():
            setattr(one, name, value)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    for training in (True, True, False):
        y = run_as(way, layer.train(training), x)
        torch.testing.assert_close(torch.Tensor(y), rival.train(training)(x), rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(layer, name), getattr(rival, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [BatchStatistics(), Stein(), RobustNorm(), SteinBlend()], ids=str)
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("group_size", [None, 2])
def test_an_eps_that_is_a_tensor_in_an_adapted_layer(rule, calibrated, group_size):
    layer = ShrinkBatchNorm2d(3, rule).eval()
    layer.adaptation, layer.group_size = rule, group_size
    if calibrated:
        layer.noise_mean, layer.noise_sd, layer.noise_sd_bias = torch.ones(3), torch.ones(2, 3), torch.zeros(2, 3)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            layer.eps = 0.125
            expected = layer(x)
            layer.eps = torch.tensor(0.125)
            assert torch.equal(layer(x), expected)
    layer.adaptation = None
    layer(x)


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.long) if w == "compiled" else w for w in WAYS])
@pytest.mark.parametrize("eps", [0, 0.0, -1e-3, torch.tensor(0.0), torch.tensor(-1.0)], ids=str)
def test_an_eps_that_is_not_positive(eps, way):
    x = torch.randn(4, 3, 5, 5)
    for tracking in (True, False):
        layer = ShrinkBatchNorm2d(3, BatchStatistics(), eps=eps, track_running_stats=tracking)
        with pytest.raises(ValueError, match="eps must be positive"):
            run_as(way, layer, x)
        layer.eval()
        if eps < 0 or not tracking:
            with pytest.raises(ValueError, match=r"eps must be (positive|non-negative)"):
                run_as(way, layer, x)
        else:
            torch.testing.assert_close(torch.Tensor(run_as(way, layer, x)), x)
            layer.adaptation = BatchStatistics()
            run_as(way, layer, x)
