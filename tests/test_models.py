"""Networks with published state dicts."""

import json
import math
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters import models  # noqa: E402

# Published counts: He et al. (2016, table 6) in millions; the others follow from the layers' shapes.
SIZES = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet38": 561_370,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet9": 4_903_242,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "vgg11": 9_231_114,
    "vgg16": 14_728_266,
    "fixup_resnet20": 269_722 - 650 - 2 * (16 * 7 + 32 * 6 + 64 * 6) + 650 + 2 + 9 * 5,
    "fixup_resnet56": 853_018 - 650 - 2 * (16 * 19 + 32 * 18 + 64 * 18) + 650 + 2 + 27 * 5,
}
NORMALIZED = [name for name in SIZES if not name.startswith("fixup")]


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    # Meta tensors have shapes and no values: nothing is computed.
    with torch.device("meta"):
        net = getattr(models, name)()
        classes = getattr(models, name)(num_classes=100)(torch.empty(2, 3, 32, 32)).shape[1]
    assert sum(p.numel() for p in net.parameters()) == SIZES[name]
    assert classes == 100


NAMED = ("resnet9", "resnet18", "resnet20", "resnet56")


def reference(name):
    """Of the authors' program: keys and shapes; first outputs and the standard deviation of all, for values of fill."""
    return json.loads((Path(__file__).parent / "reference" / f"{name}.json").read_text())


def fill(net):
    """The values of the reference files: cosines in the weights, ramps in the rest."""
    for j, (key, value) in enumerate(net.state_dict().items()):
        if value.ndim >= 2:
            i = torch.arange(value.numel(), dtype=torch.float64)
            fan_in = value.numel() / value.shape[0]
            value.copy_((math.sqrt(4 / fan_in) * torch.cos((i + 1) ** 2 + j)).reshape(value.shape))
        elif value.ndim == 1:
            ramp = torch.linspace(-1, 1, value.numel(), dtype=torch.float64) * 0.05
            value.copy_(ramp + (1 if key.endswith(("running_var", "weight")) else 0))
    return net


@pytest.mark.parametrize("name", NAMED)
def test_outputs_are_those_of_the_authors_programs(name):
    x = torch.linspace(-1, 1, 2 * 3 * 32 * 32, dtype=torch.float64).reshape(2, 3, 32, 32)
    y = fill(getattr(models, name)().double().eval())(x).detach()
    expected = reference(name)
    assert y[0, :2].tolist() == pytest.approx(expected["first_outputs"], rel=1e-9)
    assert y.std(correction=0).item() == pytest.approx(expected["standard_deviation"], rel=1e-9)


@pytest.mark.parametrize("name", NAMED)
def test_keys_and_shapes_are_the_reference_s(name):
    with torch.device("meta"):
        state = getattr(models, name)().state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == reference(name)["state_dict"]


def test_resnet50_has_the_layers_of_kuangliu():
    with torch.device("meta"):
        state = models.resnet50().state_dict()
    assert state["layer1.0.shortcut.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["layer4.2.bn3.running_var"].shape == (2048,)
    assert "layer1.1.shortcut.0.weight" not in state


def test_vgg16_has_the_layers_of_kuangliu():
    with torch.device("meta"):
        net = models.vgg16()
    kinds = {
        0: nn.Conv2d,
        1: nn.BatchNorm2d,
        2: nn.ReLU,
        6: nn.MaxPool2d,
        23: nn.MaxPool2d,
        40: nn.Conv2d,
        43: nn.MaxPool2d,
    }
    assert all(type(net.features[place]) is kind for place, kind in kinds.items())
    assert net.features[0].bias is not None
    assert net.state_dict()["classifier.weight"].shape == (10, 512)


@pytest.mark.parametrize("name", NORMALIZED)
def test_every_normalization_layer_comes_from_norm_layer(name):
    made = []
    with torch.device("meta"):
        net = getattr(models, name)(norm_layer=lambda channels: made.append(channels) or nn.Identity())
        batch = getattr(models, name)()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert made == [module.num_features for module in batch.modules() if isinstance(module, nn.BatchNorm2d)]


def test_group_norm_does_not_look_at_the_batch():
    torch.manual_seed(0)
    net = models.resnet20(norm_layer=models.group_norm)
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))
    assert not list(net.buffers())


@pytest.mark.parametrize("channels", [1, 2, 3, 16, 18, 30, 64, 100, 512, 2048])
def test_groups_divide_the_channels(channels):
    layer = models.group_norm(channels)
    assert 1 <= layer.num_groups <= 32
    assert channels % layer.num_groups == 0


def test_fixup_starts_as_a_network_without_branches():
    """Rule 1: outputs are zero; rule 2: a branch's first layer has He's standard deviation times L^(-1/2)."""
    torch.manual_seed(0)
    net = models.fixup_resnet20()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), torch.zeros(2, 10))
    # At the start a block gives relu(its input), subsampled and padded by zeros: here its input, which is not negative.
    features = net.conv1(x).relu()
    assert torch.equal(net.layer1(features), features)
    assert torch.equal(net.layer2(features)[:, :16], features[:, :, ::2, ::2])
    assert not net.layer2(features)[:, 16:].any()
    weight = net.layer3[1].conv1.weight.detach()
    std = math.sqrt(2 / (64 * 9) / 9)
    assert weight.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * weight.numel()))


def test_fixup_block_follows_the_formula():
    torch.manual_seed(0)
    block = models.fixup.FixupBlock(2, 4, stride=2).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    conv = partial(nn.functional.conv2d, padding=1)
    inner = conv(x + block.bias1a, block.conv1.weight, stride=2) + block.bias1b
    inner = conv(inner.clamp(min=0) + block.bias2a, block.conv2.weight) * block.scale + block.bias2b
    pooled = nn.functional.avg_pool2d(x + block.bias1a, 1, stride=2)
    expected = (inner + torch.cat([pooled, torch.zeros(3, 2, 4, 4)], dim=1)).clamp(min=0)
    torch.testing.assert_close(block(x), expected)
