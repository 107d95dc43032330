"""High-resolution networks: the authors' keys, shapes and outputs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from test_models import fill, reference  # noqa: E402
from torch import nn  # noqa: E402

from shrinkstats.adapters import models  # noqa: E402
from shrinkstats.adapters.torch import ShrinkBatchNorm2d, convert  # noqa: E402
from shrinkstats.estimators import Stein  # noqa: E402

NETWORKS = ("hrnet_w18_small_v1", "hrnet_w18_small_v1_stem1", "hrnet_w18_small_v2", "hrnet_w18", "hrnet_w48")


def build(name, **options):
    """A network without values: its shapes alone."""
    if name.endswith("_stem1"):
        name, options["stem_stride"] = name.removesuffix("_stem1"), 1
    with torch.device("meta"):
        return getattr(models, name)(**options)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_authors_programs(name):
    expected, net = reference(name), build(name).eval()
    assert sum(p.numel() for p in net.parameters()) == expected["parameters"]
    net = fill(net.double().to_empty(device="cpu"))
    with torch.no_grad():
        y = net(torch.linspace(-1, 1, 3 * 64 * 128, dtype=torch.float64).reshape(1, 3, 64, 128))
    assert y.flatten()[:2].tolist() == pytest.approx(expected["first_outputs"], rel=1e-9)
    assert y.std(correction=0).item() == pytest.approx(expected["standard_deviation"], rel=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_and_shapes_are_the_reference_s(name):
    state = build(name).state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == reference(name)["state_dict"]


@pytest.fixture(scope="module")
def quarter():
    return models.hrnet_w18_small_v1(num_classes=5).eval()


@given(st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=10)
def test_any_image_size(quarter, height, width):
    with torch.no_grad():
        logits = quarter(torch.zeros(2, 3, height, width))
    assert logits.shape == (2, 5, -(-height // 4), -(-width // 4))


def test_a_stem_without_strides_keeps_the_size():
    with torch.no_grad():
        logits = models.hrnet_w18_small_v1(stem_stride=1)(torch.zeros(1, 3, 37, 22))
    assert logits.shape == (1, 19, 37, 22)


def test_exchange_of_odd_sizes():
    """Each branch gets relu(sum of all): strided convolutions from finer ones, interpolation from coarser ones."""
    torch.manual_seed(0)
    module = models.hrnet.HighResolutionModule([2, 4, 8], 1, lambda channels: nn.Identity()).double()
    xs = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in ((2, (9, 7)), (4, (5, 4)), (8, (3, 2)))]
    with torch.no_grad():
        a, b, c = (branch(x) for branch, x in zip(module.branches, xs, strict=True))
        weight = {key.removeprefix("fuse_layers."): value for key, value in module.state_dict().items()}

        def half(x, key):
            return nn.functional.conv2d(x, weight[key], stride=2, padding=1)

        def wide(x, key, size):
            y = torch.einsum("oi,nihw->nohw", weight[key][:, :, 0, 0], x)
            return interpolate(y, size)

        expected = [
            a + wide(b, "0.1.0.weight", (9, 7)) + wide(c, "0.2.0.weight", (9, 7)),
            half(a, "1.0.0.0.weight") + b + wide(c, "1.2.0.weight", (5, 4)),
            half(half(a, "2.0.0.0.weight").clamp(min=0), "2.0.1.0.weight") + half(b, "2.1.0.0.weight") + c,
        ]
        for got, want in zip(module(xs), expected, strict=True):
            torch.testing.assert_close(got, want.clamp(min=0))


def interpolate(x, size):
    """Bilinear interpolation between pixel centers, one axis after the other."""
    for axis, length in zip((2, 3), size, strict=True):
        old = x.shape[axis]
        place = ((torch.arange(length, dtype=x.dtype) + 0.5) * old / length - 0.5).clamp(0, old - 1)
        low = place.long()
        part = (place - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = (low + 1).clamp(max=old - 1)
        x = x.index_select(axis, low) * (1 - part) + x.index_select(axis, high) * part
    return x


def test_every_parameter_gets_a_gradient_from_the_start():
    torch.manual_seed(0)
    net = models.hrnet_w18_small_v1(num_classes=3)
    logits = net(torch.randn(2, 3, 64, 64))
    assert 0.1 < logits.std() < 10  # neither vanishing nor exploding
    nn.functional.cross_entropy(logits, torch.randint(3, (2, 16, 16))).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A bias before batch normalization has no effect.
        assert parameter.grad.any() or name == "last_layer.0.bias", name


def test_every_normalization_layer_comes_from_norm_layer():
    made = []
    net = build("hrnet_w18_small_v2", norm_layer=lambda channels: made.append(channels) or nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    batch = build("hrnet_w18_small_v2")
    assert made == [module.num_features for module in batch.modules() if isinstance(module, nn.BatchNorm2d)]


def test_conversion_reaches_every_layer():
    net = convert(models.hrnet_w18_small_v1(), Stein())
    assert sum(isinstance(module, ShrinkBatchNorm2d) for module in net.modules()) == 72
