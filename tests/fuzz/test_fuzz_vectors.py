"""The functions of vectors against their formulas in 60 digits: values anywhere in the range, stacks, gradients."""

import math
from decimal import Decimal
from functools import partial

import exact
import numpy as np
import pytest
from exact import numbers
from fuzzing import fuzz
from hypothesis import strategies as st
from laying import LIMITS
from libraries import host, vectors_of
from oracle import EPS, check

import shrinkstats
from shrinkstats import SamplingNoise, Statistics

LIBRARIES = ("numpy", "numpy", "numpy", "torch", "torch", "array_api_strict", "dask", "jax", "jax x64")


def number(x):
    return Decimal(float(x))


def scaled(draw, c, dtype, *, positive=False, power=1):
    """A vector of ordinary numbers, equal ones, zeros among them, at any scale that its powers can be computed at."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.normal(size=c)
    kind = draw(st.sampled_from(["ordinary", "ordinary", "equal", "zeros", "all zero", "spread", "large", "small"]))
    _, tiny, most = LIMITS[dtype]
    if kind == "equal":
        x[:] = x[0]
    elif kind == "zeros":
        x[rng.random(c) < 0.5] = 0
    elif kind == "all zero":
        x[:] = 0
    elif kind == "spread":
        x *= 10 ** rng.uniform(-2, 2, c)
    elif kind == "large":
        x *= (most / 4) ** (1 / power)
    elif kind == "small":
        x *= (tiny * 64) ** (1 / power)
    x = (np.abs(x) if positive else x).astype(dtype)
    return x


FUNCTIONS = {}


def case(name):
    return lambda function: FUNCTIONS.setdefault(name, function)


@case("james_stein")
def _(draw, vector, c):
    """A call of the product on a list of vectors, the formula on the same, and the vectors."""
    pooled = draw(st.booleans())
    options = {"positive_part": draw(st.booleans())}
    vectors = [vector(), vector(positive=True)]
    if pooled:
        return (
            lambda m, v: [*shrinkstats.james_stein(m, v, target="mean", **options)],
            lambda m, v: exact.james_stein(m, v, None, **options),
            vectors,
        )
    df = draw(st.sampled_from([None, 1.0, 30.0]))
    return (
        lambda m, v, t: [*shrinkstats.james_stein(m, v, target=t, df=df, **options)],
        lambda m, v, t: exact.james_stein(m, v, t, df=None if df is None else number(df), **options),
        [*vectors, vector()],
    )


@case("channel_james_stein")
def _(draw, vector, c):
    return lambda m: [*shrinkstats.channel_james_stein(m)], exact.channel_james_stein, [vector()]


@case("gamma_stein")
def _(draw, vector, c):
    n = draw(st.sampled_from([1, 2, 24, 1e6]))
    return lambda v: [shrinkstats.gamma_stein(v, n)], lambda v: exact.gamma_stein(v, number(n)), [vector(positive=True)]


def pair(vector):
    """A mean and a variance whose ratios can be computed."""
    return [vector(power=4), vector(positive=True, power=4)]


@case("blend")
def _(draw, vector, c):
    n, strength = draw(st.sampled_from([1, 7.5])), draw(st.sampled_from([0, 1e-3, 16, 1e9, math.inf]))
    return (
        lambda a, v, b, w: [*shrinkstats.blend(Statistics(a, v), Statistics(b, w), n=n, strength=strength)],
        lambda a, v, b, w: exact.blend(a, v, b, w, number(n), number(strength)),
        [*pair(vector), *pair(vector)],
    )


@case("stein_blend")
def _(draw, vector, c):
    kappa = draw(st.sampled_from([1.0, 0.0, 0.3]))
    vectors = [*pair(vector), *pair(vector), vector(positive=True, power=4)]
    if draw(st.booleans()):
        return (
            lambda a, v, b, w, u: [*shrinkstats.stein_blend(Statistics(a, v), Statistics(b, w), noise=u, kappa=kappa)],
            lambda a, v, b, w, u: exact.stein_blend(a, v, b, w, u, kappa=number(kappa)),
            vectors,
        )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = vectors[0].dtype
    bias = np.where(rng.random(c) < 0.2, -1.0, rng.uniform(-0.5, 0.1, c)).astype(dtype)
    return (
        lambda a, v, b, w, u, s, r: [
            *shrinkstats.stein_blend(Statistics(a, v), Statistics(b, w), noise=SamplingNoise(u, s, r), kappa=kappa)
        ],
        lambda *vectors: exact.stein_blend(*vectors, kappa=number(kappa)),
        [*vectors, rng.uniform(0, 0.2, c).astype(dtype), bias],
    )


@case("ridge")
def _(draw, vector, c):
    n, strength = draw(st.sampled_from([1, 64])), draw(st.sampled_from([0, 1e-3, 2.5]))
    options = {"n": n, "strength": strength}
    return (
        lambda m, v: [*shrinkstats.ridge(Statistics(m, v), **options)],
        lambda m, v: exact.ridge(m, v, number(n), number(strength)),
        pair(vector),
    )


@case("soft_threshold")
def _(draw, vector, c):
    n, strength = draw(st.sampled_from([1, 64])), draw(st.sampled_from([0, 1e-3, 2.5]))
    options = {"n": n, "strength": strength}
    return (
        lambda m, v: [*shrinkstats.soft_threshold(Statistics(m, v), **options)],
        lambda m, v: exact.soft_threshold(m, v, number(n), number(strength)),
        pair(vector),
    )


@case("wasserstein2")
def _(draw, vector, c):
    normalized = draw(st.booleans())
    return (
        lambda a, v, b, w: [shrinkstats.wasserstein2(Statistics(a, v), Statistics(b, w), normalized=normalized)],
        lambda *vectors: exact.wasserstein2(*vectors, normalized=normalized),
        [*pair(vector), *pair(vector)],
    )


@case("wasserstein_bounds")
def _(draw, vector, c):
    from scipy.stats import chi2

    n = draw(st.sampled_from([1, 2, 9]))
    strength = draw(st.sampled_from([0, 0.5, 16, math.inf]))
    alpha = draw(st.sampled_from([0.05, 0.9, 1e-6]))
    q = number(chi2.ppf(alpha / 2, n - 1)) if n > 1 else Decimal(0)
    options = {"n": n, "strength": strength, "alpha": alpha}
    return (
        lambda a, v, b, w: [*shrinkstats.wasserstein_bounds(Statistics(a, v), Statistics(b, w), **options)],
        lambda *vectors: exact.wasserstein_bounds(*vectors, n=number(n), strength=number(strength), q=q),
        [*pair(vector), *pair(vector)],
    )


def right_and_tolerance(formula, vectors, rounding, rounds=3):
    """The formula's results, and what they change by where every number given is off by some roundings."""
    rng = np.random.default_rng(0)
    right = formula(*map(numbers, vectors))
    change = [Decimal(0)] * len(right)
    for _ in range(rounds):
        other = formula(*(exact.moved(numbers(v), [rounding] * len(v), rng) for v in vectors))
        change = [
            max(a, b) if not b.is_nan() else Decimal("inf")
            for a, b in zip(change, exact.differences(other, right), strict=True)
        ]
    return floats(right), 4 * floats(change)


def floats(values):
    return np.array([float(v) for v in values])


def flat(results, dtype, library):
    for v in results:
        assert str(host(v).dtype) == dtype, f"{v.dtype} of {dtype}"
    return np.concatenate([np.asarray(host(v), np.float64).reshape(-1) for v in results])


@fuzz(
    1,
    data=st.data(),
    c=st.sampled_from([3, 4, 5, 1, 2, 8, 33]),
    dtype=st.sampled_from(["float64", "float32"]),
    library=st.sampled_from(LIBRARIES),
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name, data, c, dtype, library):
    c = 4 if library.startswith("jax") else c  # which compiles for each
    ours, formula, vectors = FUNCTIONS[name](data.draw, partial(scaled, data.draw, c, dtype), c)
    if library.startswith("jax"):
        library = "jax x64" if dtype == "float64" else "jax"
    arrays, context = vectors_of(library, vectors)
    with context, np.errstate(all="ignore"):
        found = flat(ours(*arrays), dtype, library)
    right, tolerance = right_and_tolerance(formula, vectors, EPS[dtype] * (c + 16))
    with np.errstate(all="ignore"):
        tolerance = tolerance + 16 * EPS[dtype] * terms(name, vectors, right)
    if not (np.abs(right) < LIMITS[dtype][2]).all():
        return  # one of the results does not fit
    check(name, found, right, tolerance, dtype)


def terms(name, vectors, right):
    """The size of what is added up, where a rounded weight multiplies it, or of logarithms that are exponentiated."""
    sizes = [np.abs(np.asarray(v, np.float64)) for v in vectors]
    if name.endswith("blend"):
        return np.concatenate([sizes[0] + sizes[2], sizes[1] + sizes[3]])
    if name == "channel_james_stein":  # the factor is a difference from 1
        return np.concatenate([sizes[0], np.ones(np.asarray(right).size - sizes[0].size)])
    if name == "gamma_stein":
        return np.abs(right) * max(abs(np.log(sizes[0][sizes[0] > 0])), default=0)
    return np.zeros_like(right)


@fuzz(0.3, data=st.data(), c=st.sampled_from([3, 4, 1, 6]), at=st.integers(0, 5))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_is_never_a_silent_number(name, data, c, at):
    ours, _, vectors = FUNCTIONS[name](data.draw, partial(scaled, data.draw, c, "float64"), c)
    which = data.draw(st.integers(0, len(vectors) - 1))
    vectors[which][at % c] = np.nan
    with np.errstate(all="ignore"):
        found = [host(v) for v in ours(*vectors)]
    if name not in ("blend", "stein_blend") and (c >= 4 or which == 0):
        assert any(np.isnan(v[..., at % c] if v.ndim else v).any() for v in found), (which, found)


@fuzz(0.4, data=st.data(), c=st.sampled_from([3, 4, 5, 1, 2]))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name, data, c):
    """Along a random direction, against the exact difference; never NaN, at variances of 0 neither."""
    torch = pytest.importorskip("torch")
    ours, formula, vectors = FUNCTIONS[name](data.draw, partial(scaled, data.draw, c, "float64"), c)
    leaves = [torch.from_numpy(v.copy()).requires_grad_() for v in vectors]
    rng = np.random.default_rng(1)
    outputs = torch.cat([v.reshape(-1) for v in ours(*leaves)])
    if not outputs.requires_grad:
        return
    given = rng.normal(size=len(outputs))
    kept = torch.isfinite(outputs.detach())
    found = torch.autograd.grad(outputs[kept] @ torch.from_numpy(given)[kept], leaves, allow_unused=True)
    found = [np.zeros(v.shape) if g is None else g.numpy() for g, v in zip(found, vectors, strict=True)]
    sizes = np.concatenate([np.abs(v).reshape(-1) for v in vectors])
    sizes = sizes[sizes > 0]
    if not kept.all() or sizes.size == 0 or sizes.max() > 1e30 or sizes.min() < 1e-30:
        return
    assert not any(np.isnan(g).any() for g in found), found
    right, change = right_and_tolerance(formula, vectors, 1e-12)
    if not all(np.isfinite(g).all() for g in found) or np.abs(change).max() > 1e-8 * (1 + np.abs(right).max()):
        return  # the slope of a square root at 0; a jump
    directions = [rng.normal(size=v.shape) * np.abs(v) for v in vectors]  # variances of 0 stay where they are
    steps = [numbers(d) for d in directions]

    def along(*given_vectors):
        return exact.slope(formula, given_vectors, steps)

    per_output, change = right_and_tolerance(along, vectors, 1e-12)
    if not np.isfinite(change).all() or np.abs(change).max() > 1e-3 * (1 + np.abs(per_output).max()):
        return  # at a kink
    slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
    terms = sum(float(np.abs(g * d).sum()) for g, d in zip(found, directions, strict=True))
    check(
        f"slope of {name}",
        slope,
        per_output @ given,
        np.abs(given) @ change + 1e-11 * (terms + np.abs(given) @ np.abs(per_output)),
    )


@fuzz(
    0.1,
    data=st.data(),
    c=st.sampled_from([1, 3, 4]),
    n=st.sampled_from([1, 2, 9, 64]),
    bound=st.sampled_from(["lower", "upper"]),
    alpha=st.sampled_from([0.05, 0.5]),
)
def test_best_strength_is_the_lowest(data, c, n, bound, alpha):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    source, target = (Statistics(rng.normal(size=c), rng.uniform(0.1, 3, c)) for _ in range(2))
    best = shrinkstats.best_strength(source, target, n=n, bound=bound, alpha=alpha)
    from scipy.stats import chi2

    q = number(chi2.ppf(alpha / 2, n - 1)) if n > 1 else Decimal(0)

    def at(strength, i):
        one = [numbers([v[i]]) for v in (*source, *target)]
        return float(exact.wasserstein_bounds(*one, n=number(n), strength=number(strength), q=q)[bound == "upper"])

    for i in range(c):
        found = at(best[i], i)
        for strength in (0.0, math.inf, *(n * 10 ** np.linspace(-6, 6, 49)), best[i] * 1.01, best[i] * 0.99):
            assert found <= at(strength, i) * (1 + 1e-9), (best[i], strength)


@fuzz(0.2, data=st.data(), c=st.sampled_from([3, 5, 1]), stack=st.sampled_from([(2,), (0,), (3, 2), (1, 1)]))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_stack_is_a_loop(name, data, c, stack):
    """Of vectors that lie in any order: gaps, backwards, broadcast."""
    ours, _, vectors = FUNCTIONS[name](data.draw, partial(scaled, data.draw, c, "float64"), c)
    rng = np.random.default_rng(2)
    with np.errstate(over="ignore"):
        stacks = [v * rng.choice([1.0, 0.5, 2.0], (*stack, 1)) for v in vectors]
    i = data.draw(st.integers(0, len(stacks) - 1))
    laid = list(stacks)
    laid[i] = data.draw(
        st.sampled_from(
            [
                lambda v: np.repeat(v, 2, axis=-1)[..., ::2],
                lambda v: np.ascontiguousarray(v[..., ::-1])[..., ::-1],
                lambda v: np.asfortranarray(v),
                lambda v: v.astype(v.dtype.newbyteorder()),
            ]
        )
    )(stacks[i])
    with np.errstate(all="ignore"):
        found = [host(v) for v in ours(*laid)]
        for k in np.ndindex(*stack):
            for a, b in zip(found, ours(*(v[k] for v in stacks)), strict=True):
                np.testing.assert_allclose(a[k], b, rtol=1e-11, atol=1e-300)
