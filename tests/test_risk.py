"""Exact risks against golden values, against simulation, and against what the theorems say."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2, ncx2

risk = pytest.importorskip("shrinkstats.theory.risk")
james_stein_risk, bayes_risk, minimax_risk = risk.james_stein_risk, risk.bayes_risk, risk.minimax_risk

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["james_stein_risk"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"dim={c['dim']} radius={c['radius']} df={c['df']}")
def test_golden(case):
    assert james_stein_risk(case["dim"], case["radius"], df=case["df"]) == pytest.approx(case["risk"], rel=1e-12)


@pytest.mark.parametrize("positive_part", [False, True])
@pytest.mark.parametrize("constant", [0.4, 1.0, 1.7, 2.5])
@pytest.mark.parametrize(("dim", "radius"), [(3, 0.5), (4, 0.0), (10, 3.0), (40, 8.0)])
def test_known_variance_by_quadrature_of_the_loss(dim, radius, constant, positive_part):
    """E phi^2 S - 2 r^2 E phi(S') + r^2 for a factor phi, S' with two more degrees of freedom: no Stein identity."""
    level = constant * (dim - 2)

    def factor(s):
        return max(1 - level / s, 0.0) if positive_part else 1 - level / s

    def mean(function, df):
        if radius == 0:  # a central chi-square, which SciPy's non-central one leaves out in part
            density = chi2(df).pdf
        else:
            density = ncx2(df, radius**2).pdf
        top = (radius + np.sqrt(df) + 9) ** 2
        # In t = sqrt(s) nothing is infinite at 0.
        options = {"epsabs": 1e-12, "epsrel": 1e-11, "limit": 200}
        ends = [0, np.sqrt(level), np.sqrt(top)]
        parts = [
            quad(lambda t: function(t * t) * density(t * t) * 2 * t, a, b, **options)[0] for a, b in pairwise(ends)
        ]
        return sum(parts)

    expected = mean(lambda s: factor(s) ** 2 * s, dim) - 2 * radius**2 * mean(factor, dim + 2) + radius**2
    actual = james_stein_risk(dim, radius, positive_part=positive_part, constant=constant)
    assert actual == pytest.approx(expected, rel=1e-8)


# In 40-digit arithmetic: the confluent hypergeometric function, and for the positive part the series.
EXTREMES = [
    (4096, 1e6, None, False, 4095.9999832391641),
    (3, 1e6, None, False, 2.999999999999),
    (4096, 100.0, 1, True, 3693.5912526661405),
    (4096, 40.0, None, True, 1152.1134184834485),
    (1000, 45.0, 0.1, True, 983.45227612858945),
    (10**6, 3.0, None, False, 10.999901001052987),
    (10**9, 3.0, None, False, 10.999999901000001),
]


@pytest.mark.parametrize(("dim", "radius", "df", "positive_part", "expected"), EXTREMES)
def test_extremes(dim, radius, df, positive_part, expected):
    assert james_stein_risk(dim, radius, df=df, positive_part=positive_part) == pytest.approx(expected, rel=1e-12)


def test_many_radii_are_the_same_as_one_at_a_time():
    radius = np.random.default_rng(0).uniform(0, 60, size=(30, 70))
    for positive_part in (False, True):
        together = james_stein_risk(20, radius, df=6, positive_part=positive_part)
        one = [james_stein_risk(20, r, df=6, positive_part=positive_part) for r in radius.ravel()[:200]]
        np.testing.assert_allclose(together.ravel()[:200], one, rtol=1e-14)


def test_twice_the_constant_ties_and_no_shrinkage_is_the_mean():
    radius = np.array([0.0, 1.0, 10.0])
    assert james_stein_risk(7, radius, constant=2.0).tolist() == [7, 7, 7]
    assert james_stein_risk(7, radius, constant=0.0, positive_part=True).tolist() == [7, 7, 7]
    assert np.all(james_stein_risk(7, radius, constant=2.001) > 7)
    assert np.all(james_stein_risk(7, radius, constant=2.0, positive_part=True)[:2] < 7)


def test_the_lines():
    assert minimax_risk(9) == 9
    assert bayes_risk(9, 3.0) == 4.5
    assert bayes_risk(9, [0.0, np.inf, 1e200, 1e-200]).tolist() == [0, 9, 9, 0]
    radius = np.linspace(0, 30, 61)
    for dim in (3, 10, 100):  # James-Stein is never more than 2 above the best fixed factor, and never below it
        excess = james_stein_risk(dim, radius) - bayes_risk(dim, radius)
        assert np.all(excess > 0)
        assert np.all(excess <= 2 + 1e-12)


def test_the_bayes_line_by_simulation():
    rng = np.random.default_rng(0)
    dim, radius, n = 6, 2.0, 100_000
    spread = radius**2 / dim
    truth = rng.normal(0, np.sqrt(spread), size=(n, dim))
    loss = np.sum((spread / (1 + spread) * (truth + rng.normal(size=(n, dim))) - truth) ** 2, axis=1)
    assert abs(loss.mean() - bayes_risk(dim, radius)) < 4 * loss.std() / np.sqrt(n)


@pytest.mark.parametrize("positive_part", [False, True])
@pytest.mark.parametrize(
    ("dim", "radius", "df"), [(3, 1.0, None), (10, 2.0, None), (32, 5.0, None), (5, 1.5, 4), (10, 3.0, 20)]
)
def test_agrees_with_simulation(dim, radius, df, positive_part):
    rng = np.random.default_rng([dim, df or 0])
    n = 200_000
    truth = np.zeros(dim)
    truth[0] = radius
    x = rng.normal(size=(n, dim)) + truth
    variance = 1.0 if df is None else rng.chisquare(df, n) / (df + 2)
    factor = 1 - (dim - 2) * variance / np.sum(x**2, axis=1)
    factor = np.maximum(factor, 0) if positive_part else factor
    loss = np.sum((factor[:, None] * x - truth) ** 2, axis=1)
    risk = james_stein_risk(dim, radius, df=df, positive_part=positive_part)
    assert abs(loss.mean() - risk) < 4 * loss.std() / np.sqrt(n)


@pytest.mark.parametrize("df", [None, 1, 30])
@pytest.mark.parametrize("dim", [3, 8, 64, 1000])
def test_dominates_and_the_positive_part_dominates_it(dim, df):
    radius = np.linspace(0, 200, 81)
    plain = james_stein_risk(dim, radius, df=df)
    positive = james_stein_risk(dim, radius, df=df, positive_part=True)
    assert np.all(plain < dim)
    assert np.all(positive <= plain * (1 + 1e-13))
    assert positive[0] < plain[0]
    assert np.all(np.diff(plain) > 0)


def test_equals_the_mean_below_three_dimensions_and_far_away():
    assert james_stein_risk(1, 0.3) == 1
    assert james_stein_risk(2, [0.0, 5.0], positive_part=True).tolist() == [2, 2]
    assert james_stein_risk(8, np.inf, positive_part=True) == 8
    assert james_stein_risk(8, 1e9) == pytest.approx(8, rel=1e-12)
    assert james_stein_risk(8, [1e160, 1e308], positive_part=True).tolist() == [8, 8]
    assert [james_stein_risk(dim, 0) for dim in (3, 10, 4096)] == [2, 2, 2]


@pytest.mark.parametrize(("df", "expected"), [(1e6, 1.1080634209078322), (1e9, 1.1080025071246531)])
def test_a_variance_estimated_on_many_degrees_of_freedom(df, expected):
    """Against 60-digit arithmetic: SciPy's incomplete beta function keeps half of its digits there."""
    assert james_stein_risk(50, 0.0, df=df, positive_part=True) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("df", [1e16, 1e100, 1e300, np.inf])
@pytest.mark.parametrize("positive_part", [False, True])
def test_degrees_of_freedom_without_end_are_a_known_variance(positive_part, df):
    radius = np.array([0.0, 1.0, 5.0])
    known = james_stein_risk(50, radius, positive_part=positive_part)
    np.testing.assert_array_equal(james_stein_risk(50, radius, df=df, positive_part=positive_part), known)


@pytest.mark.parametrize("positive_part", [False, True])
def test_many_degrees_of_freedom_are_a_known_variance(positive_part):
    known = james_stein_risk(12, 2.0, positive_part=positive_part)
    assert james_stein_risk(12, 2.0, df=1e9, positive_part=positive_part) == pytest.approx(known, rel=1e-7)


def test_shapes_and_nan():
    assert isinstance(james_stein_risk(5, 1), float)
    assert james_stein_risk(5, np.ones((2, 3))).shape == (2, 3)
    assert np.isnan(james_stein_risk(5, np.nan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0, "radius": 1}, "dim"),
        ({"dim": 3, "radius": -1}, "radius"),
        ({"dim": 3, "radius": 1, "df": 0}, "df"),
        ({"dim": 3, "radius": 1, "constant": -1}, "constant"),
        ({"dim": 3, "radius": 1, "constant": float("nan")}, "constant"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        james_stein_risk(**arguments)


@pytest.mark.parametrize(
    ("dim", "df", "constant"), [(10**6, 7e6, 1.0), (10**6, 10.0, 1.5), (10**9, 1e9, 0.99), (50, 1e12, 1.0)]
)
def test_at_the_target_nothing_cancels(dim, df, constant):
    k = Fraction(constant)
    exact = dim - (dim - 2) * k * (2 - k) * Fraction(df) / (Fraction(df) + 2)
    assert james_stein_risk(dim, 0.0, df=df, constant=constant) == pytest.approx(float(exact), rel=1e-14)
    assert james_stein_risk(10**30, 1.0) == 3


def test_large_dimensions_take_bounded_work():
    """Times and memory are those of the sums; what a longer table gives is the same."""
    terms = []
    for dim, df, constant in ((10**6, 1.0, 1.0), (10**7, None, 100.0), (10**12, None, 1.0)):
        plain = james_stein_risk(dim, 0.0, df=df, constant=constant)
        terms.append(james_stein_risk(dim, 0.0, df=df, constant=constant, positive_part=True) / plain)
    assert all(0 <= share < 1 for share in terms)
    with pytest.raises(ValueError, match="dimensions takes too many terms at radius 400000"):
        james_stein_risk(10**20, 4e5, positive_part=True)
    assert james_stein_risk(10**12, 1e9, positive_part=True) == james_stein_risk(10**12, 1e9)


@pytest.mark.parametrize(("dim", "df", "constant"), [(7, 3.0, 1.0), (200, None, 1.5), (3000, 5.0, 1.0)])
def test_without_a_table_sums_are_the_same(monkeypatch, dim, df, constant):
    radii = [0.0, 1.0, 10.0, 100.0]
    expected = james_stein_risk(dim, radii, df=df, constant=constant, positive_part=True)
    monkeypatch.setattr(risk, "_table", lambda *_: None)
    found = james_stein_risk(dim, radii, df=df, constant=constant, positive_part=True)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
