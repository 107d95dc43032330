"""The small 3D network of the paper on Stein's shrinkage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.models import group_norm, small_cnn3d  # noqa: E402


# All corners of the sizes that leave 8 x 8 x 4 voxels, and another order of the axes.
@pytest.mark.parametrize("size", [(128, 128, 64), (113, 113, 49), (113, 128, 49), (64, 128, 120)])
def test_parameters_at_the_paper_s_size(size):
    with torch.device("meta"):
        net = small_cnn3d(input_size=size)
    assert sum(p.numel() for p in net.parameters()) == 1_195_290
    assert net.classifier[0].in_features == 1536


def test_the_default_is_the_paper_s_size():
    with torch.device("meta"):
        state = small_cnn3d().state_dict()
    assert sum(value.numel() for key, value in state.items() if "running" not in key and "num" not in key) == 1_195_290


def written_out(columns, classes):
    """The paper's network, layer by layer; its state dict has the keys of the authors' program."""
    net = nn.Module()
    net.features = nn.Sequential(
        nn.Conv3d(1, 3, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Conv3d(3, 6, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Conv3d(6, 6, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Conv3d(6, 6, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.ReLU(),
    )
    net.classifier = nn.Sequential(
        nn.Linear(columns, 768), nn.ReLU(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, classes)
    )
    return net


def test_it_is_the_network_written_out():
    torch.manual_seed(0)
    net = small_cnn3d(num_classes=3, input_size=(35, 17, 9)).double()
    same = written_out(6 * 3 * 2 * 1, 3).double()
    same.load_state_dict(net.state_dict(), strict=True)
    x = torch.randn(4, 1, 35, 17, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x), same.classifier(same.features(x).flatten(1)))


side = st.integers(1, 70)


@given(st.tuples(side, side, side), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30)
def test_any_size(size, classes, channels):
    with torch.device("meta"):
        net = small_cnn3d(num_classes=classes, input_size=size, in_channels=channels)
        assert net(torch.empty(2, channels, *size)).shape == (2, classes)


@pytest.mark.parametrize("size", [64, (64, 64), (64, 64, 64, 64), (64, 64, 0), (64, 64, 32.5), ("64", 64, 64), None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"input_size is .*three sides in voxels"):
        small_cnn3d(input_size=size)


# The last has as many voxels, along other axes.
@pytest.mark.parametrize("shape", [(16, 16, 16), (49, 33, 17), (17, 33, 48)])
def test_volumes_of_another_size(shape):
    net = small_cnn3d(input_size=(48, 33, 17), norm_layer=group_norm)
    assert net(torch.zeros(1, 1, 48, 33, 17)).shape == (1, 1)
    with pytest.raises(ValueError, match=r"network made for \(48, 33, 17\)"):
        net(torch.zeros(1, 1, *shape))


def test_every_normalization_layer_comes_from_norm_layer():
    made = []
    net = small_cnn3d(input_size=(8, 8, 8), norm_layer=lambda channels: made.append(channels) or nn.Identity())
    assert made == [3, 6, 6, 6]
    assert not any(isinstance(module, nn.BatchNorm3d) for module in net.modules())
