"""convert and revert on networks."""

import copy
import io

import pytest

from shrinkstats.estimators import BatchStatistics, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, calibrate, convert, revert  # noqa: E402


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


def test_what_cannot_be_converted_is_named_and_nothing_changed():
    class Special(nn.BatchNorm2d):
        pass

    net = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(Special(3)))
    with pytest.raises(TypeError, match=r"1\.0 \(Special\)"):
        convert(net, SteinBlend())
    assert type(net[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="no batch norm layers"):
        convert(nn.Linear(2, 2), Stein())
    with pytest.raises(TypeError, match="estimator"):
        convert(net, "stein")
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        convert([1, 2], Stein())
