"""Every argument of every public function, given anything: it works, or an error names the argument."""

import datetime
import decimal
import fractions
import importlib
import inspect
import re
import warnings

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Moments, SamplingNoise, Statistics, estimators
from shrinkstats.estimators import BatchStatistics, PriorBlend

theory = pytest.importorskip("shrinkstats.theory")
from shrinkstats.theory import JamesStein, SampleMean, SymmetricRule  # noqa: E402

pytestmark = pytest.mark.core

V = np.array([1.0, 2.0, 3.0, 4.0])
S = Statistics(V, V)
X = np.arange(24.0).reshape(2, 4, 3)


def made(module, make):
    """Something of a library that may not be there."""
    try:
        return make(importlib.import_module(module))
    except ImportError:
        return None


def odd_values():
    values = {
        "matrix": np.asmatrix(V),
        "objects": np.array([1.0, 2.0, 3.0, None], dtype=object),
        "numbers as objects": V.astype(object),
        "dates": np.array(["2020-01-01"] * 4, dtype="datetime64[D]"),
        "timedeltas": np.arange(4, dtype="timedelta64[s]"),
        "strings": np.array(list("abcd")),
        "bytes": np.array([b"a"] * 4),
        "structured": np.zeros(4, dtype=[("a", float), ("b", int)]),
        "void": np.zeros(4, "V8"),
        "masked": np.ma.masked_array(V, mask=[0, 1, 0, 0]),
        "complex": V + 1j,
        "list": [1, 2, 3, 4],
        "nested list": [[1, 2, 3, 4]] * 2,
        "ragged list": [[1], [2, 3]],
        "list of strings": list("abcd"),
        "list of None": [None] * 4,
        "list of dates": [datetime.date(2020, 1, 1)] * 4,
        "decimals": [decimal.Decimal(1)] * 4,
        "huge integers": [10**400] * 4,
        "huge integer": 10**400,
        "set": {1, 2},
        "dictionary": {"a": 1},
        "text": "abcd",
        "number as text": "2",
        "function": len,
        "class": np.ndarray,
        "None": None,
        "true": True,
        "number": 2.5,
        "NaN": float("nan"),
        "no axes": np.array(2.0),
        "long double": V.astype(np.longdouble),
        "other byte order": V.astype(">f8" if np.little_endian else "<f8"),
        "booleans": V > 2,
        "integers": V.astype(int),
        "memory": memoryview(V),
        "empty": np.empty(0),
        "Series": made("pandas", lambda pandas: pandas.Series(V)),
        "Series of text": made("pandas", lambda pandas: pandas.Series(list("abcd"))),
        "categories": made("pandas", lambda pandas: pandas.Series(list("abab"), dtype="category")),
        "nullable": made("pandas", lambda pandas: pandas.Series([1, 2, 3, None], dtype="Int64")),
        "DataFrame": made("pandas", lambda pandas: pandas.DataFrame({"a": V, "b": list("abcd")})),
        "sparse": made("scipy.sparse", lambda sparse: sparse.eye(4)),
        "Dask, unknown": made("dask.array", lambda da: (lambda v: v[v > 2])(da.from_array(V))),
        "sparse tensor": made("torch", lambda torch: torch.eye(4).to_sparse()),
        "quantized": made("torch", lambda torch: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8)),
        "complex tensor": made("torch", lambda torch: torch.ones(4, dtype=torch.complex64)),
        "nested tensor": made("torch", lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    }
    return {name: value for name, value in values.items() if value is not None or name == "None"}


@pytest.fixture(scope="module")
def odd():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.matrix, quantization and nested tensors are to go
        return odd_values()


GOOD = {
    "james_stein": {"mean": V, "noise": V, "target": V, "df": 3.0, "positive_part": True},
    "channel_james_stein": {"mean": V},
    "gamma_stein": {"var": V, "n": 4},
    "ridge": {"batch": S, "n": 4, "strength": 1.0},
    "soft_threshold": {"batch": S, "n": 4, "strength": 1.0},
    "blend": {"source": S, "target": S, "n": 4, "strength": 1.0},
    "stein_blend": {"source": S, "target": S, "noise": V, "kappa": 1.0},
    "wasserstein2": {"a": S, "b": S, "normalized": False},
    "wasserstein_bounds": {"source": S, "target": S, "n": 4, "strength": 1.0, "alpha": 0.05},
    "best_strength": {"source": S, "target": S, "n": 4, "bound": "upper", "alpha": 0.05},
    "moments": {"x": X, "axis": 1, "sample_axis": 0},
    "normalize": {"x": X, "estimator": PriorBlend(1.0), "axis": 1, "weight": V, "bias": V, "prior": S, "eps": 1e-5},
    "Stein": {"mean": "sampling", "var": "gamma"},
    "RobustNorm": {"power": 0.2},
    "Ridge": {"strength": 1.0},
    "Lasso": {"strength": 1.0},
    "PriorBlend": {"strength": 1.0},
    "SteinBlend": {"kappa": 1.0},
}
FLAGS = ("positive_part", "normalized")  # truth is asked of anything
PAIRS = [(f, a) for f, arguments in GOOD.items() for a, v in arguments.items() if isinstance(v, Statistics)]


def function(name):
    return getattr(shrinkstats, name, None) or getattr(estimators, name)


def check(call, name, kind):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            call()
        except (TypeError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
        else:
            return
    assert re.search(rf"(?<![\w.]){name}\b", found), f"{kind}: {found}"


def test_every_public_function_is_here():
    public = {n for n in shrinkstats.__all__ if inspect.isfunction(getattr(shrinkstats, n))}
    rules = {n for n in estimators.__all__ if inspect.signature(getattr(estimators, n)).parameters and n != "Estimator"}
    assert public | rules == set(GOOD)
    for name, arguments in GOOD.items():
        assert list(inspect.signature(function(name)).parameters) == list(arguments)
        function(name)(**arguments)


@pytest.mark.parametrize(("name", "argument"), [(f, a) for f in GOOD for a in GOOD[f] if a not in FLAGS])
def test_any_argument(name, argument, odd):
    for kind, value in odd.items():
        check(lambda v=value: function(name)(**GOOD[name] | {argument: v}), argument, kind)


@pytest.mark.parametrize("part", ["mean", "var"])
@pytest.mark.parametrize(("name", "argument"), PAIRS)
def test_parts_of_statistics(name, argument, part, odd):
    for kind, value in odd.items():
        pair = S._replace(**{part: value})
        check(lambda p=pair: function(name)(**GOOD[name] | {argument: p}), argument, kind)


@pytest.mark.parametrize("part", SamplingNoise._fields)
def test_parts_of_the_noise(part, odd):
    for kind, value in odd.items():
        noise = SamplingNoise(V, V, 0 * V)._replace(**{part: value})
        check(lambda n=noise: shrinkstats.stein_blend(S, S, noise=n), "noise", kind)


def test_methods(odd):
    m = shrinkstats.moments(X)
    for kind, value in odd.items():
        if kind != "huge integer":  # for which there is no memory
            check(lambda v=value: Moments.empty(v), "channels", kind)
        check(lambda v=value: m.var(v), "ddof", kind)
        check(lambda v=value: m + v, "Moments", kind)
        if isinstance(value, np.ndarray):
            with pytest.raises(TypeError):
                value + m
        check(lambda v=value: BatchStatistics()(v), "Moments", kind)


@pytest.mark.parametrize("kind", ["matrix", "masked", "complex", "dates", "objects", "strings", "structured"])
def test_refused_at_all(kind, odd):
    """Not read as something else, by any function that takes arrays."""
    for name, argument in [("james_stein", "mean"), ("james_stein", "noise"), ("moments", "x"), ("normalize", "x"),
                           ("normalize", "weight"), ("gamma_stein", "var"), ("blend", "strength")]:  # fmt: skip
        with pytest.raises(TypeError, match=rf"\b{argument}\b"):
            function(name)(**GOOD[name] | {argument: odd[kind]})
    for argument in ("a", "b"):
        with pytest.raises(TypeError, match=rf"\b{argument}\.mean\b"):
            shrinkstats.wasserstein2(**GOOD["wasserstein2"] | {argument: Statistics(odd[kind], V)})
    with pytest.raises(ValueError, match=r"b\.var must not be negative"):
        shrinkstats.wasserstein2(S, Statistics(V, -V))


def test_tables_of_pandas_are_arrays():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :, 0])
    np.testing.assert_array_equal(shrinkstats.moments(frame).mean, shrinkstats.moments(X[:, :, 0]).mean)
    ours = shrinkstats.james_stein(pandas.Series(V), [0.1] * 4)
    np.testing.assert_array_equal(ours.estimate, shrinkstats.james_stein(V, 0.1).estimate)


def coarse():
    """Arrays of types that are for storage alone."""
    arrays = {"ml_dtypes": made("ml_dtypes", lambda ml: np.ones((2, 4, 3), ml.float8_e4m3fn)),
              "int4": made("ml_dtypes", lambda ml: np.ones((2, 4, 3), ml.int4)),
              "torch": made("torch", lambda torch: torch.ones(2, 4, 3).to(torch.float8_e5m2)),
              "jax": made("jax.numpy", lambda jnp: jnp.ones((2, 4, 3), jnp.float8_e4m3fn))}  # fmt: skip
    return {name: x for name, x in arrays.items() if x is not None}


ALONE = {  # an array, with nothing of another library
    "moments": {"x": X},
    "normalize": {"x": X, "estimator": BatchStatistics()},
    "james_stein": {"mean": V, "noise": 0.1},
    "gamma_stein": {"var": V, "n": 4},
}


@pytest.mark.parametrize("name", ALONE)
def test_types_for_storage_alone(name):
    argument = next(iter(ALONE[name]))
    for kind, x in coarse().items():
        convert = re.escape(f"{argument}.to(torch.float32)" if kind == "torch" else f"{argument}.astype('float32')")
        expected = rf"^{argument} must hold real numbers, got dtype .*(float8_\w+|int4); .*{convert}"
        with pytest.raises(TypeError, match=expected):
            function(name)(**ALONE[name] | {argument: x})


@pytest.mark.parametrize("name", ALONE)
def test_keys_of_jax(name):
    jax = pytest.importorskip("jax")
    argument = next(iter(ALONE[name]))
    for make in (lambda key: key, lambda key: jax.random.split(key, 8).reshape(2, 4)):
        with pytest.raises(TypeError, match=rf"^{argument} holds random keys of JAX; .*jax\.random\.normal"):
            function(name)(**ALONE[name] | {argument: make(jax.random.key(0))})


TRACED = [
    *(("gamma_stein", "n"), ("ridge", "n"), ("ridge", "strength"), ("soft_threshold", "n"), ("blend", "n")),
    *(("stein_blend", "kappa"), ("wasserstein_bounds", "n"), ("wasserstein_bounds", "alpha"), ("best_strength", "n")),
    *(("moments", "axis"), ("moments", "sample_axis"), ("normalize", "eps"), ("normalize", "axis")),
]


@pytest.mark.parametrize(("name", "argument"), TRACED)
def test_numbers_that_jax_traces(name, argument):
    jax = pytest.importorskip("jax")
    arguments = {k: v for k, v in GOOD[name].items() if k != argument}
    with pytest.raises(TypeError, match=rf'^{argument} must be .*JAX traces.*static_argnames="{argument}"'):
        jax.jit(lambda v: function(name)(**arguments, **{argument: v}))(GOOD[name][argument])


# The theory's functions, likewise


RULE = SymmetricRule(lambda w: np.minimum(w, 2.0))
QUICK = {"dim": 4, "n": 4, "radii": [0.0], "budget": 8192, "refine": 0, "progress": False, "estimator": JamesStein()}
THEORY = {
    "james_stein_risk": {"dim": 4, "radius": V, "df": 3.0, "positive_part": True, "constant": 1.0},
    "minimax_risk": {"dim": 4},
    "bayes_risk": {"dim": 4, "radius": V},
    "unbiased_risk": {"estimator": np.square, "x": V, "variance": 1.0, "divergence": "central"},
    "symmetric_unbiased_risk": {"amount": V, "slope": V, "w": V, "dim": 4, "noise_df": 3.0},
    "variance_bounds": {"spread": V, "n": 4},
    "robustnorm_scale_bounds": {"sd": V, "n": 4, "power": 0.2},
    "training_passes": {"defence": "PGD-AT", "steps": 4},
    "lipschitz": {"x": X, "estimator": BatchStatistics(), "axis": 1, "sample": 0, "weight": V, "prior": S, "eps": 1e-5},
    "certify": {"estimator": JamesStein(), "baseline": SampleMean(), "dim": 4, "n": 4, "noise_df": 3.0},
    "simulate_blend_distance": {"source": S, "target": S, "n": 4, "strength": 1.0, "replicates": 4, "seed": 0},
    "verify_dominance": QUICK | {
        "baseline": None, "attack": None, "confidence": 0.99, "seed": 0, "executor": None, "noise": None,
        "statistic": "mean", "loss": "squared", "known_variance": None, "prior": S, "directions": None,
        "certificate": True, "path": None,
    },
    "JamesStein": {"constant": 1.0, "positive_part": True, "target": 0.0, "df": 3.0},
    "SymmetricRule": {"formula": np.exp, "target": 0.0},
    "Gaussian": {"scale": 1.0, "common": False},
    "Rademacher": {"scale": 1.0, "common": False},
    "Uniform": {"scale": 1.0, "common": False},
    "Noise": {"scale": 1.0, "common": False},
    "TruncatedGaussian": {"scale": 1.0, "limit": 2.0, "common": False},
    "ClippedCauchy": {"scale": 1.0, "low": 0.0, "high": 1.0, "common": False},
    "Sparse": {"scale": 1.0, "probability": 0.1, "common": False},
    "WorstCase": {"budget": 1.0, "norm": "l2"},
}  # fmt: skip
OWN = ("estimator", "baseline", "divergence", "formula")  # functions of the caller's own may do anything
TRUTHS = (*FLAGS, "common", "certificate", "progress")
FOUND = ("Certificate", "DominanceReport", "Lipschitz", "Simulated", "SampleMean", "ChannelJamesStein")  # no arguments
CALLED = {
    "SampleMean": SampleMean(),
    "JamesStein": JamesStein(),
    "SymmetricRule": RULE,
    "ChannelJamesStein": theory.ChannelJamesStein(),
}


def test_all_of_theory_is_here():
    assert set(THEORY) | set(FOUND) == set(theory.__all__)
    for name, arguments in THEORY.items():
        assert set(inspect.signature(getattr(theory, name)).parameters) == set(arguments)
        getattr(theory, name)(**arguments)


@pytest.mark.parametrize(("name", "argument"), [(f, a) for f in THEORY for a in THEORY[f] if a not in TRUTHS])
def test_any_argument_of_theory(name, argument, odd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a path is a path
    for kind, value in odd.items():
        if not (callable(value) and argument in OWN):
            check(lambda v=value: getattr(theory, name)(**THEORY[name] | {argument: v}), argument, kind)


@pytest.mark.parametrize("argument", ["mean", "noise"])
@pytest.mark.parametrize("rule", CALLED)
def test_any_argument_of_a_rule(rule, argument, odd):
    for kind, value in odd.items():
        check(lambda v=value: CALLED[rule](**{"mean": V, "noise": 0.5} | {argument: v}), argument, kind)


@pytest.mark.parametrize("model", ["Gaussian", "Rademacher", "Uniform", "TruncatedGaussian", "ClippedCauchy", "Sparse"])
def test_any_argument_of_a_noise_model(model, odd):
    for kind, value in odd.items():
        check(lambda v=value: getattr(theory, model)(1.0).log_mgf(v), "t", kind)


@pytest.mark.parametrize("kind", ["matrix", "masked", "complex", "dates", "objects", "strings", "structured"])
def test_refused_by_theory(kind, odd):
    arrays = [("james_stein_risk", "radius"), ("bayes_risk", "radius"), ("unbiased_risk", "x"), ("lipschitz", "x"),
              ("symmetric_unbiased_risk", "amount"), ("symmetric_unbiased_risk", "slope"), ("lipschitz", "weight"),
              ("symmetric_unbiased_risk", "w"), ("variance_bounds", "spread"), ("robustnorm_scale_bounds", "sd"),
              ("simulate_blend_distance", "strength"), ("verify_dominance", "radii"),
              ("verify_dominance", "loss")]  # fmt: skip
    for name, argument in arrays:
        with pytest.raises(TypeError, match=rf"\b{argument}\b"):
            getattr(theory, name)(**THEORY[name] | {argument: odd[kind]})
    for rule in CALLED.values():
        with pytest.raises(TypeError, match=r"\bmean\b"):
            rule(odd[kind], 0.5)
    for answer in ({"estimator": lambda x: odd[kind]}, {"divergence": lambda x: odd[kind]}):
        with pytest.raises(TypeError, match=rf"what {next(iter(answer))} returns"):
            theory.unbiased_risk(**THEORY["unbiased_risk"] | answer)


def test_numbers_of_any_kind_are_numbers():
    for constant, same in ((np.int64(2), 2.0), (fractions.Fraction(3, 2), 1.5), (np.float32(1.5), 1.5)):
        rule = JamesStein(constant, target=np.int64(1), df=np.float32(3))
        assert rule == JamesStein(same, target=1.0, df=3.0)
        assert theory.certify(rule, SampleMean(), dim=5) == theory.certify(
            JamesStein(same, target=1, df=3), SampleMean(), dim=5
        )


@pytest.mark.parametrize("part", ["mean", "var"])
@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 4)), np.array([1, np.nan, 1, 1]), [1.0, np.inf, 1.0, 1.0]])
def test_a_prior_has_a_number_for_every_channel(part, value):
    with pytest.raises(ValueError, match=r"prior\.(mean|var)"):
        theory.verify_dominance(**QUICK | {"prior": Statistics(V, V)._replace(**{part: value})})
    noise = SamplingNoise(V, V, V)._replace(**{"mean" if part == "mean" else "sd": value})
    with pytest.raises(ValueError, match=r"prior\.noise\.(mean|sd) must be dim=4 finite numbers"):
        theory.verify_dominance(**QUICK | {"prior": shrinkstats.Prior(V, V, noise)})
