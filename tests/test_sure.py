"""Stein's unbiased risk estimate: its derivatives, its closed form, and that it is unbiased."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

theory = pytest.importorskip("shrinkstats.theory")
from shrinkstats.theory.risk import james_stein_risk  # noqa: E402
from shrinkstats.theory.rules import JamesStein  # noqa: E402
from shrinkstats.theory.sure import symmetric_unbiased_risk, unbiased_risk  # noqa: E402


def plain(x):
    return (1 - (x.shape[-1] - 2) / np.sum(x * x, axis=-1, keepdims=True)) * x


def soft(x):
    return np.sign(x) * np.maximum(np.abs(x) - 0.8, 0)


def soft_divergence(x):
    return np.sum(np.abs(x) > 0.8, axis=-1)


def wavy(x):
    return x - np.tanh(x) * np.cumsum(x, axis=-1) / 5


@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_the_divergence_by_numbers_and_in_closed_form(variance):
    x = np.random.default_rng(0).normal(size=(50, 3, 7))
    w = np.sum(x**2, axis=-1) / variance

    def rule(x):
        return (1 - 5 * variance / np.sum(x * x, axis=-1, keepdims=True)) * x

    closed = variance * symmetric_unbiased_risk(5.0, 0.0, w, dim=7)
    np.testing.assert_allclose(
        unbiased_risk(rule, x, variance=variance, divergence="complex"), closed, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(unbiased_risk(rule, x, variance=variance), closed, rtol=1e-8, atol=1e-8)
    given_slopes = unbiased_risk(
        rule, x, variance=variance, divergence=lambda x: 7 - 5 * 5 * variance / np.sum(x * x, axis=-1)
    )
    np.testing.assert_allclose(given_slopes, closed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("divergence", ["central", "complex"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-60, 1e-8, 1e-6, 1e-3, 1.0, 1e3, 1e8])
def test_units_and_origin_do_not_matter(scale, offset, divergence):
    dim, target = 6, offset * scale
    # What the sample is after its own rounding, so that the closed form sees the same one.
    x = target + scale * np.random.default_rng(0).normal(size=(20, dim))
    w = np.sum(((x - target) / scale) ** 2, axis=-1)

    def rule(x):
        deviation = (x - target) / scale
        return target + (1 - 4 / np.sum(deviation**2, axis=-1, keepdims=True)) * deviation * scale

    found = unbiased_risk(rule, x, variance=scale**2, divergence=divergence) / scale**2
    accuracy = 1e-9 * max(1.0, offset ** (2 / 3)) if divergence == "central" else 1e-9
    np.testing.assert_allclose(found, symmetric_unbiased_risk(4.0, 0.0, w, dim=dim), rtol=accuracy, atol=accuracy)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-100, 100).filter(lambda v: abs(v) > 1e-2), min_size=1, max_size=6),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_a_smooth_symmetric_rule_in_closed_form(x, level, variance):
    x = np.array(x)
    w = np.sum(x**2) / variance

    def rule(x):
        s = np.sum(x * x, axis=-1, keepdims=True) / variance
        return (1 - level / (1 + s)) * x  # a(w) = level w / (1 + w)

    closed = variance * symmetric_unbiased_risk(level * w / (1 + w), level / (1 + w) ** 2, w, dim=x.size)
    assert unbiased_risk(rule, x, variance=variance, divergence="complex") == pytest.approx(closed, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("divergence", ["central", "complex", lambda x: x.__imul__(0)[..., 0] + 2.5])
def test_a_rule_that_computes_in_place_leaves_the_data_alone(divergence):
    x = np.random.default_rng(0).normal(size=(3, 5))
    kept = x.copy()
    found = unbiased_risk(lambda y: y.__imul__(0.5), x, divergence=divergence)
    assert np.array_equal(x, kept)
    np.testing.assert_allclose(found, np.sum(x * x, axis=-1) / 4, rtol=1e-8)


@pytest.mark.parametrize("radius", [0.0, 2.0, 6.0])
@pytest.mark.parametrize(
    ("rule", "divergence"), [(plain, "complex"), (soft, soft_divergence), (wavy, "central"), (wavy, "complex")]
)
def test_unbiased(rule, divergence, radius):
    n, dim, variance = 40_000, 6, 0.5
    truth = np.full(dim, radius * np.sqrt(variance / dim))
    x = np.random.default_rng(int(radius)).normal(truth, np.sqrt(variance), size=(n, dim))
    if rule is plain:

        def rule(x):
            return (1 - (dim - 2) * variance / np.sum(x * x, axis=-1, keepdims=True)) * x

    loss = np.sum((rule(x) - truth) ** 2, axis=-1)
    difference = unbiased_risk(rule, x, variance=variance, divergence=divergence) - loss
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)
    # The test sees what it is for: without the divergence the estimate is far off.
    wrong = difference - 2 * variance * 0.05 * dim
    assert abs(wrong.mean()) > 4 * wrong.std() / np.sqrt(n)


@pytest.mark.parametrize("positive_part", [False, True])
@pytest.mark.parametrize("df", [None, 3, 20])
@pytest.mark.parametrize("constant", [0.6, 1.0, 1.5])
def test_the_closed_form_has_the_exact_risk_for_its_mean(constant, df, positive_part):
    n, dim, radius = 200_000, 8, 2.5
    rng = np.random.default_rng([dim, df or 0])
    w = rng.noncentral_chisquare(dim, radius**2, n) / (1 if df is None else rng.chisquare(df, n) / df)
    rule = JamesStein(constant, positive_part, df=df)
    level = float(rule.level(dim))
    slope = (w < level).astype(float) if positive_part else 0.0
    values = symmetric_unbiased_risk(rule.amount(w, dim), slope, w, dim=dim, noise_df=df)
    exact = james_stein_risk(dim, radius, df=df, positive_part=positive_part, constant=constant)
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: unbiased_risk(plain, x, variance=0), "variance"),
        (lambda x: unbiased_risk(plain, x, divergence="autograd"), "divergence"),
        (lambda x: unbiased_risk(lambda x: x[..., 0], x), "estimator must return"),
        (lambda x: unbiased_risk(plain, x, divergence=lambda x: x), "divergence must return"),
        (lambda x: unbiased_risk(lambda x: x.real, x, divergence="complex"), "imaginary"),
        (lambda x: unbiased_risk(plain, 1.0), "coordinates"),
        (lambda x: symmetric_unbiased_risk(1, 0, 1, dim=0), "dim"),
        (lambda x: symmetric_unbiased_risk(1, 0, 1, dim=3, noise_df=0), "noise_df"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 4)))
