"""Local Lipschitz constants against dense Jacobians by differences, power iteration by autograd, and closed forms."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shrinkstats
from shrinkstats import Prior, SamplingNoise, Statistics
from shrinkstats.estimators import (
    BatchStatistics,
    Estimator,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)
from shrinkstats.theory.lipschitz import lipschitz

pytestmark = pytest.mark.core

CHANNELS = 5
NOISE = SamplingNoise(np.full(CHANNELS, 0.02), np.full(CHANNELS, 0.01), np.full(CHANNELS, -0.05))
PRIORS = {
    "plain": Prior(np.linspace(-0.4, 0.6, CHANNELS), np.linspace(0.5, 1.5, CHANNELS)),
    "calibrated": Prior(np.linspace(-0.4, 0.6, CHANNELS), np.linspace(0.5, 1.5, CHANNELS), NOISE),
}
NEEDS_TORCH = (SteinBlend(), "plain"), (SteinBlend(), "calibrated"), (SteinBlend(0.3), "plain")
RULES = [
    (BatchStatistics(), "plain"),
    (Stein(), "plain"),
    (Stein.published(), "plain"),
    (Stein(mean=None, var="channel"), "plain"),
    (Stein(mean="sampling", var=None), "plain"),
    (RobustNorm(), "plain"),
    (RobustNorm(0.7), "plain"),
    (JSNorm(), "plain"),
    (MinMaxNorm(), "plain"),
    (Ridge(0.5), "plain"),
    (Lasso(0.5), "plain"),
    (PriorBlend(4.0), "plain"),
    *NEEDS_TORCH,
]
SHAPES = [(4, CHANNELS, 3, 2), (1, CHANNELS, 3, 3), (6, CHANNELS), (3, CHANNELS, 1), (2, CHANNELS, 1)]


def batch(shape, seed=0, scale=0.5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * rng.uniform(0.5, 2, (CHANNELS, *[1] * (len(shape) - 2)))
    return scale * (x + rng.normal(size=(CHANNELS, *[1] * (len(shape) - 2))))


def jacobian(function, x, step=1e-6):
    """By central differences, of shape (output, input)."""
    columns = []
    for i in range(x.size):
        change = np.zeros(x.size)
        change[i] = step
        change = change.reshape(x.shape)
        columns.append((function(x + change) - function(x - change)).ravel() / (2 * step))
    return np.stack(columns, axis=1)


def skip_without_torch(rule):
    if rule in NEEDS_TORCH:
        pytest.importorskip("torch", reason="SteinBlend is differentiated by torch, which is not installed")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dense_jacobian(rule, shape):
    skip_without_torch(rule)
    estimator, prior = rule[0], PRIORS[rule[1]]
    x, weight = batch(shape), np.linspace(-2, 1.5, CHANNELS)

    def normalize(v):
        return shrinkstats.normalize(v, estimator, weight=weight, prior=prior)

    whole = jacobian(normalize, x)
    found = lipschitz(x, estimator, weight=weight, prior=prior)
    _, scale = estimator(shrinkstats.moments(x), prior=prior)
    np.testing.assert_allclose(found.frozen, np.max(np.abs(weight) / scale), rtol=1e-12)
    np.testing.assert_allclose(found.through, np.linalg.norm(whole, 2), rtol=1e-6, atol=1e-6)
    for sample in {0, shape[0] - 1}:
        own = whole.reshape(shape * 2)[sample].reshape(-1, *shape)[:, sample].reshape(x[0].size, -1)
        found = lipschitz(x, estimator, weight=weight, prior=prior, sample=sample)
        np.testing.assert_allclose(found.through, np.linalg.norm(own, 2), rtol=1e-6, atol=1e-6)


def test_power_iteration_on_the_layer():
    """On a batch as large as a network's, by products with the Jacobian and its transpose; no formula of ours."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    rng = np.random.default_rng(1)
    x = rng.normal(rng.normal(size=(16, 1, 1)), rng.uniform(0.5, 2, (16, 1, 1)), size=(8, 16, 12, 12))
    for estimator in (Stein(), Stein.published(), RobustNorm()):
        layer = layers.ShrinkBatchNorm2d(16, estimator, dtype=torch.float64)
        leaf = torch.from_numpy(x).requires_grad_()
        y = layer(leaf)
        dual = torch.zeros_like(leaf, requires_grad=True)
        pulled = torch.autograd.grad(y, leaf, dual, create_graph=True)[0]  # linear in dual: its gradient is J
        direction = torch.from_numpy(rng.normal(size=x.shape))
        for _ in range(100):
            moved = torch.autograd.grad(pulled, dual, direction / direction.norm(), retain_graph=True)[0]
            direction = torch.autograd.grad(y, leaf, moved, retain_graph=True)[0]
        found = lipschitz(x, estimator).through
        assert 0.99 * found < float(direction.norm()) ** 0.5 < found * (1 + 1e-9)  # slow, and from below


@pytest.mark.parametrize("estimator", [BatchStatistics(), Stein(), Stein.published(), RobustNorm()], ids=str)
def test_many_channels(estimator, monkeypatch):
    """By Lanczos as by a dense decomposition."""
    rng = np.random.default_rng(2)
    x = rng.normal(rng.normal(size=(150, 1)), rng.uniform(0.5, 2, (150, 1)), size=(6, 150, 4))
    found = lipschitz(x, estimator)
    monkeypatch.setattr(sys.modules["shrinkstats.theory.lipschitz"], "DENSE", 10**9)
    np.testing.assert_allclose(found, lipschitz(x, estimator), rtol=1e-12)
    assert lipschitz(x, estimator, weight=np.zeros(150)) == (0, 0)


@pytest.mark.parametrize("shape", [(3, CHANNELS), (2, CHANNELS, 4, 4)])
def test_batch_norm_is_as_steep_through_its_statistics(shape):
    """Its Jacobian is a projection times the slope; with two observations nothing but eps is left of it."""
    x, weight = batch(shape), np.linspace(-2, 1.5, CHANNELS)
    scale = np.sqrt(shrinkstats.moments(x).var() + 1e-5)
    frozen, through = lipschitz(x, BatchStatistics(), weight=weight)
    np.testing.assert_allclose([frozen, through], np.max(np.abs(weight) / scale), rtol=1e-12)
    pair = x[:2, :] if x.ndim == 2 else x[:2, :, 0, 0]
    var = shrinkstats.moments(pair).var()
    expected = np.max(1e-5 / (var + 1e-5) ** 1.5)
    np.testing.assert_allclose(lipschitz(pair, BatchStatistics()).through, expected, rtol=1e-6)


def test_one_channel_of_a_shrunken_mean():
    """Ridge with a shrunken mean: a 2 by 2 matrix by hand, in the directions of the ones and of the deviations."""
    x, strength, n = batch((40, CHANNELS))[:, :1] + 3, 20.0, 40
    mean, var = x.mean(), x.var()
    keep, scale = n / (n + strength), np.sqrt(var / (1 + strength) + 1e-5)
    steepness = np.sqrt(var) / (1 + strength) / scale**2  # of log(scale), per unit of the deviations' direction
    matrix = np.array([[1 - keep, -(1 - keep) * mean * steepness], [0, 1 - np.sqrt(var) * steepness]]) / scale
    expected = max(1 / scale, np.linalg.norm(matrix, 2))
    assert expected > 1.05 / scale
    np.testing.assert_allclose(lipschitz(x, Ridge(strength)).through, expected, rtol=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(RULES[:10]), st.sampled_from(SHAPES))
def test_no_direction_is_steeper(seed, rule, shape):
    estimator, prior = rule[0], PRIORS[rule[1]]
    rng = np.random.default_rng(seed)
    x = batch(shape, seed)
    found = lipschitz(x, estimator, prior=prior)
    for direction in (rng.normal(size=shape), np.ones(shape), x - x.mean(), np.eye(1, x.size).reshape(shape)):
        step = 1e-7 * direction / np.linalg.norm(direction)
        moved = shrinkstats.normalize(x + step, estimator, prior=prior)
        moved = moved - shrinkstats.normalize(x - step, estimator, prior=prior)
        assert np.linalg.norm(moved) / 2e-7 <= found.through * (1 + 1e-4) + 1e-4
    assert lipschitz(x, estimator, prior=prior, sample=0).through <= found.through * (1 + 1e-9)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from([Stein(), Stein.published(), BatchStatistics()]))
def test_units_and_order_of_samples(seed, unit, estimator):
    x = batch((4, CHANNELS, 3), seed)
    found = np.array(lipschitz(x, estimator, eps=0))
    np.testing.assert_allclose(np.array(lipschitz(unit * x, estimator, eps=0)) * unit, found, rtol=1e-9)
    np.testing.assert_allclose(lipschitz(x[::-1], estimator, eps=0), found, rtol=1e-9)
    np.testing.assert_allclose(lipschitz(np.moveaxis(x, 1, -1), estimator, axis=-1, eps=0), found, rtol=1e-9)
    np.testing.assert_allclose(lipschitz(np.moveaxis(x, 1, 0), estimator, axis=0, eps=0), found, rtol=1e-9)


def test_extremes_that_are_shared_share_the_derivative():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layers = pytest.importorskip("shrinkstats.adapters.torch")
    x = np.array([[0.0, 1], [1, 1], [3, 0.5], [0, 0], [3, 0], [0, 2]])
    layer = layers.ShrinkBatchNorm1d(2, RobustNorm(), dtype=torch.float64)
    dense = torch.autograd.functional.jacobian(layer, torch.from_numpy(x)).reshape(12, 12).numpy()
    np.testing.assert_allclose(lipschitz(x, RobustNorm()).through, np.linalg.norm(dense, 2), rtol=1e-9)


def test_a_rule_of_ones_own():
    """Without a pullback it is differentiated by torch; what does not depend on the batch has no derivative."""
    pytest.importorskip("torch", reason="torch is not installed")

    class Trained(Estimator):
        def statistics(self, moments, prior):
            return Statistics(prior.mean, prior.var)

    class Halved(Estimator):
        def statistics(self, moments, prior):
            return Statistics(moments.mean / 2, 4 * moments.var())

    x = batch((4, CHANNELS, 3))
    prior = PRIORS["plain"]
    np.testing.assert_allclose(lipschitz(x, Trained(), prior=prior), np.sqrt(1 / (prior.var.min() + 1e-5)), rtol=1e-12)
    dense = jacobian(lambda v: shrinkstats.normalize(v, Halved()), x)
    np.testing.assert_allclose(lipschitz(x, Halved()).through, np.linalg.norm(dense, 2), rtol=1e-6)


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r'SteinBlend.*pip install "shrinkstats\[torch\]"'):
        lipschitz(batch((4, CHANNELS)), SteinBlend(), prior=PRIORS["plain"])


def test_missing_values_are_never_a_number():
    x = batch((4, CHANNELS, 3))
    x[1, 2, 0] = np.nan
    for estimator in (BatchStatistics(), Stein(), RobustNorm()):
        assert np.isnan(lipschitz(x, estimator)).all()
    constant = batch((4, CHANNELS, 3))
    constant[:, 1] = 2.0
    with np.errstate(divide="ignore"):
        assert np.isnan(lipschitz(constant, RobustNorm()).through)
    np.testing.assert_allclose(lipschitz(constant, BatchStatistics()), 1e-5**-0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.ones(4)}, ValueError, r"got shape \(4,\)"),
        ({"x": np.ones((0, 3))}, ValueError, r"got shape \(0, 3\)"),
        ({"x": np.ones((4, 3)) * 1j}, TypeError, "complex128"),
        ({"axis": 2}, ValueError, "axis=2 is out of bounds"),
        ({"sample": 4}, ValueError, "one of the 4 of the batch, got 4"),
        ({"weight": np.ones(2)}, ValueError, r"shape \(3,\), got \(2,\)"),
        ({"eps": -1}, ValueError, "eps"),
        ({"estimator": "batch"}, TypeError, "'batch'"),
        ({"estimator": PriorBlend(4.0)}, ValueError, "prior"),
    ],
)
def test_bad_input(arguments, error, message):
    good = {"x": np.random.default_rng(0).normal(size=(4, 3)), "estimator": Stein()}
    with pytest.raises(error, match=message):
        lipschitz(**{**good, **arguments})
