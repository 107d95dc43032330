"""Noise models: what they draw, and the moment bound that their proxy states."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from shrinkstats.theory.noise import (
    ClippedCauchy,
    Gaussian,
    Noise,
    Rademacher,
    Sparse,
    TruncatedGaussian,
    Uniform,
    WorstCase,
)

MODELS = [
    Gaussian(2.0),
    Rademacher(0.5),
    Uniform(3.0),
    TruncatedGaussian(1.3, limit=1.5),
    TruncatedGaussian(0.2, limit=4.0),
    ClippedCauchy(0.1),
    ClippedCauchy(1.0, low=-2.0, high=3.0),
    Sparse(1.0),
    Sparse(2.0, probability=0.01),
    Sparse(0.7, probability=0.5),
    Sparse(1.0, probability=1.0),
]
each = pytest.mark.parametrize("model", MODELS, ids=str)


@each
def test_draws_have_mean_zero_and_the_stated_variance(model):
    x = model.draw(np.random.default_rng(1), (500, 400))
    assert x.shape == (500, 400)
    x = x.ravel()
    assert abs(x.mean()) < 4.5 * x.std() / math.sqrt(x.size)
    squares = x * x
    assert abs(squares.mean() - model.variance) <= 4.5 * squares.std() / math.sqrt(x.size) + 1e-12


@each
def test_log_mgf_is_that_of_the_draws(model):
    x = model.draw(np.random.default_rng(2), 200_000)
    for t in np.array([-0.7, 0.1, 1.1]) / math.sqrt(model.variance_proxy):
        values = np.exp(t * x)
        assert abs(values.mean() - math.exp(model.log_mgf(t))) <= 4.5 * values.std() / math.sqrt(x.size) + 1e-12


@each
def test_the_moment_bound_holds_and_is_tight(model):
    t = np.concatenate([np.geomspace(1e-3, 300, 3001), -np.geomspace(1e-3, 300, 300)]) / math.sqrt(model.variance)
    ratio = 2 * model.log_mgf(t) / t**2
    assert np.all(ratio <= model.variance_proxy * (1 + 1e-7))
    assert ratio.max() > model.variance_proxy * (1 - 1e-4)  # optimal: it is reached, or approached at 0
    assert model.variance_proxy >= model.variance * (1 - 1e-12)


def test_log_mgf_against_quadrature():
    cut = TruncatedGaussian(1.3, limit=1.5)
    law = stats.truncnorm(-1.5, 1.5, scale=cut.parent)
    assert law.var() == pytest.approx(cut.variance)
    clipped = ClippedCauchy(0.4, low=0.0, high=1.0)
    cauchy = stats.cauchy(scale=0.4 / math.sqrt(2))
    for t in (0.3, 2.0, -9.0):
        expected = integrate.quad(lambda x, t=t: math.exp(t * x) * law.pdf(x), *law.support())[0]
        assert cut.log_mgf(t) == pytest.approx(math.log(expected), rel=1e-10)
        inside = integrate.quad(lambda x, t=t: math.exp(t * x) * cauchy.pdf(x), -0.5, 0.5)[0]
        expected = inside + cauchy.sf(0.5) * 2 * math.cosh(t / 2)
        assert clipped.log_mgf(t) == pytest.approx(math.log(expected), rel=1e-10)


@pytest.mark.parametrize(
    ("model", "law"),
    [
        (Gaussian(2.0), stats.norm(scale=2)),
        (Uniform(3.0), stats.uniform(-3 * math.sqrt(3), 6 * math.sqrt(3))),
        (TruncatedGaussian(1.0, limit=1.0), stats.truncnorm(-1, 1, scale=TruncatedGaussian(1.0, limit=1.0).parent)),
    ],
    ids=["Gaussian", "Uniform", "TruncatedGaussian"],
)
def test_draws_have_the_law(model, law):
    assert stats.kstest(model.draw(np.random.default_rng(3), 20_000), law.cdf).pvalue > 1e-4


def test_clipped_cauchy_is_the_published_noise():
    noise, rng = ClippedCauchy(0.3), np.random.default_rng(4)
    image = rng.random((50, 60))
    draws = noise.raw(np.random.default_rng(5), image.shape)
    u = np.random.default_rng(5).random(image.shape)
    published = np.clip(image + -0.3 / math.sqrt(2) * np.tan(math.pi * u), 0, 1)
    np.testing.assert_allclose(noise.perturb(image, draws), published)
    assert (np.abs(draws) > 5).any()  # before the clip it is Cauchy
    assert stats.kstest(draws.ravel(), stats.cauchy(scale=0.3 / math.sqrt(2)).cdf).pvalue > 1e-4
    np.testing.assert_allclose(Gaussian().perturb(image, draws), image + draws)


@given(st.floats(0.01, 100), st.floats(0.001, 1))
def test_the_proxy_scales_like_a_variance(scale, probability):
    one, other = Sparse(1.0, probability=probability), Sparse(scale, probability=probability)
    assert other.variance_proxy == pytest.approx(scale**2 * one.variance_proxy, rel=1e-6)
    assert one.variance_proxy <= 1 / probability * (1 + 1e-9)  # Hoeffding's, for something within +-jump


def test_sparse_proxy_rises_above_the_variance_below_one_third():
    assert Sparse(probability=0.34).variance_proxy == 1
    assert Sparse(probability=0.32).variance_proxy == pytest.approx(1, abs=2e-3)
    assert Sparse(probability=0.2).variance_proxy > 1.02


def test_worst_case_states_a_proxy():
    assert WorstCase(0.3, norm="linf").variance_proxy == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.0), "scale must be above 0"),
        (lambda: Gaussian(math.inf), "finite"),
        (lambda: Gaussian("wide"), "scale must be a number"),
        (lambda: TruncatedGaussian(1.0, limit=-1), "limit"),
        (lambda: Sparse(1.0, probability=1.5), "probability"),
        (lambda: Sparse(1.0, probability=math.nan), "probability"),
        (lambda: ClippedCauchy(1.0, low=1.0, high=0.0), "low must be below high"),
        (lambda: WorstCase(-1.0), "budget"),
        (lambda: WorstCase(1.0, norm="l1"), "l2"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_model_without_draws_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="must define draw"):
        Noise().draw(np.random.default_rng(0), 3)
    with pytest.raises(NotImplementedError, match="must define log_mgf"):
        Noise().log_mgf(1.0)
