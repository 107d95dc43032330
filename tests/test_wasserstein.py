"""Distances between statistics, Prop. 1's bounds, and the strength that minimizes them."""

import math
import sys

import naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

import shrinkstats
from shrinkstats import Statistics, best_strength, wasserstein_bounds

pytestmark = pytest.mark.core

SETTINGS = [  # source mean and variance, target mean and variance
    ((0.0, 1.0), (0.5, 0.25)),
    ((0.0, 1.0), (2.0, 4.0)),
    ((-1.0, 0.3), (0.2, 1.7)),
    ((0.0, 1.0), (0.1, 1.1)),
]


def statistics(*rows):
    return Statistics(*(np.array(v) for v in zip(*rows, strict=True)))


SOURCE, TARGET = (statistics(*rows) for rows in zip(*SETTINGS, strict=True))


@given(*[st.floats(-10, 10)] * 2, *[st.floats(0, 10)] * 2)
@example(0.0, 0.0, 0.0, 0.0)
@example(1.0, 2.0, 0.0, 4.0)
def test_wasserstein2_naive(m_a, m_b, v_a, v_b):
    a, b = statistics((m_a, v_a)), statistics((m_b, v_b))
    expected = (m_a - m_b) ** 2 + (math.sqrt(v_a) - math.sqrt(v_b)) ** 2
    np.testing.assert_allclose(shrinkstats.wasserstein2(a, b), [expected], rtol=1e-12)
    np.testing.assert_allclose(shrinkstats.wasserstein2(b, a), [expected], rtol=1e-12)
    if v_a > 1e-3:
        np.testing.assert_allclose(shrinkstats.wasserstein2(a, b, normalized=True), [expected / v_a], rtol=1e-10)


def test_wasserstein2_is_the_distance_of_normal_distributions():
    gaussian = pytest.importorskip("ot.gaussian", reason="POT is not installed")
    for i, ((m_s, v_s), (m_t, v_t)) in enumerate(SETTINGS):
        one = [np.array([m]) for m in (m_s, m_t)], [np.array([[v]]) for v in (v_s, v_t)]
        distance = gaussian.bures_wasserstein_distance(*one[0], *one[1])
        np.testing.assert_allclose(shrinkstats.wasserstein2(SOURCE, TARGET)[i], distance**2, rtol=1e-6)


def test_wasserstein2_of_samples():
    """The optimal coupling on a line joins quantiles: no formula for normal distributions is used here."""
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for i, ((m_s, v_s), (m_t, v_t)) in enumerate(SETTINGS):
        squares = (m_s + math.sqrt(v_s) * quantiles - m_t - math.sqrt(v_t) * quantiles) ** 2
        np.testing.assert_allclose(shrinkstats.wasserstein2(SOURCE, TARGET)[i], squares.mean(), rtol=1e-4)


@pytest.mark.parametrize("n", [2, 3, 8, 64, 1000])
@pytest.mark.parametrize("strength", [0, 0.5, 1, 16, 256, 1e6])
@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.001])
def test_bounds_naive(n, strength, alpha):
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=n, strength=strength, alpha=alpha)
    q = chi2.ppf(alpha / 2, n - 1)
    for i, setting in enumerate(SETTINGS):
        expected = naive.wasserstein_bounds(*setting, n, strength, q)
        np.testing.assert_allclose([lower[i], upper[i]], expected, rtol=1e-10)


@given(*[st.floats(-10, 10)] * 2, *[st.floats(0, 10)] * 2, st.integers(1, 500), st.floats(0, 1e9))
@example(0.0, 0.0, 0.0, 0.0, 1, 0.0)
@example(0.0, 1.0, 1.0, 1.0, 1, 0.0)
@example(0.0, 1.0, 1.0, 1.0, 2, math.inf)
@example(0.0, 1.0, 0.0, 1.0, 2, math.inf)
@example(0.0, 1.0, 0.0, 1.0, 2, 1e9)
def test_the_lower_bound_is_below_the_upper(m_s, m_t, v_s, v_t, n, strength):
    lower, upper = shrinkstats.wasserstein_bounds(
        statistics((m_s, v_s)), statistics((m_t, v_t)), n=n, strength=strength
    )
    assert 0 <= lower[0] <= upper[0]


def test_the_prior_alone_costs_its_own_distance():
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=8, strength=math.inf)
    np.testing.assert_allclose(lower, shrinkstats.wasserstein2(SOURCE, TARGET), rtol=1e-12)
    np.testing.assert_array_equal(lower, upper)


def test_a_single_sample_has_no_variance_to_be_uncertain_of():
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=1, strength=4)
    np.testing.assert_array_equal(lower, upper)


def test_bounds_do_not_overflow_where_they_are_representable():
    scale = 1e60  # sd^5 of it would be 1e300, times the power -3/2 of 1e120 ...
    big = [Statistics(s.mean * scale, s.var * scale**2) for s in (SOURCE, TARGET)]
    ours = shrinkstats.wasserstein_bounds(*big, n=8, strength=4)
    expected = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=8, strength=4)
    np.testing.assert_allclose(ours, np.multiply(expected, scale**2), rtol=1e-10)


@pytest.mark.parametrize("n", [2, 8, 64])
@pytest.mark.parametrize("strength", [1, 16])
def test_the_bounds_hold_by_simulation(n, strength):
    """Expected W2 squared of a blend with the mean and (biased) variance of n normal draws."""
    draws = 40_000
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=n, strength=strength)
    rng = np.random.default_rng(n)
    for i, ((_, _), (m_t, v_t)) in enumerate(SETTINGS):
        x = rng.normal(m_t, math.sqrt(v_t), size=(draws, n))
        source = Statistics(*(np.full(draws, v[i]) for v in SOURCE))
        blended = shrinkstats.blend(source, Statistics(x.mean(axis=1), x.var(axis=1)), n=n, strength=strength)
        target = Statistics(*(np.full(draws, v[i]) for v in TARGET))
        distance = shrinkstats.wasserstein2(blended, target)
        error = distance.std(ddof=1) / math.sqrt(draws)
        assert lower[i] - 4 * error <= distance.mean() <= upper[i] + 4 * error


@pytest.mark.parametrize("bound", ["upper", "lower"])
@pytest.mark.parametrize("n", [2, 8, 64])
def test_best_strength_against_scipy(n, bound):
    strength = shrinkstats.best_strength(SOURCE, TARGET, n=n, bound=bound)
    q = chi2.ppf(0.025, n - 1)
    for i, setting in enumerate(SETTINGS):

        def value(u, setting=setting):
            return naive.wasserstein_bounds(*setting, n, math.exp(u), q)[bound == "upper"]

        grid = np.linspace(-20, 20, 801)
        at = grid[np.argmin([value(u) for u in grid])]
        if at == grid[-1]:
            assert np.isinf(strength[i])
            continue
        found = minimize_scalar(value, bounds=(at - 0.1, at + 0.1), method="bounded", options={"xatol": 1e-10})
        np.testing.assert_allclose(strength[i], math.exp(found.x), rtol=1e-5)


@given(*[st.floats(-3, 3)] * 2, *[st.floats(0.01, 5)] * 2, st.integers(2, 100))
@example(0.0, 0.0, 1.0, 1.0, 8)  # nothing has moved: the prior, for ever
@example(0.0, 3.0, 1.0, 1.0, 100)
def test_no_other_strength_is_better(m_s, m_t, v_s, v_t, n):
    source, target = statistics((m_s, v_s)), statistics((m_t, v_t))
    for k, bound in enumerate(["lower", "upper"]):
        best = shrinkstats.best_strength(source, target, n=n, bound=bound)
        least = shrinkstats.wasserstein_bounds(source, target, n=n, strength=best)[k]
        for strength in (0, *np.geomspace(1e-6, 1e9, 31), math.inf):
            assert least <= shrinkstats.wasserstein_bounds(source, target, n=n, strength=strength)[k] * (1 + 1e-9)


def test_nothing_moved_means_the_prior_for_ever():
    np.testing.assert_array_equal(shrinkstats.best_strength(SOURCE, SOURCE, n=8), np.inf)


def test_nan_stays_in_its_channel():
    target = Statistics(np.array([0.5, np.nan, 0.2, 0.1]), TARGET.var)
    where = [False, True, False, False]
    for vector in (
        shrinkstats.wasserstein2(SOURCE, target),
        *shrinkstats.wasserstein_bounds(SOURCE, target, n=8, strength=4),
        shrinkstats.best_strength(SOURCE, target, n=8),
    ):
        assert np.isnan(vector).tolist() == where


@pytest.mark.parametrize(
    ("source", "target", "options", "expected"),
    [  # by mpmath, with 50 digits
        ((0, 1e20), (1, 1), {"n": 8}, 4.3995907e-20),
        ((0, 1e20), (1, 1), {"n": 8, "bound": "lower"}, 1.0e-20),
        ((0, 1e300), (1, 1), {"n": 8}, 4.3995907e-300),  # of which the one above is a multiple
        ((0, 1e-300), (1e-160, 1e-310), {"n": 8}, None),
        ((0, 1e100), (1e-100, 1), {"n": 8}, None),
        ((0.00245, 1392.797), (-3.3177, 5.6446e-4), {"n": 1e6, "bound": "lower", "alpha": 1e-6}, None),
        ((0, 1), (1e-30, 1), {"n": 8}, None),
    ],
)
def test_the_best_strength_of_scales_far_apart(source, target, options, expected):
    others = np.ones(3)  # whose strengths do not change by it
    source, target = (Statistics(np.append(m, others), np.append(v, others)) for m, v in (source, target))
    best = best_strength(source, target, **options)
    if expected is not None:
        np.testing.assert_allclose(best[0], expected, rtol=1e-6)
    alone = best_strength(Statistics(others, others), Statistics(others, others), **options)
    np.testing.assert_array_equal(best[1:], alone)
    kind = options.pop("bound", "upper")
    with np.errstate(over="ignore", invalid="ignore"):
        at = [
            wasserstein_bounds(source, target, strength=n, **options)[kind == "upper"][0]
            for n in (best[0], 0, np.inf, *np.exp(np.linspace(-705, 705, 3000)))
        ]
    assert at[0] <= np.nanmin(at) * (1 + 1e-12)


def test_the_search_is_a_small_program_when_jax_compiles_it():
    jax = pytest.importorskip("jax")

    def best(v):
        return best_strength(Statistics(0 * v, v), Statistics(0 * v + 1, 0 * v + 1), n=4)

    program = jax.jit(best).lower(jax.numpy.ones(4))
    assert len(program.as_text().splitlines()) < 5000  # 31,000 where every point had lines of its own
    expected = best(np.ones(4))
    np.testing.assert_allclose(program.compile()(jax.numpy.ones(4)), expected, rtol=1e-3)


@pytest.mark.parametrize("strength", [1e300, 1e305])
def test_bounds_and_gradients_at_large_strengths_without_a_training_variance(strength):
    torch = pytest.importorskip("torch")
    vectors = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.0, 0.0, 1.0, 2.0)]
    _, upper = wasserstein_bounds(Statistics(*vectors[:2]), Statistics(*vectors[2:]), n=8, strength=strength)
    upper.sum().backward()
    np.testing.assert_allclose(upper.detach(), 3.0)  # the variance and the squared distance, at strength infinity
    mean_s, var_s, mean_t, var_t = (float(v.grad) for v in vectors)
    np.testing.assert_allclose([mean_s, mean_t, var_t], [-2.0, 2.0, 1.0])
    assert -math.inf < var_s < -1e100  # minus infinity in the limit


@pytest.mark.parametrize("n", [1e8, 1e150, 1e160, 1e300])
def test_the_upper_bound_of_very_many_samples(n):
    """Above the lower one by var / 2n where nothing is blended in."""
    zero, one = np.zeros(1), np.full(1, 1.0)
    source, target = Statistics(zero, one), Statistics(zero, one)
    lower, upper = shrinkstats.wasserstein_bounds(source, target, n=n, strength=0.0)
    assert lower[0] < upper[0]
    np.testing.assert_allclose(upper - lower, 1 / (2 * n), rtol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_blocks_of_channels_are_put_together(channels, monkeypatch):
    rng = np.random.default_rng(0)
    source, target = (Statistics(rng.normal(size=channels), rng.uniform(0.5, 2, channels)) for _ in range(2))
    expected = shrinkstats.best_strength(source, target, n=8)
    module = sys.modules["shrinkstats.wasserstein"]
    monkeypatch.setattr(module, "BLOCK", 2 * module.POINTS)
    np.testing.assert_array_equal(shrinkstats.best_strength(source, target, n=8), expected)
