"""Stein's formulas in every form that there is of them, over the whole range of numbers: one oracle for all."""

import numpy as np
import pytest
from naive import stein

from shrinkstats import Moments
from shrinkstats.estimators import Stein

RULES = [Stein(mean, var) for mean in ("sampling", "channel", None) for var in ("gamma", "channel", None)]
SIZES = (-310, -300, -200, -165, -160, -155, -100, -20, 0, 20, 100, 150, 155, 165, 200, 300)  # of means, powers of ten
COUNT, SAMPLES = 24, 6


def batches():
    """Moments whose noise is of the size of the squared means, as far as there are such numbers, or at the ends."""
    for i, size in enumerate(SIZES):
        for j, noise in enumerate((2 * size, 2 * size - 1, -305, 0, 300)):
            rng = np.random.default_rng((i, j))
            c = (3, 5, 7, 2, 1)[(i + j) % 5]
            mean = rng.normal(size=c) * 10.0**size
            with np.errstate(under="ignore"):
                between = rng.uniform(0.5, 1.5, size=c) * 10.0 ** np.clip(noise, -323, 300)
            yield Moments.of_equal_samples(
                count=COUNT,
                samples=SAMPLES,
                mean=mean,
                m2=rng.uniform(0.5, 1.5, size=c) * 10.0 ** min(-size, 300),
                minimum=mean,
                maximum=mean,
                sample_m2=between,
            )


def agrees(rule, form):
    """The form's center and variance are the oracle's, to the rounding of what they are the difference of."""
    for m in batches():
        expected = stein(m.mean, m.m2, m.noise, m.count, rule.mean, rule.var)
        found = form(rule, m)
        for ours, theirs, sample in zip(found, expected, (m.mean, m.var()), strict=True):
            error, allowed = np.abs(ours - theirs), 1e-12 * np.abs(theirs) + 1e-13 * np.abs(sample) + 1e-322
            assert (error <= allowed).all(), (m.mean, m.noise, ours, theirs)


@pytest.mark.core
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_array_operations(rule):
    with np.errstate(all="ignore"):
        agrees(rule, lambda rule, m: rule.statistics(m, None))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_tensors(rule):
    torch = pytest.importorskip("torch")
    names = ("mean", "m2", "minimum", "maximum", "sample_m2")

    def form(rule, m):
        vectors = {name: torch.from_numpy(getattr(m, name)) for name in names}
        return [
            v.numpy() for v in rule.statistics(Moments.of_equal_samples(count=COUNT, samples=SAMPLES, **vectors), None)
        ]

    agrees(rule, form)


@pytest.mark.core
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_compiled(rule):
    agrees(rule, lambda rule, m: rule.compiled(m))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_cuda(rule, monkeypatch):
    torch = pytest.importorskip("torch")
    import cuda_on_host as host

    from shrinkstats.adapters.torch import cuda, fused

    if host.COMPILER is None:
        pytest.skip("no C++ compiler (g++) to run the kernels with")
    nothing = torch.empty(0, dtype=torch.float64)

    def form(rule, m):
        found = torch.from_numpy(np.stack([m.mean, m.m2, m.mean, m.mean, m.sample_m2]))
        return cuda._stein(fused.Rule(rule, None, 1e-5, moments=m), found, None, None, nothing).numpy()[:2]

    with host.installed(), np.errstate(all="ignore"):
        agrees(rule, form)


@pytest.mark.parametrize("rule", [Stein(), Stein("channel"), Stein(None)], ids=str)
def test_simulation(rule):
    """It knows a vector by a few sums, in units of the standard error: the share that is removed of the mean."""
    simulation = pytest.importorskip("shrinkstats.theory.simulation")
    rng = np.random.default_rng(0)
    for size in (-100, -3, 0, 3, 100):
        for c in (3, 5, 8):
            mean, noise = rng.normal(size=c) * 10.0**size, rng.uniform(0.5, 1.5, size=c)
            one = np.ones(1)
            sums = simulation.Sums(one, {}, mean.sum() * one, noise.mean() * one, (noise.sum() - 2 * noise.max()) * one)
            removed = simulation._removed(rule, sums, sums.total, c)(mean @ mean * one)
            center, _ = stein(mean, one.repeat(c), noise, COUNT, rule.mean, None)
            np.testing.assert_allclose((1 - removed) * mean, center, rtol=1e-11, atol=1e-13 * abs(mean).max())
