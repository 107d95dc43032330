"""Layers whose rows are not images: tokens, points and frames that were flattened into the batch."""

import copy

import pytest

from shrinkstats.estimators import BatchStatistics, PriorBlend, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import adapt, calibrate, grouped, reset, shift_report  # noqa: E402
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS  # noqa: E402


class Tokens(nn.Module):
    """As LeViT: a convolutional stem, tokens whose batch norm sees them flattened, and a head of one row an image."""

    def __init__(self, flat):
        super().__init__()
        self.flat = flat
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.linear, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.head = nn.BatchNorm1d(5)

    def forward(self, x):
        x = self.linear(self.stem(x).flatten(2).transpose(1, 2))  # (images, tokens, 5)
        x = self.norm(x.flatten(0, 1)).view_as(x) if self.flat else self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.relu().mean(1))


class Points(nn.Module):
    """As PointNet: the same small network for every point of a cloud (images, points, 3), and their maximum."""

    def __init__(self, flat):
        super().__init__()
        self.flat = flat
        self.linear, self.norm = nn.Linear(3, 7), nn.BatchNorm1d(7)

    def forward(self, x):
        x = self.linear(x)
        x = self.norm(x.flatten(0, 1)).view_as(x) if self.flat else self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x.amax(1)


def random(*shape, seed=0):
    """Images, each with a mean of its own, as tokens of one image have much in common."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator, dtype=torch.float64)
    return own + torch.randn(shape, generator=generator, dtype=torch.float64)


KINDS = {"tokens": (Tokens, (3, 9, 9)), "points": (Points, (10, 3))}


@pytest.fixture(params=KINDS)
def twins(request):
    """Two networks that compute the same: below one flattens its rows into the batch, and one does not."""
    kind, shape = KINDS[request.param]
    torch.manual_seed(0)
    flat = kind(True).double()
    with torch.no_grad():
        for _ in range(20):
            flat(torch.randn(16, *shape).double())
    plain = kind(False).double()
    plain.load_state_dict(flat.state_dict())
    return flat.eval(), plain.eval(), shape


def calibrated(twins):
    flat, plain, shape = twins
    batches = [random(n, *shape, seed=n) for n in (24, 24, 9)]
    return calibrate(flat, batches), calibrate(plain, batches), shape


def test_the_noise_is_that_of_images(twins):
    flat, plain, _ = calibrated(twins)
    for name in NOISE_BUFFERS:
        torch.testing.assert_close(getattr(flat.norm, name), getattr(plain.norm, name), rtol=1e-9, atol=1e-12)
    assert flat.norm.image_rows in (10, 16)
    assert plain.norm.image_rows == 1


def test_the_noise_in_closed_form():
    x = random(32, 10, 3)
    layer = nn.BatchNorm1d(3).double().eval()

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def forward(self, x):
            return self.norm(x.flatten(0, 1))

    calibrate(Flat(), [x])
    torch.testing.assert_close(layer.noise_mean, x.mean(1).var(0))


@torch.no_grad()
@pytest.mark.parametrize("rule", [SteinBlend(), PriorBlend(4), BatchStatistics()], ids=repr)
def test_adapted_it_computes_what_the_unflattened_network_does(twins, rule):
    flat, plain, shape = calibrated(twins)
    x = random(5, *shape, seed=9) + 0.3
    torch.testing.assert_close(adapt(flat, rule)(x), adapt(plain, rule)(x), rtol=1e-9, atol=1e-9)
    with grouped(flat, 1), grouped(plain, 1):
        torch.testing.assert_close(flat(x), plain(x), rtol=1e-9, atol=1e-9)
    adapt(flat, rule, memory=4), adapt(plain, rule, memory=4)
    for part in random(6, *shape, seed=2).split(2):
        torch.testing.assert_close(flat(part), plain(part), rtol=1e-9, atol=1e-9)
    assert flat.norm.adaptation.state.long.weight == plain.norm.adaptation.state.long.weight


def test_gradients_are_those_of_the_unflattened_network(twins):
    flat, plain, shape = calibrated(twins)
    x = random(5, *shape, seed=9).requires_grad_()
    found, expected = (torch.autograd.grad(adapt(net)(x).square().sum(), x)[0] for net in (flat, plain))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_the_report_is_that_of_the_unflattened_network(twins):
    flat, plain, shape = calibrated(twins)
    data = random(24, *shape, seed=5).split(8)
    for a, b in zip(shift_report(flat, data).rows, shift_report(plain, data).rows, strict=True):
        assert a["layer"] == b["layer"]
        for key in ("distance", "noise", "weight_mean", "weight_sd"):
            assert a[key] == pytest.approx(b[key], rel=1e-9)


def test_training_and_running_statistics_know_nothing_of_it(twins):
    flat, _, shape = twins
    x = random(5, *shape)
    before, trained = flat(x), copy.deepcopy(flat).train()(x)
    calibrated(twins)
    assert torch.equal(flat(x), before)
    torch.testing.assert_close(flat.train()(x), trained)


def test_rows_come_back_from_a_state_dict_and_go(twins):
    flat, plain, shape = calibrated(twins)
    rows, x = flat.norm.image_rows, random(5, *shape, seed=9)
    assert [k for k in flat.state_dict() if "extra" in k] == ["norm._extra_state"]
    assert not [k for k in plain.state_dict() if "extra" in k]
    expected = adapt(copy.deepcopy(flat))(x)
    fresh = calibrate(copy.deepcopy(plain), [random(8, *shape)])
    fresh.flat = True
    fresh.load_state_dict(flat.state_dict())
    assert fresh.norm.image_rows == rows
    assert torch.equal(adapt(fresh)(x), expected)
    fresh.load_state_dict(reset(plain).state_dict())
    assert fresh.norm.image_rows == 1


def test_uncalibrated_it_is_refused_where_images_are_counted(twins):
    flat, _, shape = twins
    x = random(4, *shape)
    adapt(flat, PriorBlend(4))
    with grouped(flat, 2), pytest.raises(ValueError, match=r"layer norm sees \d+ rows of 4 images.*calibrate"):
        flat(x)
    with pytest.raises(ValueError, match=r"layer norm sees \d+ rows of 4 images.*calibrate"):
        shift_report(flat, [x])
    assert flat.norm._watch is None
    if isinstance(flat, Tokens):
        adapt(flat, PriorBlend(4), memory=8)
        with pytest.raises(ValueError, match=r"layer norm sees 64 rows where layer stem\.1 sees 4"):
            flat(x)
        adapt(reset(flat), PriorBlend(4), memory=8, exclude=["norm"])
        flat(x), flat(x)
        with grouped(flat, 2):
            flat(x)


def test_another_number_of_rows_is_refused(twins):
    flat, *_ = calibrated(twins)
    if isinstance(flat, Points):
        with pytest.raises(ValueError, match="55 rows are no whole number of images of 10 rows"):
            adapt(flat)(random(5, 11, 3))


class Rows(nn.Module):
    """A batch norm layer after any arrangement of its rows."""

    def __init__(self, arrange):
        super().__init__()
        self.arrange, self.norm = arrange, nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.arrange(x))


CONSTANT = torch.randn(12, 3, generator=torch.Generator().manual_seed(5))
REFUSED = {
    "tokens first": (lambda x: x.transpose(0, 1).flatten(0, 1), "do not lie together"),
    "as many as are positive": (lambda x: x.flatten(0, 1)[x.flatten(0, 1)[:, 0] > 0], "saw .* rows of"),
    "of a graph": (lambda x: (x + x.roll(1, 0))[:, 0], "not independent"),
    "fewer than images": (lambda x: x[::2, 0], "saw 3 rows of 6 images"),
    "always the same": (lambda x: CONSTANT, "not the same number|not which are whose"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("sizes", [(6, 6), (6, 4)])
def test_what_cannot_be_told_is_refused_by_name(kind, sizes):
    arrange, message = REFUSED[kind]
    net = nn.Sequential(Rows(arrange), nn.BatchNorm1d(3)).eval()
    data = [random(n, 5, 3, seed=n).float() for n in sizes]
    with pytest.raises(ValueError, match=rf"layer 0\.norm.*({message})") as found:
        calibrate(net, data)
    assert "exclude=['0.norm']" in str(found.value)
    assert [type(m) for m in net.modules()] == [nn.Sequential, Rows, nn.BatchNorm1d, nn.BatchNorm1d]


def test_single_images_do_not_tell_the_order_of_rows():
    with pytest.raises(ValueError, match="layer norm saw 5 rows for every image, but not which are whose"):
        calibrate(Rows(lambda x: x.flatten(0, 1)), random(4, 1, 5, 3).float())
    net = calibrate(Rows(lambda x: x.flatten(0, 1)), [*random(4, 1, 5, 3).float(), random(2, 5, 3).float()])
    assert net.norm.image_rows == 5


def test_a_batch_piece_by_piece():
    class Pieces(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return torch.cat([self.norm(part) for part in x.split(2)])

    x = random(8, 3).float()
    net = calibrate(Pieces().eval(), [x])
    assert net.norm.image_rows == 1
    torch.testing.assert_close(net.norm.noise_mean, x.var(0))
    adapt(net)
    with grouped(net, 2):
        assert torch.isfinite(net(x)).all()


def test_random_numbers_and_dropout_are_as_without_a_second_look():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(36)).eval()

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.passes = net, 0

        def forward(self, x):
            self.passes += 1
            return self.net(nn.functional.dropout(x, 0.5, training=True))

    noisy = Noisy()
    torch.manual_seed(3)
    for _ in range(2):
        nn.functional.dropout(torch.ones(6, 3, 5, 5), 0.5)
    expected = torch.rand(3)
    torch.manual_seed(3)
    calibrate(noisy, [torch.ones(6, 3, 5, 5) + torch.arange(6.0)[:, None, None, None]] * 2)
    assert torch.equal(torch.rand(3), expected)
    assert noisy.passes == 3


def test_a_head_that_runs_only_in_training_is_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aux = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x):
            y = self.body(x)
            return (y, self.aux(y)) if self.training else y

    x = random(8, 3).float()
    with pytest.raises(ValueError, match="no image reached layer aux in evaluation") as found:
        calibrate(Auxiliary(), [x])
    assert "exclude=['aux']" in str(found.value)
    assert calibrate(Auxiliary(), [x], exclude=["aux"]).body.noise_mean is not None


def test_other_causes_of_rows_that_change_are_named():
    generator = torch.Generator().manual_seed(0)
    noisy = nn.Sequential(Rows(lambda x: x + torch.randn(x.shape, generator=generator)))
    batchwise = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    x = random(8, 3).float()
    with pytest.raises(ValueError, match=r"layer 0\.norm: .*random numbers.*torch\.manual_seed") as found:
        calibrate(noisy, [x])
    assert "exclude=['0.norm']" in str(found.value)
    with pytest.raises(ValueError, match=r"layer 1: .*a layer before it .*track_running_stats=False"):
        calibrate(batchwise, [x], exclude=["0"])
