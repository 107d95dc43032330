"""shift_report and the predictor of errors."""

import copy
import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

import shrinkstats
from shrinkstats import Statistics

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import adapt, calibrate, fit_error_predictor, shift_report  # noqa: E402


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    for _ in range(30):
        net(torch.randn(64, 3, 8, 8))
    return net.eval()


def batches(number=4, size=16, shift=0.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, generator=generator) + shift for _ in range(number)]


@torch.no_grad()
def test_distances_and_bounds_are_those_of_all_images(net):
    calibrate(net, batches())
    data = [*batches(3, 16, 0.5), *batches(1, 7, 0.5, seed=2)]
    report = shift_report(net, data)
    assert (report.images, report.calibrated) == (55, True)
    first, second = report.rows
    assert (first["layer"], first["depth"], first["channels"], first["n"]) == ("1", 0, 8, 16)
    assert (second["layer"], second["depth"], second["channels"]) == ("4", 1, 6)
    x = torch.cat([net[0](b) for b in data]).numpy().astype(float)
    source = Statistics(*(v.numpy().astype(float) for v in (net[1].running_mean, net[1].running_var)))
    mean, sd = x.mean((0, 2, 3)), x.std((0, 2, 3))
    squares = ((mean - source.mean) ** 2 + (sd - source.var**0.5) ** 2) / source.var
    assert first["distance"] == pytest.approx(math.sqrt(squares.mean()), rel=1e-6)
    bound = shrinkstats.best_strength(source, Statistics(mean, sd**2), n=16)
    assert first["strength_bound"] == pytest.approx(np.median(bound), rel=1e-4)
    noise = net[1].noise_mean.numpy() / 16 / source.var
    assert first["noise"] == pytest.approx(math.sqrt(noise.mean()), rel=1e-5)
    assert report.distance == pytest.approx((first["distance"] + second["distance"]) / 2)


@pytest.mark.parametrize("calibrated", [True, False])
@torch.no_grad()
def test_weights_are_those_the_layer_gives(net, calibrated):
    """Read off what the adapted layer does to its input."""
    if calibrated:
        calibrate(net, batches())
    (x,) = batches(1, 8, 0.4)
    (row, _) = shift_report(net, [x]).rows
    layer = copy.deepcopy(net[1])
    nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    inner = net[0](x).double()
    with pytest.warns(UserWarning, match="not calibrated") if not calibrated else torch.no_grad():
        y = adapt(layer.double())(inner)
    scale = (inner[:1, :, 0, 0] - inner[:1, :, 1, 1]) / (y[:1, :, 0, 0] - y[:1, :, 1, 1])
    center = (inner[:1, :, 0, 0] - y[:1, :, 0, 0] * scale)[0]
    w = ((center - layer.running_mean) / (inner.mean((0, 2, 3)) - layer.running_mean)).numpy()
    np.testing.assert_allclose(row["weight_mean"], w, rtol=1e-4)
    assert row["strength_mean"] == pytest.approx(8 * (1 - w[0]) / w[0], rel=1e-3)


def test_without_shift_there_is_little_of_it_and_weights_are_small(net):
    calibrate(net, batches(20))
    quiet, loud = (shift_report(net, batches(8, 4, shift, seed=9)) for shift in (0.0, 1.5))
    assert quiet.distance < 0.15 < loud.distance
    for a, b in zip(quiet.rows, loud.rows, strict=True):
        assert a["weight_mean"] < b["weight_mean"]
        assert a["strength_mean"] > b["strength_mean"]


def test_the_network_is_left_as_it_was(net):
    net.train()
    net[0].eval()
    before = copy.deepcopy(net.state_dict())
    report = shift_report(net, [(x, 0) for x in batches()])
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
    assert [m.training for m in net] == [False, True, True, True, True]
    assert not net[1]._forward_pre_hooks
    assert not report.calibrated
    for name, value in before.items():
        assert torch.equal(net.state_dict()[name], value)


def test_an_adapted_network_stays_adapted_and_sees_less_shift_inside(net):
    calibrate(net, batches(20))
    data = batches(4, 32, 1.5)
    before = shift_report(net, data).rows
    after = shift_report(adapt(net), data).rows
    assert net[1].adaptation is not None
    assert after[0] == before[0]
    assert after[1]["distance"] < 0.7 * before[1]["distance"]


def test_forms(net, tmp_path):
    report = shift_report(calibrate(net, batches()), batches(2))
    text = str(report)
    assert len({len(line) for line in text.splitlines()[:3]}) == 1
    assert "mean distance" in text
    rows = list(csv.DictReader(io.StringIO(report.to_csv(tmp_path / "a.csv"))))
    assert [float(r["distance"]) for r in rows] == [r["distance"] for r in report.rows]
    assert (tmp_path / "a.csv").read_text() == report.to_csv()
    report.rows[0]["strength_mean"] = math.inf
    content = json.loads(report.to_json(tmp_path / "a.json"))
    assert content["rows"][0]["strength_mean"] is None
    assert content["distance"] == report.distance
    pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")
    figure = report.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(figure.axes) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "a.png"]


def test_report_errors(net):
    with pytest.raises(ValueError, match="no images"):
        shift_report(net, [])
    with pytest.raises(TypeError, match="tensors"):
        shift_report(net, ["x"])
    with pytest.raises(ValueError, match="no running statistics"):
        shift_report(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), batches())
    with pytest.raises(ValueError, match="no batch norm layers"):
        shift_report(nn.Conv2d(3, 3, 1), batches())
    assert type(net[1]) is nn.BatchNorm2d


def test_predictor_is_the_regression_line():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=20)
    y = 0.1 + 0.5 * x + 0.02 * rng.normal(size=20)
    expected = stats.linregress(x, y)
    predictor = fit_error_predictor(x, y)
    assert predictor.slope == pytest.approx(expected.slope)
    assert predictor.intercept == pytest.approx(expected.intercept)
    assert predictor.deviation == pytest.approx(np.abs(y - expected.intercept - expected.slope * x).mean())
    assert predictor.test([0.5], [0.4]) == pytest.approx(abs(predictor(0.5) - 0.4))
    assert predictor(100.0) == 1
    assert predictor([-100.0]) == [0]


def test_predictor_errors():
    with pytest.raises(ValueError, match="2 or more distances"):
        fit_error_predictor([0.1], [0.1])
    with pytest.raises(ValueError, match=r"all 2 distances are 0\.1"):
        fit_error_predictor([0.1, 0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_error_predictor([0.1, 0.2], [10, 20])
    with pytest.raises(ValueError, match="finite"):
        fit_error_predictor([0.1, math.nan], [0.1, 0.2])


def test_a_stream_remembers_nothing_of_a_report():
    net = adapt(calibrate(nn.Sequential(nn.BatchNorm2d(3)).eval(), [torch.randn(32, 3, 4, 4)]), memory=16)
    net(torch.randn(4, 3, 4, 4))
    before = net[0].adaptation.state.long
    shift_report(net, [torch.randn(8, 3, 4, 4) + 1])
    assert net[0].adaptation.state.long is before


class Caching(nn.Module):
    """Parameters and a table that are made by the first pass."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.table = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(4.0)[:, None, None] + 1
        return self.norm(self.conv(x)) * self.table


def test_a_network_can_be_trained_after_a_report():
    net = Caching()
    shift_report(net, batches(1))
    net.train()(*batches(1)).sum().backward()
    assert net.conv.weight.grad is not None


class Pieces(nn.Module):
    """A network that takes its batch piece by piece."""

    def __init__(self, norm, size):
        super().__init__()
        self.norm, self.size = norm, size

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.split(self.size)])


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_batch_that_is_taken_piece_by_piece(size, calibrated):
    """The layer sees small batches, so these are what is reported."""
    layer = nn.BatchNorm2d(3)
    if calibrated:
        calibrate(layer, batches())
    data = batches(3, 16, 0.5)
    pieces = [part for x in data for part in x.split(size)]
    report = shift_report(Pieces(layer, size), data)
    ((row,), (expected,)) = (r.rows for r in (report, shift_report(layer, pieces)))
    assert report.images == 48
    assert row["n"] == size
    assert {k: v for k, v in row.items() if k != "layer"} == {k: v for k, v in expected.items() if k != "layer"}
