"""Vectors near the ends of the range, against exact fractions; slopes where a variance is zero."""

import copy
import math
import warnings
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Prior, SamplingNoise, Statistics
from shrinkstats.estimators import (
    BatchStatistics,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)

pytestmark = [pytest.mark.core, pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")]

LARGEST = np.finfo(float).max
SIZES = [5e-324, 1e-310, 1e-200, 1e-154, 1.0, 1e154, 1e200, 1e307, LARGEST]


def exact_james_stein(mean, noise, target=0, df=None, pooled=False, positive_part=True):
    """Bock's factor by fractions, which have no range."""
    mean, noise = [Fraction(float(v)) for v in mean], [Fraction(float(v)) for v in noise]
    c = len(mean)
    share = Fraction(c - 1, c) if pooled else 1
    target = sum(mean) / c if pooled else Fraction(target)
    scale = 1 if df is None else Fraction(df) / (Fraction(df) + 2)
    d = [m - target for m in mean]
    amount = max(share * sum(noise) - 2 * max(noise), 0) * scale
    squares = sum(v * v for v in d)
    factor = 1 - amount / squares if squares else Fraction(0)
    factor = max(factor, 0) if positive_part else factor
    return [target + factor * v for v in d], factor


def number(x):
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


@pytest.mark.parametrize("options", [{}, {"df": 1e-3}, {"pooled": True}, {"target": 1e308}, {"positive_part": False}])
def test_james_stein(options):
    rng = np.random.default_rng(0)
    given = {("target" if k == "pooled" else k): ("mean" if k == "pooled" else v) for k, v in options.items()}
    for size in SIZES:
        for noise_size in SIZES[2:]:  # what is not normal has fewer digits
            for common in (True, False):
                mean = rng.uniform(-1, 1, 6) * size
                noise = np.full(6, noise_size) if common else rng.uniform(0.3, 1, 6) * noise_size
                found = shrinkstats.james_stein(mean, noise_size if common else noise, **given)
                estimate, factor = exact_james_stein(mean, noise, **options)
                scale = max(abs(number(v)) for v in estimate)
                near = abs(1 - factor)  # cancellation costs digits of the factor, not of the estimate
                assert math.isclose(found.factor, number(factor), rel_tol=1e-12, abs_tol=number(min(near, 1)) * 1e-13)
                if math.isfinite(scale) and (factor == 0 or 1e-290 < abs(number(factor)) < math.inf):
                    top = max(scale, size, options.get("target", 0))
                    np.testing.assert_allclose(
                        found.estimate, [number(v) for v in estimate], rtol=1e-11, atol=1e-13 * top
                    )


def test_more_noise_than_there_are_numbers():
    assert shrinkstats.james_stein(np.ones(5), 1e308).factor == 0
    assert shrinkstats.james_stein(np.ones(5), math.inf).factor == 0
    assert shrinkstats.james_stein(np.ones(5), [1, 1, 1, 1, math.inf]).factor == 1  # its channel alone is no company
    assert shrinkstats.james_stein(np.ones(5, "float32"), 1e39).factor == 0
    assert np.isnan(shrinkstats.james_stein(np.ones(5), math.nan).factor)
    np.testing.assert_allclose(shrinkstats.james_stein(np.full(5, LARGEST), 1.0, target="mean").estimate, LARGEST)
    np.testing.assert_allclose(shrinkstats.channel_james_stein(np.full(5, LARGEST)).estimate, LARGEST)


def more_precise(*vectors):
    return [np.asarray(v, np.longdouble) for v in vectors]


@pytest.mark.parametrize("noise", [1e-300, 0.1, 10.0])
@pytest.mark.parametrize("function", ["james_stein", "pooled", "stein_blend", "calibrated", "channel", "normalize"])
def test_numbers_of_more_digits_give_what_doubles_give(function, noise):
    rng = np.random.default_rng(0)
    m, one, x = rng.normal(size=5), np.ones(5), rng.normal(0.2, 1.0, size=(8, 5, 4))
    noises = SamplingNoise(noise * one, noise * one, 0 * one)
    calls = {
        "james_stein": lambda mean: shrinkstats.james_stein(mean, noise)[:],
        "pooled": lambda mean: shrinkstats.james_stein(mean, noise, target="mean")[:],
        "stein_blend": lambda mean: shrinkstats.stein_blend(
            Statistics(0 * mean, 0 * mean + 1), Statistics(mean, 0 * mean + 2), noise=noise
        ),
        "calibrated": lambda mean: shrinkstats.stein_blend(
            Statistics(0 * mean, 0 * mean + 1), Statistics(mean, 0 * mean + 2), noise=noises
        ),
        "channel": lambda mean: shrinkstats.channel_james_stein(mean)[:],
        "normalize": lambda mean: shrinkstats.normalize(
            x.astype(mean.dtype), SteinBlend(), prior=Prior(0 * mean, 0 * mean + 1, noise * one)
        ),
    }
    (wide,) = more_precise(m)
    for found, expected in zip(calls[function](wide), calls[function](m), strict=True):
        assert found.dtype == np.longdouble
        np.testing.assert_allclose(found.astype(float), expected, rtol=1e-12, atol=1e-14)


def test_numbers_of_more_digits_have_a_range_of_their_own():
    mean, noise = np.full(6, 3.0, np.longdouble), np.full(6, 2.0, np.longdouble)
    expected = shrinkstats.james_stein(mean.astype(float), noise.astype(float)).factor
    size = np.ldexp(np.longdouble(1), min(9000, np.finfo(np.longdouble).maxexp - 30))
    half = np.sqrt(size)
    np.testing.assert_allclose(float(shrinkstats.james_stein(mean * half, noise * size).factor), expected, rtol=1e-14)


@pytest.mark.long
def test_the_largest_numbers_under_jax():
    """Whose inverses it takes for zero."""
    jax = pytest.importorskip("jax")
    for double in (False, True):
        with jax.enable_x64(double):
            largest = np.finfo(float if double else "f").max
            mean = jax.numpy.full(5, largest)
            assert shrinkstats.channel_james_stein(mean).factor == 1
            m = shrinkstats.moments(jax.numpy.full((4, 5), largest))
            np.testing.assert_array_equal(Stein()(m)[0], mean)
            np.testing.assert_allclose(shrinkstats.james_stein(mean, 1.0, target="mean").estimate, mean, rtol=1e-6)


def test_blends():
    one = np.ones(3)
    a, b = Statistics(-LARGEST * one, one), Statistics(LARGEST * one, LARGEST * one)
    half = shrinkstats.blend(a, b, n=4, strength=4)
    np.testing.assert_allclose(half.mean, 0)
    np.testing.assert_allclose(half.var, LARGEST / 2)
    for strength in (1.5e308, 1e-320, 1e300):
        expected = float(Fraction(strength) / (Fraction(strength) + Fraction(1.2e308)))
        found = shrinkstats.blend(Statistics(one, one), Statistics(0 * one, one), n=1.2e308, strength=strength)
        np.testing.assert_allclose(found.mean, expected, rtol=1e-14)
    np.testing.assert_array_equal(shrinkstats.stein_blend(a, b, noise=one).mean, LARGEST)
    np.testing.assert_array_equal(shrinkstats.stein_blend(a, Statistics(-a.mean, one), noise=1e308).mean, LARGEST)


def test_bounds_of_large_strengths_and_small_alphas():
    mpmath = pytest.importorskip("mpmath")
    source, target = Statistics(np.array([0.2]), np.array([1.0])), Statistics(np.array([0.2]), np.array([1.0]))
    with mpmath.workdps(60):
        for strength, alpha in [(1e9, 0.05), (1e12, 0.5), (4.0, 1e-12), (4.0, 1e-16), (0.5, 1e-30)]:
            n, q = 3, -2 * mpmath.log(1 - mpmath.mpf(alpha) / 2)  # chi-square with 2 degrees of freedom
            total = mpmath.mpf(strength) + n
            blended = strength / total + (n - 1) / total
            lower = (1 - mpmath.sqrt(blended)) ** 2 + n / total**2
            upper = lower + (n - 1) / (2 * total**2) * (strength / total + q / total) ** mpmath.mpf("-1.5")
            found = shrinkstats.wasserstein_bounds(source, target, n=n, strength=strength, alpha=alpha)
            np.testing.assert_allclose([v[0] for v in found], [float(lower), float(upper)], rtol=1e-11)


def far_out(shape=(6, 5, 7, 4)):
    """Channels up to the end of the range: of both signs, of one, a constant; and two of ordinary and tiny numbers."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, shape)
    x[:, 1] = rng.uniform(0.9, 1, x[:, 1].shape)
    x[:, :2] *= LARGEST
    x[:, 2] = -LARGEST
    x[:, 4] *= 1e-300
    return x


LAYOUTS = {
    "as it is": lambda x: x,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "strided": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "a table": lambda x: np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]),
    "more precise": lambda x: x.astype(np.longdouble),
}


@pytest.mark.parametrize("sample_axis", [0, None])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_means_whose_sums_leave_the_range(layout, sample_axis):
    x = LAYOUTS[layout](far_out())
    before = x.copy()
    m = shrinkstats.moments(x, sample_axis=sample_axis)
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(float)
    mean = [float(sum(map(Fraction, row.tolist())) / len(row)) for row in rows]
    np.testing.assert_allclose(m.mean, mean, rtol=1e-14)
    np.testing.assert_array_equal(m.minimum, rows.min(axis=1))
    np.testing.assert_array_equal(m.maximum, rows.max(axis=1))
    assert m.mean[2] == -LARGEST
    for spread in (m.var(), m.noise):
        np.testing.assert_array_equal(spread[:3], [np.inf, np.inf, 0])
        assert 0 < spread[3] < 1
    np.testing.assert_array_equal(x, before)


def test_a_channel_at_the_end_of_the_range_leaves_others_alone():
    x = far_out()
    alone = shrinkstats.moments(np.where(np.arange(5)[:, None, None] < 2, 0, x))
    m = shrinkstats.moments(x)
    for name in ("mean", "m2", "noise"):
        np.testing.assert_array_equal(getattr(m, name)[2:], getattr(alone, name)[2:])
    x[0, 2:4, 0, 0] = np.inf, np.nan
    m = shrinkstats.moments(x)
    np.testing.assert_array_equal(m.mean[2:4], [np.inf, np.nan])
    np.testing.assert_array_equal(m.m2[2:4], np.nan)
    assert np.isfinite(m.mean[[0, 1, 4]]).all()


def test_the_end_of_the_range_needs_no_memory():
    import tracemalloc

    x = far_out((64, 5, 256, 32))
    shrinkstats.moments(x[:10])
    tracemalloc.start()
    m = shrinkstats.moments(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(m.mean).all()
    assert peak < x.nbytes / 2


@pytest.mark.parametrize("double", [False, True])
def test_means_whose_sums_leave_the_range_under_jax(double):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(double):
        x = far_out() if double else (far_out() / LARGEST * np.finfo("f").max).astype("f")
        x[:, 4] = 1.0
        mean = np.ldexp(np.ldexp(x.astype(float), -9).mean(axis=(0, 2, 3)), 9)
        found = jax.jit(shrinkstats.moments)(x)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-14 if double else 1e-5)
        np.testing.assert_array_equal(found.var()[:3], [np.inf, np.inf, 0])
        found = jax.vmap(shrinkstats.moments)(x[None])
        np.testing.assert_allclose(found.mean[0], mean, rtol=1e-14 if double else 1e-5)
        slope = jax.grad(lambda v: shrinkstats.moments(v).mean.sum())(x)
        np.testing.assert_allclose(slope, np.full(x.shape, 5 / x.size), rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "array_api_strict"])
def test_an_infinite_variance_gives_zeros(library):
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    x = far_out()
    for rule in (BatchStatistics(), Stein(), RobustNorm(), MinMaxNorm()):
        context = pytest.importorskip("jax").enable_x64(True) if library == "jax" else nullcontext()
        with context, np.errstate(over="ignore"):  # of RobustNorm's range
            y = np.asarray(shrinkstats.normalize(module.asarray(x), rule))
        assert np.isfinite(y).all()
        np.testing.assert_array_equal(y[:, [0, 2]], 0)


def test_an_infinite_variance_gives_zeros_in_a_network():
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    for size in (1.0, 1e-8, 1e-150):
        x = torch.from_numpy(far_out() * size)
        expected = shrinkstats.moments(x)
        for rule in (BatchStatistics(), RobustNorm()):
            layer = layers.ShrinkBatchNorm2d(5, rule, momentum=1.0).double()
            y = layer(x).detach()
            assert bool(y.isfinite().all())
            assert rule != BatchStatistics() or not y[:, :3].any()
            torch.testing.assert_close(layer.running_mean, expected.mean, rtol=1e-12, atol=1e-310)
            torch.testing.assert_close(layers.fused.plain(x, None, None, layers.fused.Rule(rule, None, 1e-5)), y)


def constant_data():
    x = np.random.default_rng(0).normal(size=(6, 4, 5))
    x[:, 1] = 3.0
    return x


@pytest.mark.parametrize("rule", [BatchStatistics(), Stein(), RobustNorm(), PriorBlend(3.0), SteinBlend()], ids=str)
@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.long)])
@pytest.mark.parametrize("calibrated", [False, True])
def test_gradients_of_a_constant_channel(rule, library, calibrated):
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        x, one = constant_data(), np.ones(4)
        noise = SamplingNoise(*(module.asarray(v * one) for v in (0.05, 0.02, -0.01))) if calibrated else None
        prior = Prior(module.asarray(0 * one), module.asarray(one), noise)
        g = np.random.default_rng(1).normal(size=x.shape)

        def loss(v):
            return (shrinkstats.normalize(v, rule, prior=prior) * module.asarray(g)).sum()

        if library == "jax":
            found = np.asarray(jax.grad(loss)(x))
        else:
            leaf = module.asarray(x).requires_grad_()
            found = module.autograd.grad(loss(leaf), leaf)[0].numpy()
        assert np.isfinite(found).all()
        h = 1e-6
        for at in [(0, 0, 0), (3, 2, 4), (5, 3, 1)]:  # where nothing is constant, finite differences know
            step = np.zeros_like(x)
            step[at] = h
            slope = (float(loss(module.asarray(x + step))) - float(loss(module.asarray(x - step)))) / (2 * h)
            np.testing.assert_allclose(found[at], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalized", [False, True])
def test_slopes_of_the_distance_where_a_variance_is_zero(normalized):
    torch = pytest.importorskip("torch")
    mean, one = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    var_a = torch.tensor([1.0 if normalized else 0.0, 2.0, 1.0], dtype=torch.float64).requires_grad_()
    var_b = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64).requires_grad_()

    def distance(a, b):
        return shrinkstats.wasserstein2(Statistics(mean, a), Statistics(one, b), normalized=normalized)

    on_a, on_b = torch.autograd.grad(distance(var_a, var_b).sum(), (var_a, var_b))
    assert bool(on_a.isfinite().all() and on_b.isfinite().all())
    assert on_b[:2].tolist() == [0, 0]
    for i in (1, 2):
        step = 1e-6 * torch.eye(3, dtype=torch.float64)[i]
        slope = (distance(var_a + step, var_b) - distance(var_a - step, var_b)).sum() / 2e-6
        torch.testing.assert_close(on_a[i], slope.detach(), rtol=1e-6, atol=1e-8)


def test_a_constant_channel_in_a_network():
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    layer = layers.ShrinkBatchNorm2d(4, BatchStatistics())
    batches = [torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for x in batches:
        layer(x)
    layers.adapt(layers.calibrate(layer, batches).eval())
    x = batches[0].clone()
    x[:, 1] = 2.0
    x.requires_grad_()
    y = layer(x)
    y.pow(2).sum().backward()
    assert bool(x.grad.isfinite().all())
    rough = layers.ShrinkBatchNorm2d(4, RobustNorm())
    x.grad = None
    rough(x).pow(3).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_the_strengths_of_many_channels_need_little_memory():
    import tracemalloc

    rng = np.random.default_rng(0)
    source, target = (Statistics(rng.normal(size=40_000), rng.uniform(0.1, 3, 40_000)) for _ in range(2))
    tracemalloc.start()
    best = shrinkstats.best_strength(source, target, n=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * best.nbytes
    part = slice(39_990, None)
    alone = shrinkstats.best_strength(*(Statistics(s.mean[part], s.var[part]) for s in (source, target)), n=8)
    np.testing.assert_array_equal(best[part], alone)


def test_the_strengths_of_a_dask_array_are_a_task_a_chunk():
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.1, 2, 8) for _ in range(4)]
    source, target = (Statistics(*(da.from_array(v, chunks=3) for v in pair)) for pair in (parts[:2], parts[2:]))
    found = shrinkstats.best_strength(source, target, n=8)
    assert len(found.__dask_graph__()) < 100
    expected = shrinkstats.best_strength(Statistics(*parts[:2]), Statistics(*parts[2:]), n=8)
    np.testing.assert_array_equal(found.compute(), expected)


RULES = {
    "batch": BatchStatistics(),
    "stein": Stein(),
    "published": Stein.published(),
    "channel": Stein("channel", "channel"),
    "means alone": Stein("sampling", None),
    "jsnorm": JSNorm(),
    "robust": RobustNorm(),
    "min-max": MinMaxNorm(),
    "ridge": Ridge(),
    "lasso": Lasso(),
    "prior": PriorBlend(3.0),
    "prior alone": PriorBlend(math.inf),
    "stein blend": SteinBlend(),
    "much noise": SteinBlend(1e9),
}
BY_RANGE, OF_ITS_OWN = ("robust", "min-max"), ("batch", "ridge", "lasso", "prior", "prior alone")
PLACES = ["numpy", "torch", "jax", "training", "plain", "evaluation", "adapted", "grouped"]


def large_data(scale, which, shape=(8, 5, 3, 3)):
    """Data whose first channel, or all, or all but a constant one, are so large."""
    x = np.random.default_rng(0).normal(0.3, 1.0, shape)
    large = {"one": slice(0, 1), "all": slice(None), "a constant": slice(0, 4)}[which]
    x[:, large] *= scale
    if which == "a constant":
        x[:, 4] = 2.0
    return x


def normalized(place, rule, x, calibrated):
    """What every way to normalize makes of x."""
    c = x.shape[1]
    vectors = [np.full(c, v) for v in (0.0, 1.0, 0.05, 0.02, -0.01)]
    if place in ("numpy", "torch", "jax"):
        module = pytest.importorskip("jax.numpy" if place == "jax" else place)
        mean, var, *noise = map(module.asarray, vectors)
        prior = Prior(mean, var, SamplingNoise(*noise) if calibrated else None)
        m = shrinkstats.moments(module.asarray(x))
        assert not np.isnan(np.asarray(m.var())).any()
        assert not np.isnan(np.asarray(m.noise)).any()
        return np.asarray(shrinkstats.normalize(module.asarray(x), rule, prior=prior))
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    layer = layers.ShrinkBatchNorm2d(c, BatchStatistics() if place in ("adapted", "grouped") else rule).double()
    if calibrated:
        small = np.random.default_rng(1).normal(size=(6, *x.shape))
        layers.calibrate(layer, [torch.from_numpy(v) for v in small])
    batch = torch.from_numpy(x)
    if place == "plain":
        prior = layer._prior(batch, None, shrinkstats.moments(batch))
        return layers.fused.plain(batch, None, None, layers.fused.Rule(rule, prior, 1e-5)).numpy()
    if place in ("adapted", "grouped"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "not calibrated")
            layers.adapt(layer.eval(), rule)
        if place == "grouped":
            layer.group_size = 4
        return layer(batch).detach().numpy()
    first = layer(batch).detach().numpy()
    if place == "training":
        return first
    layer(torch.ones_like(batch) * torch.arange(8.0)[:, None, None, None])
    layer(batch)
    for buffer in (layer.running_mean, layer.running_var):
        assert not bool(buffer.isnan().any())
    return layer.eval()(batch).detach().numpy()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("place", PLACES)
def test_no_rule_makes_nan_of_large_numbers(place, rule):
    blends = isinstance(RULES[rule], SteinBlend)
    context = pytest.importorskip("jax").enable_x64(True) if place == "jax" else nullcontext()
    with context, np.errstate(all="ignore"):
        for scale in (1e150, 1e155, 1e170, 1e200, 1e300):
            for which in ("one", "all", "a constant"):
                for calibrated in (False, True) if blends else (False,):
                    case = f"{scale}, {which}, calibrated: {calibrated}"
                    y = normalized(place, RULES[rule], large_data(scale, which), calibrated)
                    assert not np.isnan(y).any(), case
                    assert which == "all" or np.isfinite(y[:, 4]).all(), case
                    if scale > 1e150 and rule not in (*BY_RANGE, "prior alone"):
                        assert not y[:, 0].any(), case
                    if which == "one" and rule in OF_ITS_OWN:
                        alone = normalized(place, RULES[rule], large_data(1.0, which), calibrated)
                        np.testing.assert_allclose(y[:, 1:], alone[:, 1:], rtol=1e-12, atol=1e-12, err_msg=case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["numpy", "torch", pytest.param("jax", marks=pytest.mark.long)])
@pytest.mark.parametrize("single", [False, True])
def test_a_channel_alone_and_statistics_of_single_precision(kind, rule, single):
    if kind == "jax":
        context = pytest.importorskip("jax").enable_x64(not single)
    else:
        context = nullcontext()
    dtype = "float32" if single else "float64"
    with context, np.errstate(all="ignore"):
        for scale in (1e15, 1e20, 1e30) if single else (1e155, 1e200, 1e300):
            for channels in (1, 2, 5):
                x = large_data(scale, "all", (8, channels, 3, 3)).astype(dtype)
                for calibrated in (False, True) if isinstance(RULES[rule], SteinBlend) else (False,):
                    y = normalized(kind, RULES[rule], x, calibrated)
                    assert not np.isnan(y).any(), (scale, channels, calibrated)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, None])
@pytest.mark.parametrize("compiled", [False, True])
def test_running_statistics_after_an_infinite_variance(dtype, momentum, compiled):
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    layer = layers.ShrinkBatchNorm2d(5, BatchStatistics(), momentum=momentum).to(getattr(torch, dtype))
    forward = torch.compile(layer, backend="eager") if compiled else layer
    scale = 1e25 if dtype == "float32" else 1e200
    batches = [torch.from_numpy(large_data(s, "one").astype(dtype)) for s in (scale, scale, 1.0)]
    for x in batches:
        forward(x)
        assert not bool(layer.running_mean.isnan().any() | layer.running_var.isnan().any())
    plain = layers.ShrinkBatchNorm2d(5, BatchStatistics(), momentum=momentum).to(getattr(torch, dtype))
    for _ in batches:
        plain(batches[-1])
    torch.testing.assert_close(layer.running_var[1:], plain.running_var[1:])
    assert float(layer.running_var[0]) == (float(plain.running_var[0]) if momentum in (0, 1) else math.inf)
    layer(torch.full_like(batches[0], math.nan))
    assert bool(layer.running_var.isnan().all())


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in BY_RANGE])
def test_a_layer_with_memory_takes_large_numbers_and_forgets_them(rule):
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    small = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 8, 5, 3, 3)))
    for memory in (4, 8, 64):
        layer = layers.ShrinkBatchNorm2d(5, BatchStatistics()).double()
        layers.adapt(layers.calibrate(layer, list(small)).eval(), RULES[rule], memory=memory)
        layer(small[0])
        expected = copy.deepcopy(layer)(small[1])
        for scale in (1e155, 1e200, 1e300):
            y = layer(torch.from_numpy(large_data(scale, "one")))
            assert not bool(y.isnan().any())
            assert rule == "prior alone" or not bool(y[:, 0].any())
        torch.testing.assert_close(layer(small[1]), expected)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_and_lipschitz_constants_of_large_numbers(rule):
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    from shrinkstats.theory import lipschitz

    with np.errstate(all="ignore"):
        for scale in (1e150, 1e155, 1e200, 1e300):
            for which in ("one", "all"):
                x = large_data(scale, which)
                found = lipschitz(x, RULES[rule], prior=Statistics(np.zeros(5), np.ones(5)))
                assert np.isfinite(found).all()
                leaf = torch.from_numpy(x).requires_grad_()
                layer = layers.ShrinkBatchNorm2d(5, RULES[rule]).double()
                layer(leaf).backward(torch.from_numpy(np.random.default_rng(1).normal(size=x.shape)))
                for v in (leaf, *layer.parameters()):
                    assert not bool(v.grad.isnan().any())


def test_compiled_rules_agree_beyond_the_range():
    from shrinkstats.kernels import vectors

    with np.errstate(all="ignore"):
        for size in (1e-200, 1e155, 1e200, math.inf):
            for which in ([0], [1, 3], slice(None)):
                mean, m2, noise = np.random.default_rng(0).uniform(0.5, 2, (3, 5))
                mean[which] *= min(size, 1e300)
                m2[which] *= size
                noise[which] *= size
                batch = shrinkstats.Moments.of_equal_samples(
                    count=8, samples=8, mean=mean, m2=m2, minimum=mean, maximum=mean, sample_m2=noise * 56
                )
                np.testing.assert_allclose(batch.noise, noise)
                for rule in (Stein(), Stein.published(), Stein("channel", "channel"), Stein("sampling", None)):
                    found = vectors.stein(mean, m2, noise, 8, *rule.rules)
                    for a, b in zip(found, rule.statistics(batch, None), strict=True):
                        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_infinite_variances_in_blends():
    one = np.ones(3)
    ordinary, endless = Statistics(0 * one, one), Statistics(0.5 * one, np.array([1.0, np.inf, 2.0]))
    kept = shrinkstats.blend(ordinary, endless, n=4, strength=math.inf)
    np.testing.assert_array_equal(kept, ordinary)
    np.testing.assert_array_equal(shrinkstats.blend(endless, ordinary, n=4, strength=0), ordinary)
    for pair in ((ordinary, endless), (endless, ordinary)):
        for noise in (0.0, 0.1, 1e9, SamplingNoise(0 * one, 0 * one, 0 * one), SamplingNoise(one, one, -0.1 * one)):
            found = shrinkstats.stein_blend(*pair, noise=noise)
            assert np.isfinite(found.mean).all()
            assert np.isfinite(found.var).tolist() == [True, False, True]
            assert np.isinf(found.var[1])
    unknown = Statistics(0.5 * one, np.array([1.0, np.inf, np.nan]))
    assert np.isnan(shrinkstats.blend(unknown, ordinary, n=4, strength=0).var[2])
    assert np.isnan(shrinkstats.stein_blend(ordinary, unknown, noise=0.1).var[2])
