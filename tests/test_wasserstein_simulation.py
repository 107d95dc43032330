"""Prop. 1's bounds against simulated blends; the simulation against plain draws and against quadrature."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2

import shrinkstats
from shrinkstats import Statistics
from shrinkstats.theory import blend_distance
from shrinkstats.theory.blend_distance import simulate_blend_distance

pytestmark = pytest.mark.core

SHIFTS, RATIOS = np.meshgrid([0.0, 0.5, 2.0], [0.25, 1.0, 4.0])
TARGET = Statistics(SHIFTS.ravel(), RATIOS.ravel())
SOURCE = Statistics(np.zeros(9), np.ones(9))


def expected(source, target, n, strength):
    """The mean of the squared distance by quadrature over the variance, the mean's part in closed form."""
    weight = 1.0 if math.isinf(strength) else strength / (strength + n)
    values = []
    for m_s, v_s, m_t, v_t in zip(*source, *target, strict=True):
        value = (weight * (m_t - m_s)) ** 2 + (1 - weight) ** 2 * v_t / n

        def loss(p, v_s=v_s, v_t=v_t):
            own = chi2.ppf(p, n - 1) / n if n > 1 else 0.0
            return (math.sqrt(v_t) - math.sqrt(weight * v_s + (1 - weight) * v_t * own)) ** 2

        values.append(value + quad(loss, 0, 1, epsabs=1e-10, limit=200)[0])
    return np.array(values)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
@pytest.mark.parametrize("strength", [0.0, 1.0, 16.0, 256.0])
def test_the_bounds_hold(n, strength):
    mean, error = simulate_blend_distance(SOURCE, TARGET, n=n, strength=strength, replicates=20_000, seed=n)
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=n, strength=strength)
    assert np.all(mean >= lower - 4.5 * error)
    assert np.all(mean <= upper + 4.5 * error)


@pytest.mark.parametrize(("n", "strength"), [(1, 4.0), (2, 0.0), (2, 16.0), (8, 1.0), (64, 16.0)])
def test_quadrature(n, strength):
    mean, error = simulate_blend_distance(SOURCE, TARGET, n=n, strength=strength, replicates=100_000)
    truth = expected(SOURCE, TARGET, n, strength)
    assert np.all(np.abs(mean - truth) <= 4.5 * error + 1e-9)
    assert np.all(error < 0.02 * truth + 1e-9)
    lower, upper = shrinkstats.wasserstein_bounds(SOURCE, TARGET, n=n, strength=strength)
    assert np.all(lower <= truth * (1 + 1e-9))
    assert np.all(truth <= upper * (1 + 1e-9))


def test_plain_draws():
    """Samples themselves, not the distributions that their mean and variance are known to have."""
    n, strength, draws = 5, 3.0, 20_000
    mean, error = simulate_blend_distance(SOURCE, TARGET, n=n, strength=strength)
    x = np.random.default_rng(3).normal(TARGET.mean, np.sqrt(TARGET.var), size=(n, draws, 9))
    weight = strength / (strength + n)
    sd = np.sqrt(weight * SOURCE.var + (1 - weight) * x.var(axis=0))
    center = weight * SOURCE.mean + (1 - weight) * x.mean(axis=0)
    distance = (center - TARGET.mean) ** 2 + (sd - np.sqrt(TARGET.var)) ** 2
    both = np.hypot(error, distance.std(axis=0, ddof=1) / math.sqrt(draws))
    assert np.all(np.abs(distance.mean(axis=0) - mean) <= 4.5 * both)


def test_the_prior_alone_has_no_noise():
    mean, error = simulate_blend_distance(SOURCE, TARGET, n=4, strength=math.inf, replicates=1000)
    np.testing.assert_allclose(mean, shrinkstats.wasserstein2(SOURCE, TARGET), rtol=1e-12)
    np.testing.assert_allclose(error, 0, atol=1e-12)


def test_chunks_are_merged(monkeypatch):
    """Mean and standard error of all replicates, the last chunk being smaller."""
    kept = []
    original = blend_distance.moments
    monkeypatch.setattr(blend_distance, "CHUNK", 9 * 300)
    monkeypatch.setattr(blend_distance, "moments", lambda x, **k: kept.append(x) or original(x, **k))
    mean, error = simulate_blend_distance(SOURCE, TARGET, n=4, strength=2.0, replicates=1000)
    assert [len(x) for x in kept] == [300, 300, 300, 100]
    x = np.concatenate(kept)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(error, x.std(axis=0, ddof=1) / math.sqrt(1000), rtol=1e-9)


def test_a_strength_for_every_channel_and_the_seed():
    strength = np.linspace(0, 8, 9)
    one, same, other = (
        simulate_blend_distance(SOURCE, TARGET, n=4, strength=strength, replicates=5000, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.all(one.mean != other.mean)
    last = simulate_blend_distance(SOURCE, TARGET, n=4, strength=8.0, replicates=5000, seed=1)
    assert one.mean[-1] == pytest.approx(last.mean[-1], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"replicates": 1}, "replicates must be at least 2, got 1"),
        ({"strength": -1.0}, "strength must not be negative"),
        ({"target": Statistics(np.zeros(9), -np.ones(9))}, "target.var must not be negative"),
        ({"source": Statistics(np.zeros(3), np.ones(3))}, "different numbers of channels"),
        ({"source": Statistics(0.0, 1.0), "target": Statistics(0.0, 1.0)}, "vectors of one length"),
    ],
)
def test_bad_input(arguments, message):
    good = {"source": SOURCE, "target": TARGET, "n": 4, "strength": 1.0, "replicates": 100}
    with pytest.raises(ValueError, match=message):
        simulate_blend_distance(**{**good, **arguments})


@pytest.mark.parametrize("n", [2**63, 10**30, 2**1023])
def test_of_so_many_samples_nothing_is_left_to_chance(n):
    mean, _ = simulate_blend_distance(SOURCE, TARGET, n=n, strength=1, replicates=4)
    np.testing.assert_allclose(mean, 0, atol=1e-15)
