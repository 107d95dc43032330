"""The protocols of evaluation under shift."""

import math

import numpy as np
import pytest

from shrinkstats.estimators import BatchStatistics

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.robustness.protocols import evaluate, ranks  # noqa: E402
from shrinkstats.adapters.torch import adapt  # noqa: E402


class Head(nn.Module):
    """Logits are the channel means of normalized images without their negative part."""

    def __init__(self, classes=8):
        super().__init__()
        self.bn = nn.BatchNorm2d(classes)
        self.eval()

    def forward(self, x):
        return self.bn(x).relu().mean((2, 3))


def data(images=40, classes=8, seed=0, signal=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    x = torch.randn(images, classes, 3, 3, generator=generator)
    x[torch.arange(images), labels] += signal
    return x, labels


@pytest.mark.parametrize("size", [1, 4, 7, None])
@pytest.mark.parametrize("portion", [3, 10, 100])
@torch.no_grad()
def test_ranks_are_those_of_a_loop(size, portion, monkeypatch):
    monkeypatch.setattr("shrinkstats.adapters.robustness.protocols.PASS", 8)
    net = adapt(Head(), BatchStatistics())
    x, y = data()
    step = size or 40
    expected = []
    for i in range(0, 40 // step * step, step):
        order = net(x[i : i + step]).argsort(1, descending=True)
        expected += [row.tolist().index(label) for row, label in zip(order, y[i : i + step].tolist(), strict=True)]
    loader = zip(x.split(portion), y.split(portion), strict=True)
    assert ranks(net, loader, size).tolist() == expected


def test_constant_and_broken_outputs_are_never_right():
    x, y = torch.zeros(4, 8, 3, 3), torch.tensor([0, 1, 2, 7])
    assert ranks(Head(), [(x, y)], 1).tolist() == [7, 7, 7, 7]
    x[0] = math.nan
    assert ranks(Head(), [(x, y)], 1)[0] == 7


def test_scores_and_their_mean():
    shifts = {"a": [data(seed=1)], "b": [data(seed=2, signal=0.2)]}
    net = adapt(Head(), BatchStatistics())
    a, b, mean = evaluate(net, shifts, "partial")
    assert [s.shift for s in (a, b, mean)] == ["a", "b", "mean"]
    assert (a.batch_size, a.images, mean.images) == (8, 40, 80)
    place = ranks(net, shifts["a"], 8)
    assert a.top1 == (place < 1).mean()
    assert a.top5 == (place < 5).mean()
    assert mean.top1 == pytest.approx((a.top1 + b.top1) / 2)
    assert a.top1_interval[0] < a.top1 < a.top1_interval[1]
    widths = [np.diff(s.top1_interval)[0] for s in (a, b, mean)]
    assert widths[2] < max(widths[:2])
    assert evaluate(net, shifts, "partial") == [a, b, mean]
    assert str(a).startswith("a, n = 8: ")
    assert len(evaluate(net, {"a": shifts["a"]}, 4)) == 1


def test_intervals_cover():
    """Of independent images, about as often as they say: 200 intervals, six standard errors."""
    net, truth = Head(), ranks(Head(), [data(20_000, seed=99)], 1)
    expected, covered = (truth < 1).mean(), 0
    for seed in range(200):
        (score,) = evaluate(net, {"x": [data(100, seed=seed)]}, 1, resamples=300)
        low, high = score.top1_interval
        covered += low <= expected <= high
    assert abs(covered / 200 - 0.95) < 6 * (0.95 * 0.05 / 200) ** 0.5


def test_full_takes_all_images_at_once_and_has_no_interval():
    net = adapt(Head(), BatchStatistics())
    x, y = data()
    (score,) = evaluate(net, {"x": zip(x.split(7), y.split(7), strict=True)}, "full")
    with torch.no_grad():
        assert score.top1 == pytest.approx(float((net(x).argmax(1) == y).float().mean()))
    assert math.isnan(score.top1_interval[0])
    assert "full" in str(score)


def test_errors():
    net, shifts = Head(), {"x": [data(5)]}
    with pytest.raises(ValueError, match="ad hoc, partial, full"):
        evaluate(net, shifts, "all")
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(net, shifts, 0)
    with pytest.raises(ValueError, match="5 images do not fill a batch of 8"):
        evaluate(net, shifts, "partial")
    with pytest.raises(ValueError, match="empty"):
        evaluate(net, {}, 1)
    with pytest.raises(ValueError, match="confidence"):
        evaluate(net, shifts, 1, confidence=95)
    with pytest.raises(ValueError, match="5 images with 4 labels"):
        evaluate(net, {"x": [(data(5)[0], torch.zeros(4, dtype=torch.int64))]}, 1)


def test_a_network_can_be_trained_after_an_evaluation():
    class Caching(Head):
        table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.ones(8) + x.mean()
            return super().forward(x) * self.table

    net = Caching()
    ranks(net, [data()], 8)
    net(data()[0]).sum().backward()
    assert net.bn.weight.grad is not None
