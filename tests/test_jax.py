"""JAX's transformations: arrays closed over, constants of NumPy, and Moments that go in and come out."""

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Moments, Prior, Statistics
from shrinkstats.estimators import BatchStatistics, PriorBlend, Stein, SteinBlend

pytestmark = pytest.mark.core
jax = pytest.importorskip("jax", reason="needs jax")
jnp = jax.numpy

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")
X = np.random.default_rng(0).normal(1.0, 2.0, size=(6, 5, 7))
MEAN, NOISE, VAR = X[0, :, 0], np.full(5, 0.1), np.linspace(0.5, 2, 5)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def check_equal(a, b):
    assert isinstance(a, Moments)
    assert (a.count, a.samples, a.sample_weight) == (b.count, b.samples, b.sample_weight)
    assert isinstance(a.count, int)
    for name in VECTORS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, err_msg=name)


CALLS = {  # of a vector that is traced, and three that are constants
    "james_stein": lambda m, v, s, t: shrinkstats.james_stein(m, v, target=t, df=4),
    "noise traced": lambda m, v, s, t: shrinkstats.james_stein(t, m * m),
    "stein_blend": lambda m, v, s, t: shrinkstats.stein_blend(Statistics(t, s), Statistics(m, s), noise=v),
    "blend": lambda m, v, s, t: shrinkstats.blend(Statistics(t, s), Statistics(m, s), n=4, strength=v),
    "mixed pair": lambda m, v, s, t: shrinkstats.wasserstein2(Statistics(m, s), Statistics(t, v)),
    "bounds": lambda m, v, s, t: shrinkstats.wasserstein_bounds(Statistics(m, s), Statistics(t, v), n=4, strength=s),
    "normalize": lambda m, v, s, t: shrinkstats.normalize(
        m * jnp.asarray(X).swapaxes(1, 2), PriorBlend(2.0), axis=2, weight=s, bias=t, prior=Statistics(t, s)),
    "moments as a prior": lambda m, v, s, t: shrinkstats.normalize(
        m * jnp.asarray(X).swapaxes(1, 2), PriorBlend(2.0), axis=2, prior=shrinkstats.moments(X)),
    "data constant": lambda m, v, s, t: shrinkstats.normalize(
        np.asarray(X) if isinstance(s, np.ndarray) else jnp.asarray(X), BatchStatistics(), weight=m, bias=t),
}  # fmt: skip


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", CALLS)
def test_constants_of_a_traced_function(name, kind):
    constants = [kind(v) for v in (NOISE, VAR, MEAN[::-1].copy())]
    everything = [jnp.asarray(v) for v in (MEAN, *constants)]
    expected = jax.jit(CALLS[name])(*everything)
    found = jax.jit(lambda m: CALLS[name](m, *constants))(everything[0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_negative_constant_is_still_an_error():
    for noise in (-NOISE, jnp.asarray(-NOISE)):
        with pytest.raises(ValueError, match="noise must not be negative"):
            jax.jit(lambda m, v=noise: shrinkstats.james_stein(m, v))(MEAN)


def test_under_vmap_and_grad():
    stack = np.stack([MEAN, MEAN + 1])
    found = jax.vmap(lambda m: shrinkstats.james_stein(m, NOISE).estimate)(stack)
    np.testing.assert_allclose(found, shrinkstats.james_stein(stack, NOISE).estimate, rtol=1e-12)
    slope = jax.grad(lambda m: shrinkstats.wasserstein2(Statistics(m, VAR), Statistics(MEAN[::-1], VAR)).sum())(MEAN)
    np.testing.assert_allclose(slope, 2 * (MEAN - MEAN[::-1]), rtol=1e-12)


def test_outside_a_trace_kinds_do_not_mix():
    with pytest.raises(TypeError, match=r"noise.*convert"):
        shrinkstats.james_stein(jnp.asarray(MEAN), NOISE)


def test_moments_come_out_and_go_in():
    whole = shrinkstats.moments(X)
    m = jax.jit(shrinkstats.moments)(X)
    check_equal(m, whole)
    check_equal(jax.jit(lambda a, b: a + b)(m, m), whole + whole)
    parts = (X[:1], X[1:3], X[3:, :, :4], X[3:, :, 4:])
    merged = jax.jit(lambda *parts: sum(parts))(*map(jax.jit(shrinkstats.moments), parts))
    check_equal(merged, sum(map(shrinkstats.moments, parts)))
    center, scale = jax.jit(Stein())(m)
    expected = Stein()(whole)
    np.testing.assert_allclose([center, scale], expected, rtol=1e-12)


def test_moments_of_numpy_go_in():
    np.testing.assert_allclose(jax.jit(lambda m: m.noise)(shrinkstats.moments(X)), shrinkstats.moments(X).noise)


def test_moments_under_vmap():
    stack = np.stack([X, 2 * X + 1])
    stacked = jax.vmap(shrinkstats.moments)(stack)
    assert stacked.mean.shape == (2, 5)
    for i, x in enumerate(stack):
        check_equal(jax.tree.map(lambda v, i=i: v[i], stacked), shrinkstats.moments(x))
    noise = jax.vmap(lambda m: shrinkstats.james_stein(m.mean, m.noise).factor)(stacked)
    assert noise.shape == (2,)


def test_gradients_of_moments():
    m = jax.jit(shrinkstats.moments)(X)
    slope = jax.grad(lambda m: m.noise.sum() + m.var(1).sum())(m)
    assert isinstance(slope, Moments)
    np.testing.assert_allclose(slope.sample_m2, np.full(5, m.noise_scale), rtol=1e-12)
    np.testing.assert_allclose(slope.m2, np.full(5, 1 / (m.count - 1)), rtol=1e-12)
    np.testing.assert_array_equal(slope.mean, 0)
    chained = jax.grad(lambda x: jax.jit(shrinkstats.moments)(x).noise.sum())(X)
    np.testing.assert_allclose(chained, jax.grad(lambda x: shrinkstats.moments(x).noise.sum())(X), atol=1e-15)


def test_moments_in_a_scan():
    """Counts are constants of what is compiled: a carry keeps them, and outputs stack."""
    m = jax.jit(shrinkstats.moments)(X)
    carried, stacked = jax.lax.scan(lambda carry, x: (carry, shrinkstats.moments(x)), m, np.stack([X, X + 1]))
    check_equal(carried, shrinkstats.moments(X))
    total = sum(jax.tree.map(lambda v, i=i: v[i], stacked) for i in range(2))
    check_equal(total, shrinkstats.moments(X) + shrinkstats.moments(X + 1))


def test_a_sum_of_moments_in_a_scan():
    """The parts come out, as the documentation says; a sum cannot be carried, and JAX says which counts differ."""
    batches = np.random.default_rng(1).normal(size=(5, *X.shape))
    first = jax.jit(shrinkstats.moments)(X)
    with pytest.raises(TypeError, match=r"Moments'> with pytree metadata \(42, 6, .*\(84, 12, "):
        jax.lax.scan(lambda m, x: (m + shrinkstats.moments(x), None), first, batches)

    @jax.jit
    def parts_of(batches):
        return jax.lax.scan(lambda _, x: (None, shrinkstats.moments(x)), None, batches)[1]

    parts = parts_of(batches)
    whole = sum(jax.tree.map(lambda v, i=i: v[i], parts) for i in range(len(batches)))
    check_equal(whole, shrinkstats.moments(batches.reshape(-1, *X.shape[1:])))


def test_merging_outside_of_jit_compiles_nothing_anew():
    parts = [jax.jit(shrinkstats.moments)(X[:n]) for n in (2, 3, 4, 5)]
    parts[0] + parts[1]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        total = parts[0] + parts[2] + parts[3]
    finally:
        jax.monitoring.clear_event_listeners()
    assert total.count == 7 * 11
    assert not [name for name in compiled if "compile" in name]


def test_estimators_and_priors_are_arguments():
    prior = Prior(jnp.asarray(MEAN), jnp.asarray(VAR))
    f = jax.jit(shrinkstats.normalize, static_argnames=("estimator",))
    for estimator in (Stein(), PriorBlend(4.0), SteinBlend()):
        expected = shrinkstats.normalize(X, estimator, prior=Prior(MEAN, VAR))
        np.testing.assert_allclose(f(X, estimator=estimator, prior=prior), expected, rtol=1e-10)
