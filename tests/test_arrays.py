"""Arrays of every library: the same kind, dtype and device come back, with NumPy's numbers, and gradients flow."""

from types import SimpleNamespace

import array_api_compat
import numpy as np
import pytest

import shrinkstats
from shrinkstats import Prior, SamplingNoise, Statistics
from shrinkstats.estimators import (
    BatchStatistics,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)

pytestmark = pytest.mark.core

CHANNELS = 5
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def examples(convert, stack=(), dtype="float64"):
    """Arguments for the calls below; the same numbers for every library."""
    rng = np.random.default_rng(5)
    shape = (*stack, CHANNELS)
    values = {
        "mean": rng.normal(size=shape),
        "noise": rng.uniform(0.05, 0.2, size=shape),
        "target_mean": rng.normal(size=shape),
        "var": rng.uniform(0.5, 3.0, size=shape),
        "other_var": rng.uniform(0.5, 3.0, size=shape),
        "sd_bias": rng.normal(scale=0.01, size=shape),
    }
    return {k: convert(v.astype(dtype)) for k, v in values.items()}


def data(convert, dtype="float64"):
    return convert(np.random.default_rng(6).normal(1.0, 2.0, size=(4, CHANNELS, 3)).astype(dtype))


def on_vectors(function):
    """A call of named vectors, given as the pairs and vectors that the public functions take."""

    def call(mean, noise, target_mean, var, other_var, sd_bias):
        return function(
            SimpleNamespace(
                mean=mean, noise=noise, goal=target_mean, var=var,
                source=Statistics(mean, var), target=Statistics(target_mean, other_var),
                calibrated=SamplingNoise(noise, noise / 10, sd_bias),
            )
        )  # fmt: skip

    return call


VECTORS = {
    "james_stein": on_vectors(lambda v: shrinkstats.james_stein(v.mean, v.noise)),
    "james_stein common noise": on_vectors(lambda v: shrinkstats.james_stein(v.mean, 0.1, df=8)),
    "james_stein target": on_vectors(lambda v: shrinkstats.james_stein(v.mean, v.noise, target=v.goal)),
    "james_stein mean": on_vectors(lambda v: shrinkstats.james_stein(v.mean, 0.1, target="mean", positive_part=False)),
    "channel_james_stein": on_vectors(lambda v: shrinkstats.channel_james_stein(v.mean)),
    "gamma_stein": on_vectors(lambda v: (shrinkstats.gamma_stein(v.var, 12),)),
    "ridge": on_vectors(lambda v: shrinkstats.ridge(v.source, n=12, strength=0.5)),
    "soft_threshold": on_vectors(lambda v: shrinkstats.soft_threshold(v.source, n=12, strength=0.5)),
    "blend": on_vectors(lambda v: shrinkstats.blend(v.source, v.target, n=8, strength=16)),
    "blend per channel": on_vectors(lambda v: shrinkstats.blend(v.source, v.target, n=8, strength=v.var)),
    "stein_blend": on_vectors(lambda v: shrinkstats.stein_blend(v.source, v.target, noise=v.noise)),
    "stein_blend number": on_vectors(lambda v: shrinkstats.stein_blend(v.source, v.target, noise=0.1, kappa=0.5)),
    "stein_blend calibrated": on_vectors(lambda v: shrinkstats.stein_blend(v.source, v.target, noise=v.calibrated)),
    "wasserstein2": on_vectors(lambda v: (shrinkstats.wasserstein2(v.source, v.target),)),
    "wasserstein2 normalized": on_vectors(lambda v: (shrinkstats.wasserstein2(v.source, v.target, normalized=True),)),
    "wasserstein_bounds": on_vectors(lambda v: shrinkstats.wasserstein_bounds(v.source, v.target, n=8, strength=4.0)),
}
SEARCHES = {  # no gradient flows through these
    "best_strength": on_vectors(lambda v: (shrinkstats.best_strength(v.source, v.target, n=8),)),
    "best_strength lower": on_vectors(lambda v: (shrinkstats.best_strength(v.source, v.target, n=8, bound="lower"),)),
}


def prior(x):
    """Training statistics for the data, made of a few of them: of their library, dtype and device."""
    wide = array_api_compat.array_namespace(x).astype(x[0, :, 0], shrinkstats.moments(x).mean.dtype)
    return Prior(0 * wide, 0 * wide + 2.0)


def normalized(estimator):
    return lambda x: (shrinkstats.normalize(x, estimator, weight=prior(x).var, bias=prior(x).var, prior=prior(x)),)


def all_of(m):
    return m.mean, m.m2, m.minimum, m.maximum, m.var(1), m.noise


DATA = {
    "moments": lambda x: all_of(shrinkstats.moments(x)),
    "moments without samples": lambda x: all_of(shrinkstats.moments(x, sample_axis=None)),
    "moments merged": lambda x: all_of(shrinkstats.moments(x[:1, ...]) + shrinkstats.moments(x[1:, ...])),
    "moments along the last axis": lambda x: all_of(shrinkstats.moments(x, axis=-1, sample_axis=1)),
}
LAYERS = {
    str(rule): normalized(rule)
    for rule in (
        BatchStatistics(), Stein(), Stein.published(), Stein(mean=None, var="channel"), RobustNorm(), Ridge(0.5),
        Lasso(0.5), PriorBlend(16), SteinBlend(), JSNorm(), MinMaxNorm(),
    )
}  # fmt: skip


def check_same(xp, ours, theirs, dtype, like, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == xp.dtype(dtype)
        assert array_api_compat.device(a) == array_api_compat.device(like)
        np.testing.assert_allclose(xp.host(a), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*VECTORS, *SEARCHES])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_vectors(xp, name, dtype):
    call = (VECTORS | SEARCHES)[name]
    arguments = examples(lambda v: xp.array(v, dtype), dtype=dtype)
    ours, theirs = call(**arguments), call(**examples(np.asarray, dtype=dtype))
    # A search for a minimum sees half the digits of the function.
    tolerance = 1e-6 if name in SEARCHES else TOLERANCE[dtype]
    check_same(xp, ours, theirs, dtype, arguments["mean"], tolerance)


@pytest.mark.parametrize("name", [*DATA, *LAYERS])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_data(xp, name, dtype):
    call = (DATA | LAYERS)[name]
    x = data(lambda v: xp.array(v, dtype), dtype)
    # Statistics are float64 on the CPU whatever the data are; data keep their dtype.
    result = "float64" if name in DATA else dtype
    check_same(xp, call(x), call(data(np.asarray, dtype)), result, x, TOLERANCE[dtype])


@pytest.mark.parametrize("name", [*VECTORS, *SEARCHES])
def test_stacks_equal_a_loop(xp, name):
    call = (VECTORS | SEARCHES)[name]
    # Compiled whole, which is faster than many small calls; and a trace may not look at values.
    if xp.name == "jax" and name in VECTORS:
        call = pytest.importorskip("jax").jit(call)
    stacked = call(**examples(xp.array, stack=(2, 3)))
    tolerance = 1e-6 if name in SEARCHES else 1e-14
    for at in [(0, 0), (1, 2)]:
        one = call(**{k: xp.array(v[at]) for k, v in examples(np.asarray, stack=(2, 3)).items()})
        for whole, part in zip(stacked, one, strict=True):
            np.testing.assert_allclose(xp.host(whole)[at], xp.host(part), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*VECTORS, *SEARCHES, *DATA, *LAYERS])
def test_another_device(name):
    """array-api-strict has devices that refuse to meet, as a GPU and the host do."""
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")

    def there(v):
        return strict.asarray(v, device=device)

    arguments = examples(there) if name in VECTORS | SEARCHES else {"x": data(there)}
    for result in (VECTORS | SEARCHES | DATA | LAYERS)[name](**arguments):
        assert result.device == device


@pytest.mark.parametrize("name", [*VECTORS, *DATA, *LAYERS])
def test_torch_gradients(name):
    torch = pytest.importorskip("torch")

    def leaf(v):
        return torch.asarray(v).requires_grad_()

    call = (VECTORS | DATA | LAYERS)[name]
    arguments = examples(leaf) if name in VECTORS else {"x": data(leaf)}
    names = list(arguments)
    assert torch.autograd.gradcheck(
        lambda *values: tuple(call(**dict(zip(names, values, strict=True)))), tuple(arguments.values())
    )


@pytest.mark.long
@pytest.mark.parametrize("name", [*VECTORS, *DATA, *LAYERS])
def test_jax_gradients(name):
    jax = pytest.importorskip("jax")
    from jax.test_util import check_grads

    with jax.enable_x64(True):
        call = (VECTORS | DATA | LAYERS)[name]
        arguments = examples(jax.numpy.asarray) if name in VECTORS else {"x": data(jax.numpy.asarray)}
        names = list(arguments)
        flat = jax.jit(lambda *values: tuple(call(**dict(zip(names, values, strict=True)))))
        check_grads(flat, tuple(arguments.values()), order=1, modes=["rev"], rtol=1e-4, atol=1e-4)


def test_torch_vmap_and_grad():
    torch = pytest.importorskip("torch")
    arguments = examples(torch.asarray, stack=(7,))
    mean, noise = arguments["mean"], arguments["noise"]
    mapped = torch.func.vmap(shrinkstats.james_stein)(mean, noise)
    torch.testing.assert_close(mapped.estimate, shrinkstats.james_stein(mean, noise).estimate)
    slope = torch.func.grad(lambda v: shrinkstats.james_stein(v, noise[0]).factor)(mean[0])
    assert slope.shape == (CHANNELS,)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(kind, dtype):
    """Half precision is widened within, where squares would overflow, and comes back as it was."""
    library = np if kind == "numpy" else pytest.importorskip("jax.numpy" if kind == "jax" else kind)
    if not hasattr(library, dtype):
        pytest.skip(f"{kind} has no {dtype}")
    wide = np.random.default_rng(6).normal(200.0, 50.0, size=(4, CHANNELS, 3)).astype("float32")
    x = library.asarray(wide).astype(dtype) if kind != "torch" else library.asarray(wide).to(getattr(library, dtype))
    exact = np.asarray(x.astype("float32") if kind != "torch" else x.float())
    y = shrinkstats.normalize(x, BatchStatistics())
    assert y.dtype == x.dtype
    expected = shrinkstats.normalize(exact, BatchStatistics())
    step = 2.0**-7 if dtype == "bfloat16" else 2.0**-10
    actual = np.asarray(y.astype("float32") if kind != "torch" else y.float())
    np.testing.assert_allclose(actual, expected, rtol=step, atol=1e-6)
    mean = x[0, :, 0]
    estimate, factor = shrinkstats.james_stein(mean, 50.0)
    assert estimate.dtype == factor.dtype == x.dtype
    expected = shrinkstats.james_stein(exact[0, :, 0], 50.0)
    np.testing.assert_allclose(float(factor), expected.factor, rtol=step)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool"])
def test_integers_become_the_default_float(xp, dtype):
    x = xp.array(np.random.default_rng(6).integers(0, 2, size=(4, CHANNELS, 3)), dtype)
    exact = xp.host(x).astype("float64")
    default = array_api_compat.array_namespace(x).__array_namespace_info__().default_dtypes()["real floating"]
    m = shrinkstats.moments(x)
    np.testing.assert_allclose(xp.host(m.m2), shrinkstats.moments(exact).m2, rtol=1e-12)
    y = shrinkstats.normalize(x, BatchStatistics())
    assert y.dtype == default
    np.testing.assert_allclose(xp.host(y), shrinkstats.normalize(exact, BatchStatistics()), rtol=1e-5, atol=1e-6)
    assert shrinkstats.james_stein(x[0, :, 0], 0.1).estimate.dtype == default


def test_numbers_and_sequences_go_with_any_array(xp):
    mean = [1.0, -2.0, 0.5, 3.0]
    ours = shrinkstats.james_stein(xp.array(mean), [0.1, 0.2, 0.1, 0.2], target=(0.5, 0.5, 0.5, 0.5), df=np.float32(4))
    theirs = shrinkstats.james_stein(mean, np.array([0.1, 0.2, 0.1, 0.2]), target=0.5, df=4)
    np.testing.assert_allclose(xp.host(ours.estimate), theirs.estimate, rtol=1e-12)


def test_jax_without_float64():
    """JAX's own default: everything is float32, and nothing asks for more."""
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        x = data(jax.numpy.asarray, "float32")
        m = shrinkstats.moments(x)
        assert m.mean.dtype == jax.numpy.float32
        y = shrinkstats.normalize(x, Stein())
        assert y.dtype == jax.numpy.float32
        np.testing.assert_allclose(y, shrinkstats.normalize(data(np.asarray), Stein()), rtol=1e-4, atol=1e-5)
