"""calibrate, adapt and reset."""

import copy

import pytest

from shrinkstats.estimators import BatchStatistics, PriorBlend, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import adapt, blended, calibrate, convert, reset  # noqa: E402
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS, measure  # noqa: E402


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    for _ in range(50):
        net(torch.randn(64, 3, 10, 10))
    return net.eval()


def batches(number=10, size=64, shift=0.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 10, 10, generator=generator) + shift for _ in range(number)]


@pytest.mark.parametrize("converted", [False, True])
def test_reset_restores_to_the_bit(net, converted):
    if converted:
        convert(net, Stein())
    (x,) = batches(1)
    before, state = net(x), copy.deepcopy(net.state_dict())
    calibrate(net, batches())
    assert torch.equal(net(x), before)
    adapt(net)
    assert not torch.equal(net(x), before)
    assert torch.equal(net(x), net(x))
    reset(net)
    assert torch.equal(net(x), before)
    for name, value in state.items():
        assert torch.equal(net.state_dict()[name], value)


def test_adapting_to_batch_statistics_is_batch_norm_in_training(net):
    (x,) = batches(1, shift=0.5)
    expected = copy.deepcopy(net).train()(x)
    torch.testing.assert_close(adapt(net, BatchStatistics())(x), expected, rtol=1e-4, atol=1e-5)


def test_a_strong_prior_is_the_trained_network(net):
    (x,) = batches(1, shift=0.5)
    torch.testing.assert_close(adapt(copy.deepcopy(net), PriorBlend(1e12))(x), net(x), rtol=1e-4, atol=1e-5)


def test_stein_blend_trusts_large_shifts_and_distrusts_chance(net):
    calibrate(net, batches())
    plain = reset(copy.deepcopy(net))

    @torch.no_grad()
    def distance(shift, rule, size):
        (x,) = batches(1, size, shift, seed=7)
        return float((adapt(net, rule)(x) - plain(x)).square().mean())

    assert distance(0.0, SteinBlend(), 4) < 0.2 * distance(0.0, BatchStatistics(), 4)
    # the trained statistics count as one of five images
    assert distance(3.0, SteinBlend(), 4) > 0.9 * 0.8**2 * distance(3.0, BatchStatistics(), 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_gradients_it_computes_the_same(dtype, layout, monkeypatch):
    """In one compiled call between the two passes; with gradients step by step, which other tests look at."""
    torch.manual_seed(2)
    layer = nn.BatchNorm2d(12, bias=dtype != torch.float64)
    nn.init.normal_(layer.weight)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    calibrate(layer.double().eval(), torch.randn(100, 12, 5, 6, dtype=torch.float64).split(50))
    adapt(layer.to(dtype), SteinBlend(1.2))
    called = []
    normalize = blended.normalize
    monkeypatch.setattr(blended, "normalize", lambda *a: called.append(1) or normalize(*a))
    layer.running_mean, layer.running_var = layer.running_mean.float(), layer.running_var.float()
    for name in NOISE_BUFFERS:
        setattr(layer, name, getattr(layer, name).float())
    for n in (1, 2, 3, 7, 12, 64, 100):  # groups of 1, 2, 3, 4 and 25 images; batches beyond those of calibration
        x = (2 * torch.randn(n, 12, 5, 6) + 1).to(dtype).contiguous(memory_format=layout)
        expected = layer(x.detach().requires_grad_())
        with torch.no_grad():
            found = layer(x)
        assert found.is_contiguous(memory_format=layout)
        tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype]
        torch.testing.assert_close(found, expected.detach(), rtol=tolerance, atol=tolerance)
    assert len(called) == 7


def test_without_gradients_awkward_numbers_are_the_same_too(net):
    calibrate(net, batches())
    adapt(net)
    (x,) = batches(1, 4)
    net[1].running_var[2] = 0  # a channel that was constant in training
    x[0, 0, 0, 0] = torch.nan
    for images in (x, x[1:]):
        expected = net(images)
        with torch.no_grad():
            torch.testing.assert_close(net(images), expected.detach(), equal_nan=True, rtol=1e-4, atol=1e-5)


def test_works_with_one_image(net):
    calibrate(net, batches())
    y = adapt(net)(batches(1, 1)[0])
    assert torch.isfinite(y).all()


def test_without_calibration_it_says_so(net):
    with pytest.warns(UserWarning, match="not calibrated"):
        adapt(net)
    assert torch.isfinite(net(batches(1, 4)[0])).all()


def test_training_is_not_changed(net):
    (x,) = batches(1)
    expected = copy.deepcopy(net).train()
    y = expected(x)
    calibrate(net, batches())
    adapt(net).train()
    torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].running_var, expected[1].running_var)


def test_measured_noise_is_that_of_batches():
    generator = torch.Generator().manual_seed(3)
    images, pixels, sd_between, sd_within = 40_000, 9, 0.5, 1.5
    centers = sd_between * torch.randn(images, 2, generator=generator, dtype=torch.float64)
    x = centers[..., None] + sd_within * torch.randn(images, 2, pixels, generator=generator, dtype=torch.float64)
    source_var = torch.full((2,), sd_between**2 + sd_within**2, dtype=torch.float64)
    noise_mean, noise_sd, noise_sd_bias = measure(x.mean(2), x.var(2, correction=0), source_var)
    expected = sd_between**2 + sd_within**2 / pixels
    torch.testing.assert_close(noise_mean, torch.full_like(noise_mean, expected), rtol=5 * 2**0.5 / images**0.5, atol=0)
    for k in (0, 2, 4):  # batches of 1, 4 and 16 images, grouped otherwise than `measure` does it
        n = 2**k
        batch = x[torch.randperm(images, generator=generator)][: images // n * n].reshape(-1, n, 2, pixels)
        excess = batch.permute(0, 2, 1, 3).flatten(2).std(2, correction=0) / source_var.sqrt() - 1
        groups = len(excess)
        torch.testing.assert_close(noise_sd[k] / n, excess.var(0), rtol=6 * (2 / groups) ** 0.5, atol=0)
        error = float(excess.std(0).max()) / groups**0.5
        torch.testing.assert_close(noise_sd_bias[k] / n, excess.mean(0), rtol=0, atol=6 * error)


def test_calibration_keeps_modes_hooks_and_adaptation(net):
    adapt(net, PriorBlend(4)).train()
    net[0].eval()
    calibrate(net, batches(2))
    assert net.training
    assert not net[0].training
    assert net[1].adaptation == PriorBlend(4)
    assert not net[1]._forward_pre_hooks


def test_calibration_evaluates_a_network_in_training(net):
    calibrate(expected := copy.deepcopy(net), batches(2))
    calibrate(net.train(), batches(2))
    for name, value in expected.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)


def test_loaders_of_tuples_and_lists(net):
    calibrate(net, [(x, 0) for x in batches(2)])
    calibrate(net, [[x] for x in batches(2)])
    with pytest.raises(TypeError, match="tensors"):
        calibrate(net, [{"x": 1}])


def test_errors(net):
    with pytest.raises(ValueError, match="saw 0 images"):
        calibrate(net, [])
    with pytest.raises(ValueError, match="saw 1 images"):
        calibrate(net, batches(1, 1))
    with pytest.raises(ValueError, match="not finite"):
        calibrate(net, [torch.full((4, 3, 10, 10), float("nan"))])
    bare = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="0 has no running statistics"):
        calibrate(bare, batches(1))
    assert type(bare[0]) is nn.BatchNorm2d
    with pytest.raises(TypeError, match="estimator"):
        adapt(net, "stein")
    one = adapt(convert(nn.BatchNorm1d(3), Stein()).eval(), BatchStatistics())
    one.adaptation = SteinBlend()
    with pytest.raises(ValueError, match="calibrate"):
        one.eval()(torch.randn(1, 3))


def test_a_calibration_in_inference_mode_is_ordinary_memory(net):
    with torch.inference_mode():
        calibrate(net, batches(1))
        other = convert(copy.deepcopy(net), Stein())
        other.load_state_dict(net.state_dict())
    for layer in (net[1], other[1]):
        assert not any(getattr(layer, name).is_inference() for name in NOISE_BUFFERS)
        layer.noise_mean.mul_(2)  # as DistributedDataParallel sends buffers around
