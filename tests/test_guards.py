"""Guards over attacks: functions of counts, against SciPy and by their definitions."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from shrinkstats.adapters.attacks import (
    Guard,
    black_box_no_better,
    falls_to_chance,
    other_mates,
    stronger_is_worse,
)

counts = st.integers(0, 500)


@given(st.lists(counts, min_size=2, max_size=8))
def test_falling_accuracies_pass(right):
    right = {f"attack {k}": value for k, value in enumerate(sorted(right, reverse=True))}
    assert stronger_is_worse(right, 500).passed


@given(st.lists(counts, min_size=2, max_size=6), st.integers(0, 4))
def test_what_fails_is_a_rise_above_any_attack_before(right, sigmas):
    def rises(low, high):
        pooled = (low + high + 1) / 1002
        return (high - low) / 500 > sigmas * math.sqrt(2 * pooled * (1 - pooled) / 500)

    expected = any(rises(low, high) for k, high in enumerate(right) for low in right[:k])
    found = stronger_is_worse({str(k): value for k, value in enumerate(right)}, 500, sigmas=sigmas)
    assert found.passed is not expected


def test_a_slow_climb_is_seen():
    """No step is large, and the last attack is far above the second."""
    found = stronger_is_worse({"a": 300, "b": 200, "c": 220, "d": 240, "e": 260}, 500)
    assert found == Guard("stronger is worse", False, "e left 52.0%, above the 40.0% of b")


def test_numbers_by_chance_pass():
    """Two attacks of the same strength differ by chance: the share of failures is that of the tail beyond 3 sigmas."""
    first, second = stats.binom.rvs(500, 0.4, size=(2, 4000), random_state=0).tolist()
    pairs = zip(first, second, strict=True)
    failed = sum(not stronger_is_worse({"a": a, "b": b}, 500).passed for a, b in pairs)
    tail = stats.norm.sf(3)
    assert failed <= 4000 * tail + 4 * math.sqrt(4000 * tail)


@pytest.mark.parametrize("right", [{}, {"alone": 3}])
def test_nothing_to_compare(right):
    assert stronger_is_worse(right, 500).passed is None


@given(st.integers(1, 3000), st.integers(2, 100))
def test_chance_against_the_binomial_distribution(images, classes):
    """What a guesser reaches passes all but always; three times as much, where it means something, fails."""
    assume(images >= 30 * classes)
    usual = int(stats.binom.ppf(0.99, images, 1 / classes))
    assert falls_to_chance(usual, images, classes=classes).passed
    assert falls_to_chance(0, images, classes=classes).passed
    assert not falls_to_chance(min(images, 3 * images // classes), images, classes=classes).passed


@given(counts, counts)
def test_the_black_box_may_be_worse_and_not_better(white, black):
    found = black_box_no_better(white, black, 500)
    assert found.passed is stronger_is_worse({"black": black, "white": white}, 500).passed
    if black >= white:
        assert found.passed


def test_a_small_lead_by_chance_is_let_pass():
    assert black_box_no_better(250, 240, 500).passed
    assert not black_box_no_better(250, 190, 500).passed
    assert black_box_no_better(1, 0, 500).passed


@pytest.mark.parametrize(
    ("same", "other", "aware", "passed"),
    [
        (200, 205, 198, True),
        (200, 300, 290, True),  # an attack that hangs on its mates overstates nothing
        (200, 300, 100, False),  # one that knew of others does better than the table says
        (200, 120, 110, False),  # the mates were a shelter
        (200, 210, 330, False),  # the attack that knew did not do its work
        (None, 200, 200, None),
        (200, None, 200, None),
        (200, 200, None, None),
    ],
)
def test_other_mates(same, other, aware, passed):
    assert other_mates(same, other, aware, 500).passed is passed


@pytest.mark.parametrize(
    "run",
    [
        lambda: stronger_is_worse({"a": 0.5, "b": 501}, 500),
        lambda: stronger_is_worse({"a": 5, "b": -1}, 500),
        lambda: falls_to_chance(501, 500, classes=10),
        lambda: black_box_no_better(0, 0, 0),
        lambda: other_mates(1, 2, 11, 10),
    ],
)
def test_counts_that_cannot_be(run):
    with pytest.raises(ValueError, match="cannot be right; pass counts, not shares"):
        run()
