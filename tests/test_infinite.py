"""Infinity and the ends of the range: what can be represented comes out, wherever the way there leads."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import shrinkstats
from shrinkstats.prior import SamplingNoise

pytestmark = pytest.mark.core

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")


def infinite(dtype="float64"):
    x = np.random.default_rng(0).normal(size=(6, 7, 4)).astype(dtype)
    x[0, 0, 0] = np.inf
    x[5, 1, 0] = -np.inf
    x[0, 2, 0], x[4, 2, 1] = np.inf, -np.inf
    x[1, 3, 0], x[3, 3, 0] = np.inf, np.inf
    x[2, 4, 3], x[3, 4, 0] = np.nan, np.inf
    x[:, 5] = np.inf
    return x


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("sample_axis", [0, None])
def test_parts_with_infinity_make_the_whole_in_any_order(kind, sample_axis):
    array = np.asarray if kind == "numpy" else pytest.importorskip("jax.numpy" if kind == "jax" else kind).asarray
    x = infinite("float32")
    whole = shrinkstats.moments(array(x), sample_axis=sample_axis)
    np.testing.assert_array_equal(np.asarray(whole.mean)[:6], [np.inf, -np.inf, np.nan, np.inf, np.nan, np.inf])
    parts = [shrinkstats.moments(array(x[i : i + 2]), sample_axis=sample_axis) for i in (0, 2, 4)]
    for order in itertools.permutations(parts):
        total = sum(order)
        for name in VECTORS:
            np.testing.assert_allclose(
                np.asarray(getattr(total, name)), np.asarray(getattr(whole, name)), rtol=1e-5, err_msg=name
            )


def test_one_observation_each():
    x = infinite()[:, :, :1]
    whole = shrinkstats.moments(x)
    total = sum(shrinkstats.moments(row) for row in np.split(x, 6))
    for name in VECTORS:
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12, err_msg=name)


def test_merging_the_whole_range():
    largest = np.finfo(float).max
    a, b = (shrinkstats.moments(np.full((n, 3, 2), v)) for n, v in ((3, largest), (1, -largest)))
    np.testing.assert_allclose((a + b).mean, largest / 2)
    np.testing.assert_allclose((b + a).mean, largest / 2)
    np.testing.assert_array_equal((a + b).m2, np.inf)  # its size is not representable
    a, b = (shrinkstats.moments(np.full((1, 3, 1), v * 1.2e154)) for v in (0.5, 2.0))
    np.testing.assert_allclose((a + b).m2, 1.5 * 1.2e154 * (0.75 * 1.2e154))  # whose difference squared overflows


def images_beyond(scale):
    """Images whose deviations can be squared and added, but not times the square of their number of pixels."""
    rng = np.random.default_rng(0)
    return (5 + 0.1 * rng.normal(size=(8, 4, 1, 1)) + 0.1 * rng.normal(size=(8, 4, 100, 100))) * scale


def same_but_larger(found, small, scale):
    np.testing.assert_allclose(found.m2, small.m2 * scale * scale, rtol=1e-9)
    np.testing.assert_allclose(found.noise, small.noise * scale * scale, rtol=1e-9)


SCALE = 2.0**504


@pytest.mark.parametrize("size", [4, 8])
def test_the_noise_is_in_range_where_squares_of_sample_sizes_leave_it(size):
    x = images_beyond(1.0)[:size]
    small, large = shrinkstats.moments(x), shrinkstats.moments(x * SCALE)
    assert np.isinf(large.sample_m2).all()
    same_but_larger(large, small, SCALE)
    found = shrinkstats.james_stein(large.mean, large.noise)
    np.testing.assert_allclose(found.factor, shrinkstats.james_stein(small.mean, small.noise).factor, rtol=1e-9)


def test_it_is_in_the_moments_of_parts():
    x = images_beyond(1.0)
    for cuts in ([1, 2, 7], [4], range(1, 8)):
        parts = np.split(x, cuts)
        same_but_larger(sum(shrinkstats.moments(p * SCALE) for p in parts), shrinkstats.moments(x), SCALE)
    sizes = [x[:4], x[4:, :, :50]]
    same_but_larger(sum(shrinkstats.moments(p * SCALE) for p in sizes), sum(map(shrinkstats.moments, sizes)), SCALE)
    np.testing.assert_allclose(
        shrinkstats.moments(x * SCALE, sample_axis=None).noise,
        shrinkstats.moments(x, sample_axis=None).noise * SCALE**2,
        rtol=1e-9,
    )


def test_no_file_holds_it(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(ValueError, match="beyond the range of a file; divide them by a constant"):
        shrinkstats.moments(images_beyond(SCALE)).save(path)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["torch", "jax", "dask"])
def test_elsewhere_a_noise_that_is_lost_is_missing(kind):
    if kind == "jax":
        x = pytest.importorskip("jax.numpy").asarray(images_beyond(3e16).astype(np.float32))
    elif kind == "torch":
        x = pytest.importorskip("torch").asarray(images_beyond(SCALE))
    else:
        x = pytest.importorskip("dask.array").from_array(images_beyond(SCALE), chunks=(3, 2, 100, 100))
    m = shrinkstats.moments(x)
    assert np.isfinite(np.asarray(m.m2)).all()
    assert np.isnan(np.asarray(m.noise)).all()


def test_layers_know_the_noise_where_squares_of_sample_sizes_leave_the_range():
    torch = pytest.importorskip("torch")
    from shrinkstats.adapters.torch import ShrinkBatchNorm2d, fused, groups

    x = images_beyond(1.0)
    small, large = (torch.from_numpy(v) for v in (x, x * SCALE))
    for extremes in (False, True):
        same_but_larger(fused._moments(large, extremes)[0], fused._moments(small, extremes)[0], SCALE)
        same_but_larger(groups.moments(large, 4, extremes=extremes), groups.moments(small, 4, extremes=extremes), SCALE)
    layer = ShrinkBatchNorm2d(4, eps=1e-30, dtype=torch.float64)
    torch.testing.assert_close(layer(large), layer(small), rtol=1e-9, atol=1e-9)


def weight_by_fractions(source, target, noise, kappa, ratio=None):
    """The weight of the means in exact arithmetic."""
    shift, chance = Fraction(0), Fraction(0)
    for i, (m, v, t, n) in enumerate(zip(*source, target, np.broadcast_to(noise, len(target)), strict=True)):
        m, v, t, n = map(Fraction, map(float, (m, v, t, n)))
        shift += (t - m) ** 2 / v
        chance += n / v * (1 if ratio is None else Fraction(float(ratio[i])) ** 2)
    return float(max(Fraction(0), 1 - Fraction(kappa) * chance / shift))


EXTREME = {
    "noise": ([3.0, 3.0], [5e-324, 5e-324], [0.5517, -0.7245], 7.8e121, 1.0),
    "unlike": ([-0.64, 0.80], [5e307, 5e-324], [1e-15, -1e-15], 9e47, 2.5),
    "tiny": ([0.0, 1e-162, 0.0], [5e-324, 1e-322, 4e-320], [3e-161, 2e-162, -5e-161], [1e-322, 2e-323, 5e-320], 0.5),
    "far": ([0.0, 1.0, 2.0], [1e-310, 1e-300, 5e307], [1e300, -1e290, 4e307], [1e303, 1e298, 1e308], 1e290),
}


@pytest.mark.parametrize("case", EXTREME)
@pytest.mark.parametrize("calibrated", [False, True])
def test_blends_at_the_ends_of_the_range(case, calibrated):
    mean, var, target, noise, kappa = EXTREME[case]
    source, mean_t = shrinkstats.Statistics(np.array(mean), np.array(var)), np.array(target)
    stack = shrinkstats.moments(np.stack([mean_t, mean_t])[..., None])
    batch = replace(stack, m2=source.var * stack.count)  # as spread as the training data: the ratio is 1
    noise = np.broadcast_to(noise, len(mean)).astype(float)
    given = SamplingNoise(noise, noise * 0 + 0.01, noise * 0) if calibrated else noise
    found = shrinkstats.stein_blend(source, batch, noise=given, kappa=kappa)
    w = weight_by_fractions(source, mean_t, noise, kappa, batch.var() / source.var if calibrated else None)
    np.testing.assert_allclose(found.mean, source.mean + w * (mean_t - source.mean), rtol=1e-12)


def test_the_ratio_of_spreads_may_be_so_large_that_its_square_is_not_in_range():
    source, target = np.array([1e-5, 1e-5, 2e-5]), np.array([1e307, 4e307, 1e306])
    batch = shrinkstats.Statistics(np.array([1e155, -2e155, 3e155]), target)
    noise = SamplingNoise(source / 50, np.full(3, 0.01), np.zeros(3))
    found = shrinkstats.stein_blend(shrinkstats.Statistics(np.zeros(3), source), batch, noise=noise)
    w = weight_by_fractions(
        (np.zeros(3), source), batch.mean, noise.mean, 1.0, np.sqrt(target / 1e200 / source) * 1e100
    )
    assert 0 < w < 1
    np.testing.assert_allclose(found.mean, w * batch.mean, rtol=1e-9)
    np.testing.assert_allclose(found.var, (1 - 0.01) ** 2 * target, rtol=1e-9)  # 3 u over the sum of squares, averaged
