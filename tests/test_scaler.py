"""SteinScaler: scikit-learn's contract, and the numbers of the estimators."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import shrinkstats
from shrinkstats import Prior, Statistics
from shrinkstats.adapters.sklearn import SteinScaler
from shrinkstats.estimators import BatchStatistics, PriorBlend, RobustNorm, Stein


def table(rows=30, features=6, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, size=(rows, features))


@pytest.mark.parametrize("scaler", [SteinScaler(), SteinScaler(RobustNorm())], ids=str)
def test_scikit_learn_accepts_it(scaler):
    for check in check_estimator(scaler, on_skip=None):
        assert check["status"] in ("passed", "skipped"), check


def test_plain_statistics_are_standard_scaler():
    x = table()
    ours, theirs = SteinScaler(BatchStatistics()).fit(x), StandardScaler().fit(x)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.scale_, theirs.scale_, rtol=1e-12)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=1e-12, atol=1e-12)


def test_shrunken_statistics():
    x = table()
    m = shrinkstats.moments(x)
    scaler = SteinScaler().fit(x)
    np.testing.assert_array_equal(scaler.mean_, shrinkstats.james_stein(m.mean, m.noise).estimate)
    np.testing.assert_allclose(scaler.scale_**2, shrinkstats.gamma_stein(m.var(), 30), rtol=1e-14)


@pytest.mark.parametrize("shape", [(30, 6), (2, 6), (1, 6), (5,), (7,)])
@pytest.mark.parametrize("part", ["mean", "var"])
def test_a_prior_is_of_the_features(shape, part):
    prior = Statistics(np.zeros(6), np.ones(6))._replace(**{part: np.ones(shape)})
    for given in (prior, Prior(*prior), Prior(np.zeros(6), np.ones(6), np.ones(shape))):
        with pytest.raises(ValueError, match=r"prior\.\S+ must hold a number for each of 6 features|channels"):
            SteinScaler(PriorBlend(4.0), prior=given).fit(table())


def test_a_prior_may_be_one_number_for_all_features():
    one = SteinScaler(PriorBlend(4.0), prior=Statistics(0.0, 1.0)).fit(table())
    each = SteinScaler(PriorBlend(4.0), prior=Statistics(np.zeros(6), np.ones(6))).fit(table())
    np.testing.assert_array_equal(one.mean_, each.mean_)
    np.testing.assert_array_equal(one.scale_, each.scale_)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["mean", "var"])
def test_a_prior_that_is_not_finite_is_named(part, value):
    prior = Statistics(np.zeros(6), np.ones(6))._replace(**{part: np.full(6, value)})
    with pytest.raises(ValueError, match=rf"prior\.{part} holds NaN or infinity"):
        SteinScaler(PriorBlend(4.0), prior=prior).fit(table())


def test_parts_give_the_whole():
    x = table()
    whole, parts = SteinScaler().fit(x), SteinScaler()
    for part in np.split(x, [1, 4, 20]):
        parts.partial_fit(part)
    assert parts.n_samples_seen_ == 30
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(parts.scale_, whole.scale_, rtol=1e-12)
    np.testing.assert_array_equal(parts.fit(x).mean_, whole.mean_)  # fit forgets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(dtype):
    x = (table() + 1000).astype(dtype)
    x[:, 2] = 7.0  # a constant: its scale is not 0
    scaler = SteinScaler(BatchStatistics()).fit(x)
    y = scaler.transform(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[:, 2], 0)
    np.testing.assert_allclose(scaler.inverse_transform(y), x, rtol=4 * np.finfo(dtype).eps)


def test_prior():
    x, prior = table(rows=4), shrinkstats.Statistics(np.zeros(6), np.full(6, 9.0))
    scaler = SteinScaler(PriorBlend(12.0), prior=prior).fit(x)
    np.testing.assert_allclose(scaler.mean_, x.mean(axis=0) / 4, rtol=1e-12)
    with pytest.raises(ValueError, match="prior"):
        SteinScaler(PriorBlend(12.0)).fit(x)


def test_names_of_features():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(table(features=2), columns=["height", "weight"])
    pipeline = make_pipeline(SteinScaler()).set_output(transform="pandas").fit(frame)
    assert list(pipeline.get_feature_names_out()) == ["height", "weight"]
    assert list(pipeline.transform(frame).columns) == ["height", "weight"]


def test_errors():
    with pytest.raises(TypeError, match=r"one of shrinkstats\.estimators.*got 'stein'"):
        SteinScaler("stein").fit(table())
    with pytest.raises(ValueError, match=r"n_samples=1 is too few for Stein"):
        SteinScaler().fit(table(rows=1))
    one = SteinScaler(Stein()).partial_fit(table(rows=1))  # more may follow
    with pytest.raises(ValueError, match="too few"):
        one.transform(table())
    assert np.isfinite(one.partial_fit(table(rows=1, seed=1)).transform(table())).all()


# --- what fails leaves no trace ------------------------------------------------------------------------------------


def state(scaler):
    return {name: np.asarray(value) if name != "moments_" else value for name, value in vars(scaler).items()}


def same(one, two):
    return one.keys() == two.keys() and all(
        one[name] is two[name] if name == "moments_" else np.array_equal(one[name], two[name]) for name in one
    )


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("fault", ["NaN", "shape", "prior", "interrupted"])
def test_what_fails_leaves_all_as_it_was(first, call, fault, monkeypatch):
    x = np.random.default_rng(0).normal(size=(6, 4))
    scaler = SteinScaler(PriorBlend(3), prior=Statistics(np.zeros(4), np.ones(4)))
    if first:
        scaler.fit(x)
    if fault == "prior":
        scaler.prior = None
    if fault == "interrupted":
        monkeypatch.setattr(PriorBlend, "statistics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    before = state(scaler)
    bad = {"NaN": np.full((2, 4), np.nan), "shape": np.ones(4)}.get(fault, x)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        getattr(scaler, call)(bad)
    assert same(state(scaler), before)
    monkeypatch.undo()
    scaler.prior = Statistics(np.zeros(4), np.ones(4))
    assert scaler.partial_fit(x).n_samples_seen_ == (12 if first else 6)


def test_too_few_rows_leave_no_trace():
    scaler = SteinScaler()
    with pytest.raises(ValueError, match="too few"), np.errstate(all="ignore"):
        scaler.fit(np.ones((1, 4)))
    assert not hasattr(scaler, "moments_")
    assert not hasattr(scaler, "n_features_in_")


def test_squares_that_overflow_are_not_a_lack_of_rows():
    x = np.random.default_rng(0).normal(size=(8, 4)) * 1e155
    with pytest.raises(ValueError, match="too large: squares"), np.errstate(all="ignore"):
        SteinScaler(BatchStatistics()).fit(x)
