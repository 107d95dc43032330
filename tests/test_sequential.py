"""Tallies that merge, and bounds that hold however often one looks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shrinkstats.theory.sequential import CONCENTRATED, Tally, confidence_sequence, interval

numbers = hnp.arrays(np.float64, st.tuples(st.integers(2, 40), st.just(2)), elements=st.floats(-1e6, 1e6))


def tally(losses):
    return Tally.of(losses[:, 0], losses[:, 1], losses[:, 0] - losses[:, 1])


@given(numbers, st.data())
def test_parts_merge_into_the_whole(losses, data):
    cut = data.draw(st.integers(1, len(losses) - 1))
    merged, whole = tally(losses[:cut]) + tally(losses[cut:]), tally(losses)
    assert merged.replicates == len(losses)
    scale = np.abs(losses).max() + 1
    np.testing.assert_allclose(merged[1:4], whole[1:4], rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(merged[4:7], whole[4:7], rtol=1e-8, atol=1e-8 * scale**2)
    assert merged[7:] == whole[7:]


def test_against_numpy():
    x = np.random.default_rng(0).normal(size=(500, 2))
    found, d = tally(x), x[:, 0] - x[:, 1]
    assert found.estimator == pytest.approx(x[:, 0].mean())
    assert found.baseline_m2 == pytest.approx(500 * x[:, 1].var())
    assert found.difference_m2 == pytest.approx(500 * d.var())
    assert (found.smallest, found.largest) == (d.min(), d.max())
    shares = [(x - d.mean()) ** 2 / (500 * d.var()) for x in (d.min(), d.max())]
    assert found.concentration == pytest.approx(shares)


def test_infinite_losses_stay_infinite():
    one, ordinary = np.array([1.0, np.inf]), np.array([1.0, 2.0])
    found = Tally.of(one, ordinary, one - ordinary) + Tally.of(ordinary, ordinary, 0 * ordinary)
    assert found.estimator == found.difference == math.inf
    assert interval(found, 0.01) == (math.inf, math.inf)
    both = Tally.of(one, one, np.array([0.0, np.nan]))
    assert interval(both + found, 0.01) == (-math.inf, math.inf)


def test_half_width_is_robbins_mixture():
    """Where the mixture martingale exp(rho^2 S^2 / 2(t rho^2 + 1)) / sqrt(t rho^2 + 1) reaches 1/alpha."""
    for t, alpha, tightest in [(10, 0.05, 100), (10_000, 0.001, 2**16), (2**20, 0.01, 2**16)]:
        log = -2 * math.log(alpha)
        rho2 = (log + math.log(log + 1)) / tightest
        s = t * confidence_sequence(1.0, t, alpha, tightest=tightest)
        martingale = rho2 * s * s / (2 * (t * rho2 + 1)) - 0.5 * math.log(t * rho2 + 1)
        assert martingale == pytest.approx(-math.log(alpha))
    assert confidence_sequence(3.0, 50, 0.1) == pytest.approx(3 * confidence_sequence(1.0, 50, 0.1))


def test_tightest_where_it_should_be():
    """No other parameter gives a narrower interval at the count it was chosen for, up to its approximation."""
    at = [confidence_sequence(1.0, 1000, 0.01, tightest=t) for t in (100, 300, 1000, 3000, 10_000)]
    assert min(at) > 0.999 * at[2]


def test_the_mean_stays_within_its_bounds_at_every_look():
    """1200 runs of 4000 skewed draws, looked at after every one from the 200th on: at most 5% may ever leave."""
    runs, length, alpha = 1200, 4000, 0.05
    x = np.random.default_rng(1).exponential(size=(runs, length)) - 1
    t = np.arange(1, length + 1)
    mean = np.cumsum(x, axis=1) / t
    sd = np.sqrt(np.cumsum(x * x, axis=1) / t - mean**2)
    width = np.array([confidence_sequence(1.0, int(i), alpha, tightest=1000) for i in t])
    left = np.any(np.abs(mean[:, 200:]) > (sd * width)[:, 200:], axis=1).sum()
    assert left <= alpha * runs + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert left > 0  # nor are they wide beyond use


def test_a_fixed_interval_would_be_left():
    """The same looks with a fixed-sample interval: the test above can tell."""
    x = np.random.default_rng(1).normal(size=(500, 4000))
    t = np.arange(1, 4001)
    mean = np.cumsum(x, axis=1) / t
    assert np.mean(np.any(np.abs(mean[:, 200:]) > 1.96 / np.sqrt(t[200:]), axis=1)) > 0.2


def test_heavy_tails_leave_the_point_open():
    rng = np.random.default_rng(2)
    heavy = rng.pareto(1.5, 100_000)
    heavy_tally = Tally.of(heavy, 0 * heavy, heavy)
    assert heavy_tally.concentration[1] > CONCENTRATED > heavy_tally.concentration[0]
    low, high = interval(heavy_tally, 0.01)
    assert low < 2  # the true mean
    assert high == math.inf
    low, high = interval(Tally.of(-heavy, 0 * heavy, -heavy), 0.01)
    assert low == -math.inf
    assert high > -2
    light = rng.normal(1.0, 1.0, 100_000)
    low, high = interval(Tally.of(light, 0 * light, light), 0.01)
    assert 0.9 < low < 1 < high < 1.1


def test_rare_and_absent_differences_leave_the_point_open():
    rare = np.zeros(100_000)
    rare[:50] = -1.0
    assert interval(Tally.of(rare, 0 * rare, rare), 0.01)[0] == -math.inf
    rare[10:] = 0
    low, high = interval(Tally.of(rare, 0 * rare, rare), 0.01)
    assert low < 0 < high
    same = np.zeros(1000)
    assert interval(Tally.of(same + 2, same + 2, same), 0.01) == (-math.inf, math.inf)


@pytest.mark.parametrize("index", [1.2, 1.5, 2.0, 2.5, 3.0])
def test_a_bound_on_the_heavy_side_is_hardly_ever_wrong(index):
    """Means of heavy-tailed draws fall short of the truth in most runs; 300 runs at 5%."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(300):
        x = rng.pareto(index, 8192)
        found = [Tally.of(part, 0 * part, part) for part in (x, x[:1024], x[:2048], x[:4096])]
        wrong += any(interval(t, 0.05)[1] < 1 / (index - 1) for t in found)
    assert wrong <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)


def test_rounding_errors_are_no_evidence():
    rng = np.random.default_rng(3)
    loss = rng.chisquare(8, 100_000)
    difference = -1e-15 * (1 + 0.1 * rng.normal(size=100_000))
    low, high = interval(Tally.of(loss + difference, loss, difference), 0.01)
    assert low < 0 < high
