"""Exact risks against golden values, against simulation, and against what the theorems say."""

import json
from pathlib import Path

import numpy as np
import pytest

theory = pytest.importorskip("shrinkstats.theory")
james_stein_risk = theory.james_stein_risk

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["james_stein_risk"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"dim={c['dim']} radius={c['radius']} df={c['df']}")
def test_golden(case):
    risk = james_stein_risk(case["dim"], case["radius"], df=case["df"])
    assert risk == pytest.approx(case["risk"], rel=1e-12)


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
    [({"dim": 0, "radius": 1}, "dim"), ({"dim": 3, "radius": -1}, "radius"), ({"dim": 3, "radius": 1, "df": 0}, "df")],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        james_stein_risk(**arguments)
