"""The golden numbers, in float64 and float32, with every array library."""

import math

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Statistics
from shrinkstats.estimators import RobustNorm

pytestmark = pytest.mark.core

RELATIVE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def close(xp, dtype):
    """Compare an array of the library with golden numbers, and its dtype with the arguments'."""

    def compare(actual, expected, relative=None, expected_dtype=dtype):
        assert actual.dtype == xp.dtype(expected_dtype)
        # Zero is held to the same number: an estimate of exactly zero must come out as zero, or as good as.
        np.testing.assert_allclose(
            xp.host(actual), expected, rtol=relative or RELATIVE[dtype], atol=np.finfo(dtype).tiny
        )

    return compare


def statistics(xp, dtype, mean, var):
    return Statistics(xp.array(mean, dtype), xp.array(var, dtype))


def test_moments(xp, dtype, golden, close):
    m = shrinkstats.moments(xp.array(golden["data"], dtype))
    expected = golden["moments"]
    assert (m.count, m.samples) == (expected["count"], expected["samples"])
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        # Statistics are float64 on the CPU, and the data are binary fractions, exact in float32 too.
        close(getattr(m, name), expected[name], 1e-12, "float64")
    close(m.var(), expected["var"], 1e-12, "float64")


CASES = {
    "zero": {},
    "grand_mean": {"target": "mean"},
    "fixed": {"target": "fixed_target"},
    "unknown_variance": {"df": "df"},
    "small_no_positive_part": {"scale": 0.1, "positive_part": False},
    "small_positive_part": {"scale": 0.1},
    "heteroscedastic_bock": {},
}


@pytest.mark.parametrize("name", CASES)
def test_james_stein(xp, dtype, golden, close, name):
    table = golden["james_stein"]
    (case,) = (case for case in table["cases"] if case["name"] == name)
    options = {k: table[v] if v in ("fixed_target", "df") else v for k, v in CASES[name].items()}
    mean = xp.array(np.multiply(table["mean"], options.pop("scale", 1.0)), dtype)
    noise = case.get("noise", table["noise"])
    noise = xp.array(noise, dtype) if isinstance(noise, list) else noise
    estimate, factor = shrinkstats.james_stein(mean, noise, **options)
    close(estimate, case["estimate"])
    close(factor, case["factor"])


def test_every_james_stein_case_is_tested(golden):
    assert [case["name"] for case in golden["james_stein"]["cases"]] == list(CASES)


def test_channel_james_stein(xp, dtype, golden, close):
    table = golden["channel_james_stein"]
    estimate, factor = shrinkstats.channel_james_stein(xp.array(table["mean"], dtype))
    close(estimate, table["estimate"])
    close(factor, table["factor"])


def test_gamma_stein(xp, dtype, golden, close):
    table = golden["gamma_stein"]
    close(shrinkstats.gamma_stein(xp.array(table["var"], dtype), table["n"]), table["estimate"])


def test_gamma_stein_where_a_product_underflows(xp, dtype, golden, close):
    table = golden["gamma_stein_underflow"]
    var = np.full(table["channels"], table["var"])
    assert math.prod(var) == 0
    close(shrinkstats.gamma_stein(xp.array(var, dtype), table["n"]), np.full(var.shape, table["estimate"]))


def test_range_power(xp, golden, close):
    m = shrinkstats.moments(xp.array(golden["data"]))
    _, scale = RobustNorm(golden["range_power"]["power"])(m, eps=0.0)
    close(scale, golden["range_power"]["scale"], 1e-12, "float64")


def test_blend(xp, dtype, golden, close):
    table = golden["blend"]
    source, target = (statistics(xp, dtype, **table[k]) for k in ("source", "target"))
    mean, var = shrinkstats.blend(source, target, n=table["n"], strength=table["strength"])
    close(mean, table["mean"])
    close(var, table["var"])


@pytest.mark.parametrize(
    ("normalized", "key"), [(False, "wasserstein2_squared"), (True, "wasserstein2_squared_normalized")]
)
def test_wasserstein2(xp, dtype, golden, close, normalized, key):
    source, target = (statistics(xp, dtype, **golden["blend"][k]) for k in ("source", "target"))
    close(shrinkstats.wasserstein2(source, target, normalized=normalized), golden[key])


def test_wasserstein_bounds(xp, dtype, golden, close):
    # float32 loses digits in the squared difference of standard deviations where these nearly agree; at these
    # settings that costs less than 1e-5 of either bound.
    relative = {"float64": 1e-10, "float32": 1e-5}[dtype]
    for case in golden["wasserstein_bounds"]:
        source, target = (statistics(xp, dtype, *([v] for v in case[k])) for k in ("source", "target"))
        bounds = shrinkstats.wasserstein_bounds(
            source, target, n=case["n"], strength=case["strength"], alpha=case["alpha"]
        )
        close(bounds[0], [case["lower"]], relative)
        close(bounds[1], [case["upper"]], relative)
