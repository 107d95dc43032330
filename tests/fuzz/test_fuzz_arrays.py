"""`normalize` with every rule on arrays of any library, layout and values, against its formula on a plain copy."""

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from laying import BROKEN, FINITE, INTEGERS, arrays
from libraries import as_library, host, vectors_of, widths
from oracle import EPS, check, width

torch = pytest.importorskip("torch", reason="the formulas are differentiated by PyTorch")

import rules  # noqa: E402

import shrinkstats  # noqa: E402
from shrinkstats import Prior, SamplingNoise, Statistics  # noqa: E402

FEW = [(4, 3), (3, 4, 5), (2, 3, 5, 2)]


def compare(data, library, laid, rule, eps, axis=None):
    draw, rng = data.draw, np.random.default_rng(laid.seed)
    c, axis, dtype = laid.channels, laid.axis, laid.dtype
    plain = torch.from_numpy(laid.plain())
    if dtype in INTEGERS:
        promoted = "float32" if library in ("torch", "jax") else "float64"
        plain = plain.to(getattr(torch, promoted)).double()
        dtype = promoted
    elif library == "jax":
        plain = plain.float().double()
        dtype = "float32"
    statistics = widths(library)
    vectors = [rng.normal(size=c), rng.normal(size=c), rng.normal(size=c), rng.uniform(0.2, 3, c)]
    vectors += [rng.uniform(0, 0.3, c), rng.uniform(0, 0.3, c), rng.uniform(-0.3, 0, c)]
    vectors = [v.astype(statistics) for v in vectors]
    images = plain.ndim > 1
    calibrated = draw(st.booleans())
    given_weight, given_bias = draw(st.booleans()), draw(st.booleans())
    count = plain.numel() // c
    samples = plain.shape[1 if axis == 0 else 0] if images else 1
    if isinstance(rule, rules.SteinBlend | rules.Noisy) and samples < 2 and count == 1 and not calibrated:
        return  # an observation says nothing of its own noise
    x, context = as_library(library, laid, data)
    wanted = library == "torch" and x.is_floating_point() and draw(st.booleans())
    if wanted:
        x = x.detach().requires_grad_()
    small, _ = vectors_of(library, vectors)
    with context, np.errstate(all="ignore"):
        noise = SamplingNoise(*small[4:]) if calibrated else None
        prior = Prior(small[2], small[3], noise) if rules.needs_prior(rule) else None
        if prior is not None and draw(st.booleans()) and not calibrated:
            prior = Statistics(*prior[:2])
        y = shrinkstats.normalize(
            x, rule, axis=axis, weight=small[0] if given_weight else None, bias=small[1] if given_bias else None,
            prior=prior, eps=eps,
        )  # fmt: skip
        assert tuple(y.shape) == laid.shape
        ours = torch.from_numpy(np.array(host(y.double() if library == "torch" else y), np.float64))
    weight, bias, mean, var, *noise = [torch.from_numpy(v).double() for v in vectors]
    weight, bias = weight if given_weight else None, bias if given_bias else None
    known = (mean, var, tuple(noise) if calibrated else None)
    g = torch.from_numpy(rng.normal(size=laid.shape))

    def function(x, g):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = rules.normalize(leaf, weight, bias, rule, known, eps, axis)[0]
            return [y.detach(), torch.autograd.grad(y, leaf, g)[0] if wanted else y.detach()]

    finite = torch.where(plain.isfinite(), plain, 0.0)
    others = [i for i in range(plain.ndim) if i != axis]
    spread = finite - finite.mean(others, keepdim=True) if others else 0 * finite
    spread = spread.abs().amax(others, keepdim=True) if others else spread
    # JAX without float64 holds the mean itself in float32.
    step = EPS[width(dtype)] * spread + 8 * EPS[statistics] * finite.abs()
    (right, gradient), (change, d_gradient) = rules.judged(function, [plain, g], [step, EPS[width(dtype)] * g.abs()])
    near(ours, right, change, laid, dtype, "y")
    if wanted and right.isfinite().all():
        (dx,) = torch.autograd.grad(y, x, g.to(x.dtype))
        spread = rules.normalize(plain, weight, bias, rule, known, eps, axis)[2]
        size = rules.terms(g, right, rules.scale(rule, spread, eps), weight, axis)
        near(dx.double(), gradient, d_gradient, laid, dtype, "dx", size)


def near(ours, right, change, laid, dtype, name, size=0.0):
    axis = laid.axis
    tolerance = 8 * rules.within(change, axis) + 16 * EPS[width(dtype)] * (rules.within(right.abs(), axis) + size)
    if name == "dx" and laid.dtype in ("float16", "bfloat16"):  # a sum of parts that were rounded one by one
        tolerance = tolerance + 4 * EPS[laid.dtype] * rules.within(right.abs(), axis)
    tolerance = torch.where(tolerance.isnan(), 0.0, tolerance)
    fine = right.isfinite()
    silent = ours.isfinite() & ~fine & (tolerance < np.inf)
    assert not silent.any(), f"{name}: {ours[silent][:1]} for {right[silent][:1]}"
    check(name, torch.where(fine, ours, 0.0), torch.where(fine, right, 0.0), tolerance, dtype)


EPSILONS = st.sampled_from([1e-5, 1e-3, 0.0])


@fuzz(
    3,
    data=st.data(),
    laid=arrays(dtypes=("float32", "float64", "float16", *INTEGERS), values=FINITE + BROKEN),
    rule=st.sampled_from(rules.RULES),
    eps=EPSILONS,
)
def test_numpy(data, laid, rule, eps):
    compare(data, "numpy", laid, rule, eps)


@fuzz(
    2,
    data=st.data(),
    laid=arrays(dtypes=("float32", "float64", "float16", "bfloat16", "uint8"), values=FINITE + BROKEN, negative=False),
    rule=st.sampled_from(rules.RULES),
    eps=EPSILONS,
)
def test_torch(data, laid, rule, eps):
    compare(data, "torch", laid, rule, eps)


@fuzz(
    0.25,
    data=st.data(),
    laid=arrays(values=FINITE + BROKEN, axis=1, shapes=FEW),
    rule=st.sampled_from(rules.RULES),
    eps=EPSILONS,
)
@pytest.mark.parametrize(
    "library", ["jax", pytest.param("jax x64", marks=pytest.mark.long), "array_api_strict", "dask"]
)
def test_libraries(library, data, laid, rule, eps):
    compare(data, library, laid, rule, eps)
