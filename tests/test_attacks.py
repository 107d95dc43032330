"""Attacks: what they may change, what they must reach, and that gradients pass through batch statistics."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from shrinkstats import estimators  # noqa: E402
from shrinkstats.adapters.attacks import (  # noqa: E402
    BIM,
    FGSM,
    PGD,
    Attack,
    ClippedCauchyNoise,
    GaussianNoise,
    Gradient,
    Occlusion,
    Passes,
    Standardized,
    classification,
    count_passes,
    margin,
    over_mates,
    regrouped,
    segmentation,
)
from shrinkstats.adapters.attacks.gradients import in_ball, project  # noqa: E402
from shrinkstats.adapters.torch import convert  # noqa: E402
from shrinkstats.theory import ClippedCauchy  # noqa: E402

ATTACKS = [
    Gradient(0.05),
    FGSM(0.05),
    BIM(0.05, steps=3),
    PGD(0.05, steps=3),
    PGD(0.05, steps=2, restarts=3),
    PGD(0.3, steps=3, norm="l2"),
    PGD(0.3, steps=2, norm="l2", restarts=2),
    GaussianNoise(0.01),
    ClippedCauchyNoise(0.1),
    Occlusion(2, stride=1, steps=3),
    Occlusion((2, 3), stride=2, candidates=None, steps=3),
]
BALLS = [(a, "linf", a.eps) for a in ATTACKS[1:5]] + [(a, "l2", a.eps) for a in ATTACKS[5:7]]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, shape=(3, 5, 6), seed=0, dtype=torch.float32):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=dtype)


def perceptron(shape=(3, 5, 6), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.Tanh(), nn.Linear(8, 3))


def normalized(estimator=None, **options):
    """A small network in double precision that normalizes with the batch's statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU(), nn.Conv2d(4, 3, 3)]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        with torch.no_grad():
            net[1].weight.uniform_(0.5, 2)
            net[1].bias.uniform_(-1, 1)
    return net if estimator is None else convert(net, estimator)


def lengths(change, norm):
    rows = change.flatten(1).double()
    return rows.abs().amax(1) if norm == "linf" else rows.norm(dim=1)


# What holds for all of them


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_result_is_an_image_and_nothing_else_changes(attack, dtype):
    net = perceptron().to(dtype)
    net[0].eval()
    modes = [m.training for m in net.modules()]
    net[1].weight.grad = torch.ones_like(net[1].weight)
    images = pictures().to(dtype)
    before = images.clone()
    changed = attack(classification(net, torch.arange(6) % 3), images, generator=seeded())
    assert changed.dtype == dtype
    assert changed.shape == images.shape
    assert not changed.requires_grad
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.equal(changed, images)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(net[1].weight.grad, torch.ones_like(net[1].weight))
    assert all(p.grad is None for p in net.parameters() if p is not net[1].weight)


@given(
    ball=st.sampled_from(BALLS),
    low=st.floats(-3, 0.5),
    width=st.floats(0.1, 4),
    n=st.integers(1, 4),
    shape=st.sampled_from([(7,), (2, 4, 5), (1, 2, 3, 4)]),
    seed=st.integers(0, 100),
)
def test_attacks_stay_in_their_ball_and_range(ball, low, width, n, shape, seed):
    attack, norm, eps = ball
    bounds = (low, low + width)
    images = (low + width * pictures(n, shape, seed)).clamp(*bounds)
    target = pictures(n, shape, seed + 1)
    changed = attack(lambda x: (x - target).square().flatten(1).sum(1), images, generator=seeded(seed), bounds=bounds)
    assert (lengths(changed - images, norm) <= eps * (1 + 1e-5) + 1e-6).all()
    assert low <= float(changed.min()) + 1e-6
    assert float(changed.max()) <= low + width + 1e-6


@pytest.mark.parametrize("attack", ATTACKS[:7], ids=repr)
def test_the_loss_rises(attack):
    # A smooth network and a small ball: every image's loss must rise, with fixed seeds.
    loss = classification(perceptron(), torch.arange(6) % 3)
    images = 0.4 + 0.2 * pictures()
    assert (loss(attack(loss, images, generator=seeded())) > loss(images)).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_under_no_grad_and_inference_the_same(attack):
    images = pictures()
    loss = classification(perceptron(), torch.arange(6) % 3)
    plain = attack(loss, images, generator=seeded())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(attack(loss, images * 1, generator=seeded()), plain)


@pytest.mark.parametrize("attack", [*ATTACKS[3:9]], ids=repr)
def test_random_numbers_come_from_the_generator_alone(attack):
    loss = classification(perceptron(), torch.arange(6) % 3)
    state = torch.random.get_rng_state()
    one, two, other = (attack(loss, pictures(), generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert torch.equal(attack(loss, pictures()), one)


def test_no_images_are_no_trouble():
    for attack in ATTACKS:
        assert attack(lambda x: x.flatten(1).sum(1), torch.empty(0, 3, 5, 6)).shape == (0, 3, 5, 6)


@pytest.mark.parametrize(
    ("images", "loss", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), None, TypeError, "images must be a floating tensor.*got torch.uint8"),
        (np.zeros((2, 3)), None, TypeError, "got ndarray"),
        (torch.zeros(3), None, ValueError, r"shape \(n, ...\), got \(3,\)"),
        (torch.full((2, 3), 1.5), None, ValueError, "from 0 to 1, got values from 1.5 to 1.5; pass images before"),
        (torch.full((2, 3), math.nan), None, ValueError, "got values from nan"),
        (torch.zeros(2, 3), lambda x: x.sum(), ValueError, r"has shape \(\), expected \(2,\): return one loss"),
        (torch.zeros(2, 3), lambda x: x.detach().sum(1), ValueError, "does not depend on the images"),
        (torch.zeros(2, 3), lambda x: torch.ones(2, requires_grad=True) * 2, ValueError, "does not depend"),
        (torch.zeros(2, 3), lambda x: x.sum(1) * math.nan, ValueError, "ended in NaN"),
    ],
)
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2), PGD(steps=2, norm="l2"), Gradient()], ids=repr)
def test_bad_input(attack, images, loss, error, message):
    with pytest.raises(error, match=message):
        attack(loss, images)


def test_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"bounds must be \(low, high\) with low < high, got \(1, 0\)"):
        FGSM()(None, torch.zeros(1, 1), bounds=(1, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(0), "eps must be above 0"),
        (lambda: FGSM(-1), "eps must be above 0"),
        (lambda: Gradient(math.nan), "eps must be above 0"),
        (lambda: BIM(steps=0), "steps must be at least 1, got 0"),
        (lambda: BIM(step=0), "step must be above 0"),
        (lambda: PGD(norm="l1"), 'norm must be "linf" or "l2", got \'l1\''),
        (lambda: PGD(restarts=0), "restarts must be at least 1"),
        (lambda: PGD(restarts=2, random_start=False), "all 2 restarts are the same"),
        (lambda: GaussianNoise(0), "variance must be above 0"),
        (lambda: ClippedCauchyNoise(-1), "scale must be above 0"),
        (lambda: Occlusion(0), "size must be at least 1"),
        (lambda: Occlusion(stride=0), "stride must be at least 1"),
        (lambda: Occlusion(candidates=0), "candidates must be at least 1"),
        (lambda: Occlusion(step=-1), "step must be above 0"),
        (lambda: regrouped(nn.Identity(), 0), "a batch has at least 1 image"),
        (lambda: over_mates(None, nn.Identity(), 2, draws=0), "draws must be at least 1"),
        (lambda: Standardized(nn.Identity(), [0.5], [0.5, 0.5]), "as many"),
        (lambda: Standardized(nn.Identity(), [0.5], [0.0]), "each std above 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_attack_without_a_way_to_change():
    with pytest.raises(NotImplementedError, match=r"Attack must define _change\(loss, images, generator, bounds\)"):
        Attack()(None, torch.zeros(1, 1))


# Gradient attacks


def naive(images, slope, *, eps, steps, step, norm, low=0.0, high=1.0, start=None):
    """PGD one image at a time, in NumPy, from a formula for the gradient."""
    done = []
    for k, image in enumerate(images):
        x = image.copy() if start is None else start[k].copy()
        for _ in range(steps):
            g = slope(x, k)
            if norm == "linf":
                x = np.clip(x + step * np.sign(g), image - eps, image + eps)
            else:
                x = x + step * g / math.sqrt((g * g).sum())
                length = math.sqrt(((x - image) ** 2).sum())
                x = image + (x - image) * min(1.0, eps / length)
            x = np.clip(x, low, high)
        done.append(x)
    return np.stack(done)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("step", [None, 0.05])
def test_descent_against_a_naive_one(norm, step):
    images, target = pictures(5, (2, 3, 4), dtype=torch.float64), pictures(5, (2, 3, 4), seed=1, dtype=torch.float64)
    weight = 1 + pictures(1, (2, 3, 4), seed=2, dtype=torch.float64)
    attack = PGD(0.2, steps=7, step=step, norm=norm, random_start=False)
    changed = attack(lambda x: (weight * (x - target) ** 2).flatten(1).sum(1), images)
    w, t = weight[0].numpy(), target.numpy()
    expected = naive(
        images.numpy(),
        lambda x, k: 2 * w * (x - t[k]),
        eps=0.2,
        steps=7,
        step=2.5 * 0.2 / 7 if step is None else step,
        norm=norm,
    )
    np.testing.assert_allclose(changed.numpy(), expected, rtol=0, atol=1e-12)


@given(st.floats(0.01, 0.5), st.integers(0, 1000))
def test_the_best_change_of_a_linear_loss(eps, seed):
    """FGSM, BIM and PGD reach the maximum in the cube cut to the range, PGD in l2 that in the ball."""
    weight = torch.randn(12, generator=seeded(seed), dtype=torch.float64)
    images = pictures(3, (12,), seed, torch.float64)
    best = (images + eps * weight.sign()).clamp(0, 1)
    for attack in (FGSM(eps), BIM(eps, steps=4), PGD(eps, steps=4)):
        torch.testing.assert_close(attack(lambda x: x @ weight, images, generator=seeded()), best)
    attack = PGD(eps, steps=100, step=0.1 * eps, norm="l2")
    inside = attack(lambda x: x @ weight, images, generator=seeded(), bounds=(-2, 3))
    torch.testing.assert_close(inside, images + eps * weight / weight.norm(), rtol=0, atol=1e-2 * eps)


def test_a_step_along_the_gradient_has_the_root_mean_square_asked_for():
    images = pictures(4, (3, 5, 6), dtype=torch.float64) / 2 + 0.25
    net = perceptron().double()
    loss = classification(net, torch.tensor([0, 1, 2, 0]))
    change = Gradient(0.01)(loss, images) - images
    torch.testing.assert_close(change.square().mean((1, 2, 3)).sqrt(), torch.full((4,), 0.01, dtype=torch.float64))
    fgsm = FGSM(0.01)(loss, images) - images
    torch.testing.assert_close(lengths(change, "l2"), lengths(fgsm, "l2"))
    slope = slopes(loss, images)
    cosine = functional.cosine_similarity(change.flatten(1), slope.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-8)


def slopes(loss, images, h=1e-6):
    """Central differences of the summed loss."""
    found = torch.empty_like(images)
    for index in np.ndindex(*images.shape):
        up, down = images.clone(), images.clone()
        up[index] += h
        down[index] -= h
        with torch.no_grad():
            found[index] = float(loss(up).sum() - loss(down).sum()) / (2 * h)
    return found


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_gradients_still_point_somewhere(size):
    way = torch.tensor([3.0, 4.0])
    changed = PGD(0.1, steps=1, step=0.1, norm="l2", random_start=False)(
        lambda x: size * (x @ way), torch.full((1, 2), 0.5)
    )
    torch.testing.assert_close(changed, torch.tensor([[0.56, 0.58]]))


@pytest.mark.parametrize("attack", [FGSM(0.1), Gradient(0.1), PGD(0.1, norm="l2", random_start=False)], ids=repr)
def test_without_a_slope_nothing_moves(attack):
    images = pictures(2, (4,))
    assert torch.equal(attack(lambda x: 0 * x.sum(1), images), images)


@given(st.sampled_from(["linf", "l2"]), st.floats(0.01, 3), st.integers(0, 1000))
def test_the_projection_is_the_nearest_point(norm, eps, seed):
    images = torch.randn(4, 2, 5, generator=seeded(seed), dtype=torch.float64)
    x = images + 2 * torch.randn(4, 2, 5, generator=seeded(seed + 1), dtype=torch.float64)
    near = project(x, images, norm, eps, (-math.inf, math.inf))
    assert (lengths(near - images, norm) <= eps * (1 + 1e-12)).all()
    torch.testing.assert_close(project(near, images, norm, eps, (-math.inf, math.inf)), near)
    # Nearest in a convex set: no point of the set lies beyond the tangent plane.
    for other in range(5):
        z = images + in_ball(images, norm, eps, seeded(seed + 2 + other))
        assert (((x - near) * (z - near)).flatten(1).sum(1) <= 1e-9).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm):
    draws = in_ball(torch.zeros(4000, 3), norm, 0.5, seeded()).double()
    # Uniform in a ball of either norm: (length / eps)^dimension is uniform.
    assert stats.kstest((lengths(draws, norm) / 0.5).numpy() ** 3, "uniform").pvalue > 1e-3
    error = draws.std(0) / math.sqrt(len(draws))
    assert (draws.mean(0).abs() < 4 * error).all()
    octants = np.bincount(((draws > 0).long() @ torch.tensor([1, 2, 4])).numpy(), minlength=8)
    assert stats.chisquare(octants).pvalue > 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarts_take_the_best_start_of_every_image(norm):
    loss = classification(perceptron(), torch.arange(6) % 3)
    images, generator = pictures(), seeded(5)
    attack = PGD(0.3, steps=2, step=0.1, norm=norm)
    starts = [attack(loss, images, generator=generator) for _ in range(4)]
    best = PGD(0.3, steps=2, step=0.1, norm=norm, restarts=4)(loss, images, generator=seeded(5))
    each = torch.stack([loss(x) for x in starts])
    assert len(set(each.argmax(0).tolist())) > 1, "the case is dull: one start is best for all"
    torch.testing.assert_close(loss(best), each.amax(0))


def test_restarts_of_images_that_share_statistics_are_no_worse_than_a_whole_start():
    # The second image's loss is large only beside the first one's own start: mixing starts breaks it.
    def loss(x):
        one, two = x[:, 0]
        return torch.stack([one, -40 * (one - two).square()])

    def run(restarts):
        return PGD(0.4, steps=1, step=1e-6, restarts=restarts)(loss, images, generator=seeded(2))

    images = torch.full((2, 1), 0.5)
    generator = seeded(2)
    starts = [PGD(0.4, steps=1, step=1e-6)(loss, images, generator=generator) for _ in range(6)]
    losses = torch.stack([loss(x) for x in starts])
    mixed = torch.stack(starts)[losses.argmax(0), torch.arange(2)]
    assert loss(mixed).sum() < losses.sum(1).max(), "the case is dull: mixing does no harm"
    assert torch.equal(run(6), starts[losses.sum(1).argmax()])


# Losses


def test_losses_against_their_definitions():
    logits = torch.randn(5, 4, generator=seeded(), dtype=torch.float64) - 5
    labels = torch.tensor([0, 3, 1, 2, 2])
    cross, gap = classification(nn.Identity(), labels)(logits), margin(nn.Identity(), labels)(logits)
    for row, label, c, g in zip(logits.tolist(), labels.tolist(), cross.tolist(), gap.tolist(), strict=True):
        assert c == pytest.approx(math.log(sum(map(math.exp, row))) - row[label])
        assert g == pytest.approx(max(v for k, v in enumerate(row) if k != label) - row[label])


def test_the_margin_has_a_slope_where_the_cross_entropy_has_none():
    def sure(x):
        return 1e4 * x

    images, labels = torch.tensor([[0.9, 0.1, 0.2]]), torch.tensor([0])
    assert torch.equal(FGSM(0.1)(classification(sure, labels), images), images)
    changed = FGSM(0.1)(margin(sure, labels), images)
    torch.testing.assert_close(changed, torch.tensor([[0.8, 0.1, 0.3]]))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
def test_segmentation_of_images_and_volumes(shape):
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(shape)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = conv(2, 3, 1).double()
    images = 0.3 + 0.4 * pictures(3, (2, *shape), dtype=torch.float64)
    labels = torch.randint(0, 3, (3, *shape), generator=seeded())
    labels[0, 0] = 255
    labels[2] = 255
    loss = segmentation(net, labels)
    logits = net(images).detach()
    for k, value in enumerate(loss(images).tolist()):
        pixels = [
            float(functional.cross_entropy(logits[(k, slice(None), *p)], labels[(k, *p)]))
            for p in product(*map(range, shape))
            if labels[(k, *p)] != 255
        ]
        assert value == pytest.approx(sum(pixels) / max(1, len(pixels)))
    changed = PGD(0.05, steps=3, random_start=False)(loss, images)
    assert (loss(changed)[:2] > loss(images)[:2]).all()
    ignored = (labels == 255)[:, None].expand_as(images)
    assert torch.equal(changed[ignored], images[ignored])
    assert not (changed[~ignored] == images[~ignored]).any()


# Batch statistics

RULES = [
    None,
    estimators.BatchStatistics(),
    estimators.Stein(),
    estimators.Stein.published(),
    estimators.RobustNorm(),
    estimators.Ridge(0.1),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("tracked", [True, False])
def test_gradients_flow_through_batch_statistics(rule, tracked):
    """The attack's direction on an image includes what it does to its mates."""
    net = normalized(rule, track_running_stats=tracked)
    net.train(tracked)
    images = pictures(3, (2, 5, 5), dtype=torch.float64)

    def first(x):  # the others' own losses do not count
        losses = functional.cross_entropy(net(x), torch.tensor([0, 1, 2]), reduction="none")
        return losses * torch.tensor([1.0, 0.0, 0.0])

    slope = slopes(first, images)
    assert (slope[1:].abs() > 1e-6).any(), "the mates take no part"
    radius = 1e-3 * math.sqrt(images[0].numel())
    change = Gradient(1e-3)(first, images, bounds=(-1, 2)) - images
    expected = radius * slope / lengths(slope, "l2").reshape(-1, 1, 1, 1)
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-5 * radius)


def test_running_statistics_keep_mates_apart():
    net = normalized(estimators.Stein()).eval()
    images, labels = pictures(4, (2, 5, 5), dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    together = PGD(steps=3, random_start=False)(classification(net, labels), images)
    pairs = zip(images.split(1), labels.split(1), strict=True)
    alone = [PGD(steps=3, random_start=False)(classification(net, label), image) for image, label in pairs]
    torch.testing.assert_close(together, torch.cat(alone))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 99))
def test_seats_are_drawn_and_outputs_keep_their_order(groups, size, others, seed):
    seats = groups * size
    images = torch.arange(float(seats - min(others, seats - 1)))[:, None]
    mates = -1 - torch.arange(float(seats - len(images)))[:, None]
    batches = []

    def net(x):
        batches.append(x.flatten().tolist())
        return 2 * x

    outputs = regrouped(net, size, mates=mates, generator=seeded(seed))(images)
    assert torch.equal(outputs, 2 * images)
    assert [len(batch) for batch in batches] == [size] * groups
    assert sorted(v for batch in batches for v in batch) == sorted(torch.cat([images, mates]).flatten().tolist())


def test_seats_must_fill_batches():
    with pytest.raises(ValueError, match="5 images and 2 mates do not divide into batches of 3; pass a multiple"):
        regrouped(nn.Identity(), 3, mates=torch.zeros(2, 1))(torch.zeros(5, 1))


def test_the_mean_over_mates_is_that_over_all_seatings():
    values = torch.tensor([[0.1], [0.4], [0.7], [0.2]], dtype=torch.float64)

    def loss_of(net):
        return lambda x: net(x).flatten()

    def against_mate(pair):
        return (pair - pair.flip(0)).square()

    exact = torch.stack([((values - values.roll(k, 0)) ** 2).flatten() for k in (1, 2, 3)])
    found = over_mates(loss_of, against_mate, 2, draws=3000, generator=seeded())(values)
    error = exact.std(0, correction=0) / math.sqrt(3000)
    assert ((found - exact.mean(0)).abs() < 4 * error).all()


def test_an_attack_that_knows_of_other_mates():
    """Among other mates it raises the loss, on average, more than one made with fixed mates does."""
    net = normalized(estimators.BatchStatistics(), track_running_stats=False)
    images, labels = 0.3 + 0.4 * pictures(8, (2, 5, 5), dtype=torch.float64), torch.arange(8) % 3
    make = partial(classification, labels=labels)
    attack = PGD(0.1, steps=10, random_start=False)

    def fixed(x):  # pairs as they come
        return make(lambda x: torch.cat([net(pair) for pair in x.split(2)]))(x)

    aware = attack(over_mates(make, net, 2, draws=8, generator=seeded(1)), images)
    judged = [over_mates(make, net, 2, draws=60, generator=seeded(7))(x).mean() for x in (attack(fixed, images), aware)]
    assert judged[1] > judged[0]


# Occlusion


def rectangles(shape, size, stride):
    """All rectangles of the grid, as tuples of slices."""
    starts = [range(0, length - side + 1, stride) for length, side in zip(shape, size, strict=True)]
    return [tuple(slice(s, s + side) for s, side in zip(start, size, strict=True)) for start in product(*starts)]


@pytest.mark.parametrize(
    ("shape", "size", "stride"), [((7,), (2,), 1), ((6, 7), (2, 3), 2), ((6, 7), (3, 2), 1), ((3, 4, 5), (2, 2, 2), 1)]
)
@pytest.mark.parametrize("candidates", [None, 3])
def test_the_place_against_a_naive_search(shape, size, stride, candidates):
    images = pictures(4, (2, *shape), dtype=torch.float64)
    net = perceptron((2, *shape)).double()
    loss = classification(net, torch.tensor([0, 1, 2, 0]))
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x).sum(), x)
    changed = Occlusion(size, stride, candidates, steps=1, step=1e-9)(loss, images)
    for k in range(4):
        places = rectangles(shape, size, stride)
        if candidates is not None:
            places.sort(key=lambda p: -float(slope[(k, slice(None), *p)].square().sum()))
            places = places[:candidates]
        tried = []
        for place in places:
            gray = images[k].clone()
            gray[(slice(None), *place)] = 0.5
            tried.append((functional.cross_entropy(net(gray[None])[0], loss.labels[k]).item(), gray))
        torch.testing.assert_close(changed[k], max(tried, key=lambda pair: pair[0])[1], rtol=0, atol=1e-8)


@given(st.integers(1, 4), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 99))
def test_one_rectangle_an_image_changes(size, stride, candidates, seed):
    images = pictures(3, (2, 6, 7), seed)
    loss = classification(perceptron((2, 6, 7), seed), torch.tensor([0, 1, 2]))
    changed = Occlusion(size, stride, candidates, steps=3)(loss, images)
    for touched in (changed != images).any(1):
        rows, columns = (touched.any(axis).nonzero().flatten() for axis in (1, 0))
        assert rows[-1] - rows[0] < size
        assert columns[-1] - columns[0] < size


def test_the_content_raises_the_loss_beyond_gray():
    images = pictures()
    loss = classification(perceptron(), torch.arange(6) % 3)
    gray = Occlusion(3, steps=1, step=1e-9)(loss, images)
    assert (loss(Occlusion(3)(loss, images)) > loss(gray)).all()


@pytest.mark.parametrize(("size", "shape"), [(8, (3, 5, 6)), ((2, 2, 2), (3, 5, 6)), (1, (4,)), (1, (1, 2, 2, 2, 2))])
def test_rectangles_that_do_not_fit(size, shape):
    with pytest.raises(ValueError, match="does not fit images of shape"):
        Occlusion(size)(lambda x: x.flatten(1).sum(1), pictures(2, shape))


def test_gray_needs_bounds():
    with pytest.raises(ValueError, match="middle gray of the bounds"):
        Occlusion(2)(lambda x: x.flatten(1).sum(1), pictures(), bounds=(-math.inf, math.inf))


# Noise


def test_gaussian_noise_has_its_variance():
    x = GaussianNoise(0.25)(None, torch.zeros(1, 40_000), generator=seeded(), bounds=(-math.inf, math.inf))
    assert stats.kstest(x.numpy().ravel(), stats.norm(scale=0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("gray", [0.5, 0.2])
def test_cauchy_noise_has_the_law_of_the_published_code(gray):
    x = ClippedCauchyNoise(0.1)(None, torch.full((1, 40_000), gray), generator=seeded()).numpy().ravel()
    law = stats.cauchy(loc=gray, scale=0.1 / math.sqrt(2))
    inside = x[(x > 0) & (x < 1)]
    for share, expected in (((x == 0).mean(), law.cdf(0)), ((x == 1).mean(), law.sf(1))):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / x.size)
    between = law.cdf(1) - law.cdf(0)
    assert stats.kstest(inside, lambda v: (law.cdf(v) - law.cdf(0)) / between).pvalue > 1e-3
    if gray == 0.5:
        spread = ((x - 0.5) ** 2).std() / math.sqrt(x.size)
        assert abs(((x - 0.5) ** 2).mean() - ClippedCauchy(0.1).variance) < 4 * spread


# Cost, and images before standardization


@pytest.mark.parametrize(
    ("attack", "forward", "backward"),
    [
        (FGSM(), 1, 1),
        (Gradient(), 1, 1),
        (BIM(steps=20), 20, 20),
        (PGD(steps=7), 7, 7),
        (PGD(steps=5, restarts=3), 3 * 5 + 3 + 1, 15),
        (Occlusion(2, candidates=6, steps=4), 1 + 6 + 4, 5),
        (Occlusion(2, stride=1, candidates=None, steps=4), 4 * 5 + 4, 4),
        (GaussianNoise(), 0, 0),
    ],
    ids=repr,
)
def test_passes(attack, forward, backward):
    net = perceptron()
    with count_passes(net) as passes:
        attack(classification(net, torch.arange(6) % 3), pictures())
    assert passes == Passes(forward, backward)
    net(pictures())
    assert passes == Passes(forward, backward), "counting goes on after its end"


def test_passes_of_two_networks_are_added():
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    with count_passes(one, two) as passes:
        two(one(torch.ones(1, 3))).sum().backward()
        with torch.no_grad():
            one(torch.ones(1, 3))
    assert passes == Passes(3, 2)


def test_passes_over_mates_are_counted_batch_by_batch():
    net = normalized(track_running_stats=False)
    loss = over_mates(partial(classification, labels=torch.arange(8) % 3), net, 4, draws=3)
    with count_passes(net) as passes:
        BIM(steps=2)(loss, pictures(8, (2, 5, 5), dtype=torch.float64))
    assert passes == Passes(2 * 3 * 2, 2 * 3 * 2)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 4, 5), (2, 2, 3, 4, 5)])
def test_standardized(shape):
    images = torch.rand(shape, generator=seeded())
    out = Standardized(nn.Identity(), [0.2, 0.5], [0.1, 2.0])(images)
    for c, (mean, std) in enumerate([(0.2, 0.1), (0.5, 2.0)]):
        torch.testing.assert_close(out[:, c], (images[:, c] - mean) / std)


def test_standardized_saves_the_network_alone():
    net = Standardized(nn.Linear(2, 2), [0.2, 0.5], [0.1, 2.0])
    assert set(net.state_dict()) == {"net.weight", "net.bias"}
    assert net.double()(torch.rand(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert convert(Standardized(nn.BatchNorm1d(2), [0.0] * 2, [1.0] * 2), estimators.Stein()).net.estimator


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_on_a_gpu_with_numbers_of_the_cpu(attack):
    """Generators of the CPU draw the same numbers for either device."""
    net, images, labels = perceptron().double(), pictures(dtype=torch.float64), torch.arange(6) % 3
    here = attack(classification(net, labels), images, generator=seeded())
    there = attack(classification(net.cuda(), labels.cuda()), images.cuda(), generator=seeded())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.1179, 2.64)])
@pytest.mark.parametrize(
    "attack",
    [FGSM(0.05), BIM(0.05, 3), PGD(0.05, 3), PGD(0.05, 3, restarts=2), PGD(0.5, 3, norm="l2"), Gradient(0.05)],
    ids=str,
)
def test_rounding_does_not_leave_the_ball(attack, bounds, dtype):
    low, high = bounds
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(8, 3, 16, 16, generator=generator) * (high - low) * 0.98 + 0.98 * low).to(dtype)
    way = torch.randn(images.shape, generator=generator).to(dtype)
    changed = attack(lambda x: (x * way).float().sum((1, 2, 3)), images, generator=generator, bounds=bounds)
    change = (changed.double() - images.double()).flatten(1)
    assert changed.dtype == dtype
    assert low <= float(changed.double().min()) <= float(changed.double().max()) <= high
    largest = change.abs().amax(1) if getattr(attack, "norm", "linf") == "linf" else change.norm(dim=1)
    radius = attack.eps
    if isinstance(attack, Gradient):
        largest, radius = change.norm(dim=1), attack.eps * images[0].numel() ** 0.5
    assert float(largest.max()) <= radius * (1 + 1e-12)
    assert float(largest.max()) > 0.8 * radius
