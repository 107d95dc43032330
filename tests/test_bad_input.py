"""Bad input: the right exception, whose message names the argument."""

import math

import numpy as np
import pytest

import shrinkstats
from shrinkstats import SamplingNoise, Statistics
from shrinkstats.estimators import BatchStatistics, PriorBlend

pytestmark = pytest.mark.core

X = np.arange(24.0).reshape(2, 3, 4)
V = np.array([1.0, 2.0, 3.0])
S = Statistics(V, V)
NEGATIVE = Statistics(V, np.array([1.0, -2.0, 3.0]))
TWO = Statistics(V[:2], V[:2])

NOT_REAL = {
    "complex": V + 1j,
    "object": np.array([1.0, None, 3.0], dtype=object),
    "string": np.array(["a", "b", "c"]),
    "datetime": np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="datetime64[D]"),
    "masked": np.ma.masked_array(V, mask=[False, True, False]),
    "ragged": [[1.0], [2.0, 3.0]],
    "None": None,
    "dictionary": {"a": 1},
}
VECTOR_ARGUMENTS = {
    "mean": lambda v: shrinkstats.james_stein(v, 0.1),
    "mean of channel_james_stein": lambda v: shrinkstats.channel_james_stein(v),
    "noise": lambda v: shrinkstats.james_stein(V, v),
    "target": lambda v: shrinkstats.james_stein(V, 0.1, target=v),
    "var": lambda v: shrinkstats.gamma_stein(v, 4),
    "batch": lambda v: shrinkstats.ridge(Statistics(v, V), n=4),
    "source": lambda v: shrinkstats.blend(Statistics(v, V), S, n=4, strength=4),
    "target.var": lambda v: shrinkstats.blend(S, Statistics(V, v), n=4, strength=4),
    "strength": lambda v: shrinkstats.blend(S, S, n=4, strength=v),
    "x": lambda v: shrinkstats.moments(v, axis=0, sample_axis=None),
    "x of normalize": lambda v: shrinkstats.normalize(v, BatchStatistics(), axis=0),
    "weight": lambda v: shrinkstats.normalize(X, BatchStatistics(), weight=v),
    "bias": lambda v: shrinkstats.normalize(X, BatchStatistics(), bias=v),
}


@pytest.mark.parametrize("kind", NOT_REAL)
@pytest.mark.parametrize("argument", VECTOR_ARGUMENTS)
def test_what_is_not_a_real_array(argument, kind):
    if kind == "None" and argument in ("weight", "bias"):
        return  # None is their default
    with pytest.raises(TypeError, match=argument.split()[0]):
        VECTOR_ARGUMENTS[argument](NOT_REAL[kind])


BAD_VALUES = {
    "negative noise": ("noise", lambda: shrinkstats.james_stein(V, -0.1)),
    "one negative noise": ("noise", lambda: shrinkstats.james_stein(V, [0.1, -0.1, 0.1])),
    "negative df": ("df", lambda: shrinkstats.james_stein(V, 0.1, df=-1)),
    "unknown target": ("target", lambda: shrinkstats.james_stein(V, 0.1, target="median")),
    "noise of another shape": ("noise", lambda: shrinkstats.james_stein(V, np.ones(2))),
    "noise of more axes": ("noise", lambda: shrinkstats.james_stein(V, np.ones((2, 3)))),
    "target of another shape": ("target", lambda: shrinkstats.james_stein(V, 0.1, target=np.ones(4))),
    "a number for a mean": ("mean", lambda: shrinkstats.james_stein(1.0, 0.1)),
    "no channels": ("mean", lambda: shrinkstats.james_stein(np.empty((2, 0)), 0.1)),
    "no channels for channel_james_stein": ("mean", lambda: shrinkstats.channel_james_stein(np.empty(0))),
    "negative var": ("var", lambda: shrinkstats.gamma_stein([1.0, -1.0], 4)),
    "no var": ("var", lambda: shrinkstats.gamma_stein([], 4)),
    "n of gamma_stein": ("n ", lambda: shrinkstats.gamma_stein(V, 0)),
    "negative n": ("n ", lambda: shrinkstats.gamma_stein(V, -3)),
    "NaN for n": ("n ", lambda: shrinkstats.gamma_stein(V, math.nan)),
    "infinite n": ("n ", lambda: shrinkstats.blend(S, S, n=math.inf, strength=1)),
    "n of blend": ("n ", lambda: shrinkstats.blend(S, S, n=0, strength=1)),
    "n of ridge": ("n ", lambda: shrinkstats.ridge(S, n=-1)),
    "n of the bounds": ("n ", lambda: shrinkstats.wasserstein_bounds(S, S, n=0, strength=1)),
    "n of best_strength": ("n ", lambda: shrinkstats.best_strength(S, S, n=0.5)),
    "strength of ridge": ("strength", lambda: shrinkstats.ridge(S, n=4, strength=-1)),
    "strength of soft_threshold": ("strength", lambda: shrinkstats.soft_threshold(S, n=4, strength=-1)),
    "strength of blend": ("strength", lambda: shrinkstats.blend(S, S, n=4, strength=-1)),
    "strength of the bounds": ("strength", lambda: shrinkstats.wasserstein_bounds(S, S, n=4, strength=-1)),
    "strength of another shape": ("strength", lambda: shrinkstats.blend(S, S, n=4, strength=[1, 2])),
    "negative variance of a batch": ("batch.var", lambda: shrinkstats.ridge(NEGATIVE, n=4)),
    "negative variance of the source": ("source.var", lambda: shrinkstats.blend(NEGATIVE, S, n=4, strength=1)),
    "negative variance of the target": ("target.var", lambda: shrinkstats.stein_blend(S, NEGATIVE, noise=0.1)),
    "negative variance of a": ("a.var", lambda: shrinkstats.wasserstein2(NEGATIVE, S)),
    "source and target": ("source", lambda: shrinkstats.blend(S, TWO, n=4, strength=1)),
    "mean and variance": ("source", lambda: shrinkstats.blend(Statistics(V, V[:2]), S, n=4, strength=1)),
    "stacks": ("a has shape .*b has shape", lambda: shrinkstats.wasserstein2(
        Statistics(np.ones((2, 3)), np.ones((2, 3))), Statistics(np.ones((4, 3)), np.ones((4, 3))))),
    "no noise": ("noise", lambda: shrinkstats.stein_blend(S, S)),
    "negative noise of a blend": ("noise", lambda: shrinkstats.stein_blend(S, S, noise=-1.0)),
    "negative calibrated noise": ("noise.sd", lambda: shrinkstats.stein_blend(S, S, noise=SamplingNoise(1, -1.0, 0))),
    "noise of a blend of another shape": ("noise", lambda: shrinkstats.stein_blend(S, S, noise=[0.1, 0.2])),
    "kappa": ("kappa", lambda: shrinkstats.stein_blend(S, S, noise=0.1, kappa=-1)),
    "alpha": ("alpha", lambda: shrinkstats.wasserstein_bounds(S, S, n=4, strength=1, alpha=1.0)),
    "alpha of best_strength": ("alpha", lambda: shrinkstats.best_strength(S, S, n=4, alpha=0)),
    "bound": ("bound", lambda: shrinkstats.best_strength(S, S, n=4, bound="middle")),
    "axis": ("axis", lambda: shrinkstats.moments(X, axis=3)),
    "negative axis": ("axis", lambda: shrinkstats.moments(X, axis=-4)),
    "sample_axis": ("sample_axis", lambda: shrinkstats.moments(X, sample_axis=3)),
    "axis and sample_axis": ("sample_axis", lambda: shrinkstats.moments(X, axis=1, sample_axis=-2)),
    "axis of a vector": ("axis", lambda: shrinkstats.moments(V)),
    "a number for data": ("axis", lambda: shrinkstats.moments(1.0)),
    "data without channels": ("x ", lambda: shrinkstats.moments(np.empty((4, 0, 3)))),
    "empty data": ("x ", lambda: shrinkstats.normalize(np.empty((0, 3)), BatchStatistics())),
    "axis of normalize": ("axis", lambda: shrinkstats.normalize(X, BatchStatistics(), axis=5)),
    "weight": ("weight", lambda: shrinkstats.normalize(X, BatchStatistics(), weight=np.ones(4))),
    "bias": ("bias", lambda: shrinkstats.normalize(X, BatchStatistics(), bias=1.0)),
    "eps": ("eps", lambda: shrinkstats.normalize(X, BatchStatistics(), eps=-1)),
    "prior": ("prior", lambda: shrinkstats.normalize(X, PriorBlend(1))),
    "prior of another shape": ("source|prior", lambda: shrinkstats.normalize(X, PriorBlend(1), prior=TWO)),
    "channels of empty": ("channels", lambda: shrinkstats.Moments.empty(0)),
    "merging other channels": ("channels", lambda: shrinkstats.moments(X) + shrinkstats.moments(X, axis=2)),
    "merging empty with other channels": ("channels", lambda: shrinkstats.moments(X) + shrinkstats.Moments.empty(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values(name):
    words, call = BAD_VALUES[name]
    with pytest.raises(ValueError, match=words):
        call()


BAD_TYPES = {
    "statistics": ("batch", lambda: shrinkstats.ridge(V, n=4)),
    "source": ("source", lambda: shrinkstats.blend(V, S, n=4, strength=1)),
    "target": ("target", lambda: shrinkstats.blend(S, [V, V], n=4, strength=1)),
    "n": ("n ", lambda: shrinkstats.gamma_stein(V, "many")),
    "n of blend": ("n ", lambda: shrinkstats.blend(S, S, n=None, strength=1)),
    "eps": ("eps", lambda: shrinkstats.normalize(X, BatchStatistics(), eps="small")),
    "df": ("df", lambda: shrinkstats.james_stein(V, 0.1, df="many")),
    "alpha": ("alpha", lambda: shrinkstats.wasserstein_bounds(S, S, n=4, strength=1, alpha="small")),
    "kappa": ("kappa", lambda: shrinkstats.stein_blend(S, S, noise=0.1, kappa="much")),
    "estimator": ("estimator", lambda: shrinkstats.normalize(X, "Stein")),
    "estimator class": ("estimator", lambda: shrinkstats.normalize(X, BatchStatistics)),
    "prior": ("prior", lambda: shrinkstats.normalize(X, PriorBlend(1), prior=V)),
    "axis": ("axis", lambda: shrinkstats.moments(X, axis="channels")),
    "sample_axis": ("sample_axis", lambda: shrinkstats.moments(X, sample_axis=0.5)),
    "adding a number": ("Moments", lambda: shrinkstats.moments(X) + 1),
}


@pytest.mark.parametrize("name", BAD_TYPES)
def test_bad_types(name):
    words, call = BAD_TYPES[name]
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
@pytest.mark.parametrize("argument", ["noise", "noise.sd", "target", "strength", "weight"])
def test_arrays_of_two_libraries(library, argument):
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    call = {
        "noise": lambda v: shrinkstats.james_stein(V, v),
        "noise.sd": lambda v: shrinkstats.stein_blend(S, S, noise=SamplingNoise(V, v, 0.0)),
        "target": lambda v: shrinkstats.blend(S, Statistics(v, v), n=4, strength=1),
        "strength": lambda v: shrinkstats.blend(S, S, n=4, strength=v),
        "weight": lambda v: shrinkstats.normalize(X, BatchStatistics(), weight=v),
    }[argument]
    with pytest.raises(TypeError, match=f"{argument}.*convert"):
        call(module.asarray(V.astype("float32")))


def test_one_channel_and_one_sample_are_not_bad(xp):
    one = shrinkstats.moments(xp.array([[[1.0, 2.0, 6.0]]]))
    np.testing.assert_allclose(xp.host(one.noise), [7 / 3])
    y = shrinkstats.normalize(xp.array([[1.0]]), BatchStatistics())
    np.testing.assert_array_equal(xp.host(y), [[0.0]])


@pytest.mark.parametrize("x", [np.rec.fromarrays([np.ones((3, 2))], names="a"), np.zeros((3, 2), [("a", "f8")])])
def test_records_are_told_to_pass_a_field(x):
    with pytest.raises(TypeError, match=r"x is a structured array; pass one of its fields, such as x\['a'\]"):
        shrinkstats.moments(x)


@pytest.mark.parametrize("n", [8 + 3j, np.complex128(8 + 3j), np.complex64(8)])
def test_a_complex_number_of_samples(n):
    with pytest.raises(TypeError, match=r"n must be a number, got complex"):
        shrinkstats.gamma_stein(V, n)


def test_ridge_at_the_end_of_the_range():
    found = shrinkstats.ridge(Statistics(V, V), n=1e308, strength=1e308)
    np.testing.assert_allclose(found.mean, V / 2)
    found = shrinkstats.soft_threshold(Statistics(V, V), n=1e308, strength=1e308)
    np.testing.assert_allclose(found.mean, V - 0.5)


def test_a_normalized_memmap_is_an_array(tmp_path):
    x = np.memmap(tmp_path / "x", "float64", "w+", shape=(4, 3))
    x[:] = np.arange(12).reshape(4, 3)
    found = shrinkstats.normalize(x, BatchStatistics())
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, shrinkstats.normalize(np.array(x), BatchStatistics()))


def test_statistics_of_three():
    with pytest.raises(TypeError, match=r"a must be a pair, Statistics\(mean, var\), or Moments; got a tuple of 3"):
        shrinkstats.wasserstein2((V, V, 3), (V, V))


def test_ridge_where_its_weight_is_not_in_range():
    infinite = shrinkstats.ridge(Statistics(np.array([np.inf]), np.array([1.0])), n=1e-320, strength=1e300)
    np.testing.assert_array_equal(infinite.mean, np.inf)
    large = shrinkstats.ridge(Statistics(np.array([1e308, -1e308]), np.ones(2)), n=5e-324, strength=1e300)
    np.testing.assert_allclose(large.mean, [4.94e-316, -4.94e-316], rtol=1e-3)
