"""Loss landscapes in filter-normalized directions (Li et al. 2018)."""

import copy
import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import convert  # noqa: E402
from shrinkstats.adapters.torch.landscape import Landscape, loss_landscape  # noqa: E402
from shrinkstats.estimators import Stein  # noqa: E402


def small_net():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    ).double()
    for _ in range(5):
        net(torch.randn(16, 3, 6, 6, dtype=torch.float64) + 0.3)
    return net


def snapshot(net):
    return copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]


def is_as_before(net, before):
    state, modes = before
    now = net.state_dict()
    return (
        list(now) == list(state)
        and all(torch.equal(now[k], v) for k, v in state.items())
        and [module.training for module in net.modules()] == modes
    )


def weight_squares(net):
    return sum(p.square().sum() for p in net.parameters() if p.ndim > 1)


def test_a_quadratic_loss_has_the_curvature_that_filter_normalization_gives():
    """Half the squared length of the weights: along any direction whose filters are as long, its second derivative
    is the squared length of the weights, whatever was drawn."""
    net = small_net()
    found = loss_landscape(net, lambda net: 0.5 * weight_squares(net), span=0.8, steps=5)
    step = found.coordinates[1] - found.coordinates[0]
    square = float(weight_squares(net).detach())
    for axis in (0, 1):
        np.testing.assert_allclose(np.diff(found.losses, 2, axis=axis) / step**2, square, rtol=1e-9)
    assert found.losses[2, 2] == pytest.approx(0.5 * square, rel=1e-12)
    # what is left is the cross term, which is the same in every cell for a quadratic loss, and small for random ways
    mixed = np.diff(np.diff(found.losses, axis=0), axis=1) / step**2
    np.testing.assert_allclose(mixed, mixed[0, 0], atol=1e-9 * square)
    assert abs(mixed[0, 0]) < 0.5 * square


def test_every_filter_has_its_own_length():
    net = small_net()
    moved = []
    loss_landscape(net, lambda net: moved.append(net) or 0.0, steps=2, directions=1)
    for name, weights in net.named_parameters():
        below, above = (dict(m.named_parameters())[name] for m in moved)
        if weights.ndim == 1:  # biases and the parameters of batch norm
            assert torch.equal(below, weights)
            assert torch.equal(above, weights)
        else:
            way = (above - below).detach() / 2
            torch.testing.assert_close(way.flatten(1).norm(dim=1), weights.detach().flatten(1).norm(dim=1))
            torch.testing.assert_close((above + below).detach() / 2, weights.detach())


def test_losses_are_those_of_weights_moved_by_hand():
    net = small_net().eval()
    x, y = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randint(5, (8,))

    def loss(net):
        return nn.functional.cross_entropy(net(x), y)

    copies = []
    found = loss_landscape(net, lambda net: copies.append(net) or loss(net), steps=3, span=0.5)
    (first,) = (dict(copies[7].named_parameters()),)  # at (0.5, 0)
    (second,) = (dict(copies[5].named_parameters()),)  # at (0, 0.5)
    for i in range(3):
        for j in range(3):
            by_hand = copy.deepcopy(net)
            with torch.no_grad():
                for name, p in by_hand.named_parameters():
                    p += (i - 1) * (first[name] - p) + (j - 1) * (second[name] - dict(net.named_parameters())[name])
            assert found.losses[i, j] == pytest.approx(float(loss(by_hand).detach()), rel=1e-9)


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize("converted", [False, True])
def test_the_mode_of_batch_norm_is_kept_and_the_net_left_alone(batch_statistics, converted):
    net = small_net()
    if converted:
        convert(net, Stein())
    net.train(batch_statistics)
    x, y = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randint(5, (8,))
    before = snapshot(net)
    other = copy.deepcopy(net)
    with torch.no_grad():
        middle = float(nn.functional.cross_entropy(other(x), y))
        other.train(not batch_statistics)
        wrong = float(nn.functional.cross_entropy(other(x), y))
    losses = loss_landscape(net, lambda net: nn.functional.cross_entropy(net(x), y), steps=3).losses
    assert losses[1, 1] == pytest.approx(middle, rel=1e-12)
    assert losses[1, 1] != pytest.approx(wrong, rel=1e-6)
    assert is_as_before(net, before)
    assert all(p.grad is None for p in net.parameters())


def test_running_statistics_do_not_drift_from_point_to_point():
    """A loss that first trains the statistics a little, then evaluates: every point starts from the same ones."""
    net = small_net()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64)

    def loss(net):
        net.train()(x)
        return net.eval()(x).square().mean()

    losses = loss_landscape(net, loss, steps=3).losses
    assert losses[1, 1] == pytest.approx(float(loss(copy.deepcopy(net)).detach()), rel=1e-12)


def test_an_interruption_leaves_the_net_alone():
    net = small_net()
    before = snapshot(net)
    calls = []

    def loss(net):
        calls.append(net)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return weight_squares(net)

    with pytest.raises(KeyboardInterrupt):
        loss_landscape(net, loss)
    assert is_as_before(net, before)


def test_the_seed_decides_and_scaling_of_a_filter_does_not():
    """Positive rescaling of a filter before batch norm changes nothing in the function, nor in the landscape."""
    net = small_net()
    x, y = torch.randn(64, 3, 6, 6, dtype=torch.float64), torch.randint(5, (64,))

    def losses(net, seed):
        return loss_landscape(net, lambda net: nn.functional.cross_entropy(net(x), y), steps=3, seed=seed).losses

    net[1].eps = 1e-20
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight *= torch.tensor([0.1, 1.0, 7.0, 30.0]).view(-1, 1, 1, 1)
        scaled[0].bias *= torch.tensor([0.1, 1.0, 7.0, 30.0])
    np.testing.assert_array_equal(losses(net, 1), losses(net, 1))
    np.testing.assert_allclose(losses(scaled, 1), losses(net, 1), rtol=1e-9)
    assert not np.allclose(losses(net, 2), losses(net, 1))


def test_a_filter_of_zeros_stays():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight[0] = 0
    seen = []
    loss_landscape(net, lambda net: seen.append(net) or 0.0, steps=2, directions=1)
    assert all(torch.equal(m.weight[0], torch.zeros(3)) for m in seen)
    assert all(not torch.equal(m.weight[1], net.weight[1]) for m in seen)


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"span": 0.0}, {"span": float("nan")}, {"directions": 3}])
def test_bad_grids(wrong):
    with pytest.raises(ValueError, match="expected steps"):
        loss_landscape(nn.Linear(2, 2), weight_squares, **wrong)


def test_a_net_without_filters():
    with pytest.raises(ValueError, match="no filters"):
        loss_landscape(nn.BatchNorm2d(3), lambda net: 0.0)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize("shape", [(5,), (5, 5)])
def test_plots(shape, tmp_path):
    """Also where some losses are infinite or not a number."""
    losses = np.random.default_rng(0).uniform(0.5, 9, shape)
    losses[0] = np.nan
    losses[1] = np.inf
    figure = Landscape(np.linspace(-1, 1, 5), losses).plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    (axis,) = figure.axes
    assert axis.lines or axis.collections
    marks = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "+"]
    assert marks == ([[[0, 0]]] if len(shape) == 2 else [])
