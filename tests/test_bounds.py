"""No arguments of a compiled function make it leave its arrays: every one Python can call, every length and number.

A call either is refused, or neither writes beside its arrays nor depends on what lies there. `make bounds` runs this
with Numba's own checks, and with arrays at the edge of memory that may not be touched.
"""

import importlib
import inspect
import pkgutil
import random

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from places import Place

from shrinkstats import kernels
from shrinkstats.kernels import compiled, cpu, team

pytestmark = pytest.mark.core

GPU = ("cupy", "cuda")  # not of Numba, and not everywhere
LEAVES = "out of bounds"  # what Numba's own check says, which comes too late: ours come first
COMBINATIONS = 150


def dispatchers():
    """Every function of the kernels that Numba compiles and Python can call."""
    modules = (m.name for m in pkgutil.iter_modules(kernels.__path__) if m.name not in GPU)
    found = {}
    for name in modules:
        try:
            module = importlib.import_module(f"shrinkstats.kernels.{name}")
        except ModuleNotFoundError as error:  # a backend of a library that is not here compiles nothing by itself
            if (error.name or "").startswith("shrinkstats"):
                raise
            continue
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                found[function.__name__] = function
    return found


def rows(*numbers):
    v = np.array(numbers, np.int64)
    v.flags.writeable = False
    return v


rng = np.random.default_rng(0)
N, C, H, W = 2, 3, 2, 4  # samples, channels, runs, length
DATA, VECTOR, GROUPS = rng.normal(size=N * C * H * W), rng.normal(size=C), rng.normal(size=N * C)
PLANAR, RUNS = (C * H * W, H * W, 1), rows(0, H, W)
GAPS, BACK = (C * H * W, H * W, 2), rows(W, H, -W)  # runs of two elements, the second row first
LAST, DENSE = (H * W * C, 1, C), rows(0, H, W * C)
ONE, END = 0, N * C
LINES = {"center": VECTOR, "scale": abs(VECTOR), "weight": VECTOR, "bias": VECTOR}
STEIN = {"mean": VECTOR, "m2": abs(VECTOR), "noise": abs(VECTOR), "count": 8.0, "mean_rule": 1, "var_rule": 3}
SUMS = {"zero": 0.0, "extremes": True}
FOUND = dict.fromkeys(("total", "squares", "low", "high"), GROUPS)
PLAN = team.plan("affine", np.float64, (N, C, H * W), ((C * H * W, H * W, 1),) * 2, None)

CALLS = {
    "planar_sums": [
        {"x": DATA, "walk": walk, "rows": r, "length": length, "channels": C, "begin": ONE, "end": END, **SUMS,
         "pivot": GROUPS, **FOUND}
        for walk, r, length in ((PLANAR, RUNS, W), (GAPS, BACK, W // 2), (PLANAR, rows(0), H * W))
    ],
    "interleaved_sums": [
        {"x": DATA, "walk": LAST, "rows": r, "length": length, "channels": C, "side": side, "begin": 0, "end": N,
         **SUMS, "lanes": np.zeros(5 * compiled.LANES), "pivot": GROUPS, **FOUND}
        for r, length, side in ((DENSE, W, 1), (rows(0), H * W, 4))
    ],
    "describe": [
        {"x": DATA, "walk": walk, "rows": r, "length": W, "channels": C, "begin": 0, "end": END, "mean": GROUPS,
         "total": GROUPS, "m2": GROUPS * huge, "low": GROUPS, "high": GROUPS}
        for walk, r in ((PLANAR, RUNS), (LAST, DENSE)) for huge in (1, 1e300, np.nan)
    ],
    "tiles": [{"channels": 600}],
    "first_group": [{"tile": 3, "channels": 600}],
    "_join": [{"mean": VECTOR, "m2": VECTOR, "n": 4, "other_mean": VECTOR, "other_m2": VECTOR, "other_n": 2}],
    "merge_groups": [
        {"means": GROUPS.reshape(N, C), "m2": GROUPS.reshape(N, C), "size": 8, "mean": VECTOR, "whole": VECTOR,
         "between": VECTOR}
    ],
    "planar_affine": [
        {"x": DATA, "y": DATA, "walk": PLANAR, "out": walk, "rows": RUNS, "out_rows": r, "length": length,
         "channels": C, "begin": 0, "end": END, "pivot": VECTOR, "a": VECTOR, "b": VECTOR}
        for walk, r, length in ((PLANAR, RUNS, W), (GAPS, BACK, W // 2))
    ],
    "interleaved_affine": [
        {"x": DATA, "y": DATA, "walk": LAST, "out": LAST, "rows": r, "out_rows": r, "length": length, "channels": C,
         "copies": copies, "begin": 0, "end": N, "pivot": v, "a": v, "b": v}
        for r, length, copies, v in ((DENSE, W, 1, VECTOR), (rows(0), H * W, 3, np.tile(VECTOR, 3)))
    ],
    "planar_products": [
        {"g": DATA, "x": DATA, "g_walk": walk, "walk": PLANAR, "g_rows": r, "rows": RUNS, "length": length,
         "channels": C, "begin": 0, "end": END, "pivot": VECTOR, "total": GROUPS, "product": GROUPS}
        for walk, r, length in ((PLANAR, RUNS, W), (GAPS, BACK, W // 2))
    ],
    "interleaved_products": [
        {"g": DATA, "x": DATA, "g_walk": LAST, "walk": LAST, "g_rows": r, "rows": r, "length": length, "channels": C,
         "copies": copies, "begin": 0, "end": N, "pivot": v, "total": GROUPS, "product": GROUPS}
        for r, length, copies, v in ((DENSE, W, 1, VECTOR), (rows(0), H * W, 2, np.tile(VECTOR, 2)))
    ],
    "planar_combine": [
        {"g": DATA, "x": DATA, "y": DATA, "g_walk": PLANAR, "walk": PLANAR, "out": walk, "g_rows": RUNS, "rows": RUNS,
         "out_rows": r, "length": length, "channels": C, "begin": 0, "end": END, "pivot": VECTOR, "a": VECTOR,
         "b": VECTOR, "d": GROUPS, "d_step": C}
        for walk, r, length in ((PLANAR, RUNS, W), (GAPS, BACK, W // 2))
    ],
    "interleaved_combine": [
        {"g": DATA, "x": DATA, "y": DATA, "g_walk": LAST, "walk": LAST, "out": LAST, "g_rows": r, "rows": r,
         "out_rows": r, "length": length, "channels": C, "copies": copies, "begin": 0, "end": N, "pivot": v, "a": v,
         "b": v, "d": GROUPS, "d_step": C}
        for r, length, copies, v in ((DENSE, W, 1, VECTOR), (rows(0), H * W, 3, np.tile(VECTOR, 3)))
    ],
    "_planar_ties": [
        {"x": DATA, "walk": PLANAR, "rows": RUNS, "length": W, "channels": C, "begin": 0, "end": END, "low": DATA[:C],
         "high": DATA[-C:], "at_low": GROUPS, "at_high": GROUPS}
    ],
    "_planar_add": [
        {"x": DATA, "y": DATA, "walk": PLANAR, "out": GAPS, "rows": RUNS, "out_rows": BACK, "length": W // 2,
         "channels": C, "begin": 0, "end": END, "low": DATA[:C], "high": DATA[-C:], "at_low": VECTOR, "at_high": VECTOR}
    ],
    "stein": [STEIN, {**STEIN, "mean_rule": 2, "var_rule": 2}],
    "stein_pullback": [
        {**STEIN, "mean_rule": one, "var_rule": other, "g_center": VECTOR, "g_var": VECTOR}
        for one, other in ((1, 3), (2, 2))
    ],
    "affine_lines": [{**LINES, "lines": np.zeros((3, 2 * C))}],
    "pivot_lines": [{"mean": VECTOR, "lines": np.zeros((1, 2 * C))}],
    "scale_gradients": [
        {"sums": rng.normal(size=(2, N, C)), "pivot": np.tile(VECTOR, 2), "mean": VECTOR, "center": VECTOR,
         "scale": VECTOR, "slope": VECTOR, "weight": VECTOR}
    ],
    "combine_lines": [
        {"g_mean": VECTOR, "g_m2": VECTOR, "g_sample_m2": VECTOR, "means": GROUPS.reshape(N, C), "mean": VECTOR,
         "count": 16.0, "size": 8, "slope": VECTOR, "lines": np.zeros((3, 2 * C)), "d": np.zeros((N, C))}
    ],
    "follow": [{"means": VECTOR, "variances": VECTOR, "mean": VECTOR, "variance": VECTOR, "momentum": 0.1}],
    "_blend": [
        {"mean_s": VECTOR, "var_s": abs(VECTOR), "mean_t": GROUPS.reshape(N, C), "var_t": abs(GROUPS.reshape(N, C)),
         "noise": abs(VECTOR), "sd_noise": abs(VECTOR), "bias": abs(VECTOR), "kappa": 1.0, "share": 0.5,
         "mean": GROUPS.reshape(N, C), "var": GROUPS.reshape(N, C)}
    ],
    "adapted_lines": [
        {"groups": abs(rng.normal(size=(3, N, C))), "size": 8, "n": 3, "kappa": 1.0, "eps": 1e-5,
         "running_mean": VECTOR, "running_var": abs(VECTOR), "noise_mean": abs(VECTOR),
         "noise_sd": abs(rng.normal(size=(2, C))),
         "noise_sd_bias": abs(rng.normal(size=(2, C))), "weight": VECTOR, "bias": VECTOR, "lines": np.zeros((3, 2 * C))}
    ],
    "_filled": [
        {"template": PLAN.template, "first": 0, "second": 0, "third": 0,
         "vectors": np.zeros((3, C * PLAN.copies * 8), np.uint8), "more": np.zeros(0, np.uint8), "option": 0}
    ],
}  # fmt: skip
CASES = [(name, i) for name in CALLS for i in range(len(CALLS[name]))]


def test_every_compiled_function_is_called_here():
    found = dispatchers()
    assert set(CALLS) == set(found)
    for name, function in found.items():
        assert not function.targetoptions.get("no_cpython_wrapper"), f"Python's call of {name} would crash"
        for call in CALLS[name]:
            assert list(call) == list(inspect.signature(function.py_func).parameters)


def changes(call):
    """Other values of single arguments: arrays too short, too long and empty, and numbers out of their range."""
    for name, value in call.items():
        if isinstance(value, np.ndarray):
            for axis, n in enumerate(value.shape):
                for other in sorted({0, n - 1, n + 1, n // 2, 2 * n} - {n, -1}):
                    shape = (*value.shape[:axis], other, *value.shape[axis + 1 :])
                    yield name, np.resize(value, shape).astype(value.dtype)
            if value.dtype == np.int64 and name != "template":
                for i in range(value.size):
                    for number in (value[i] - 1, value[i] + 1, -value[i], 0, 2**40, 2**62, -(2**62), 2**63 - 1):
                        yield name, np.array([*value[:i], number, *value[i + 1 :]], np.int64)
        elif isinstance(value, tuple):
            for i, n in enumerate(value):
                for number in (n - 1, n + 1, -n, 2 * n, 2**40, 2**62, -(2**62)):
                    yield name, (*value[:i], number, *value[i + 1 :])
        elif type(value) is int:
            for number in {-1, 0, 1, value - 1, value + 1, 2 * value, 2**31, 2**62, -(2**62)}:
                yield name, number
        elif type(value) is float:
            for number in (0.0, -1.0, np.inf, np.nan):
                yield name, number


def outcome(function, call, sentinel, at_end):
    """What a call returns and leaves in its arrays, as bytes; or the error that refuses it."""
    place, arrays = Place(sentinel, at_end), []
    for name, value in call.items():
        if isinstance(value, np.ndarray):
            value = place(value)
            value.flags.writeable = "rows" not in name
        arrays.append(value)
    try:
        result = function(*arrays)
    except (ValueError, IndexError) as error:
        seen_too_late = LEAVES in str(error)
        assert not seen_too_late, (function.__name__, error)  # noqa: PT017
        result = type(error)
    assert place.untouched(), function.__name__
    left = [v.tobytes() for v in arrays if isinstance(v, np.ndarray)]
    place.leave()
    if function.__name__ == "_filled":  # addresses
        return isinstance(result, type)
    results = result if isinstance(result, tuple) else (result,)
    return [v.tobytes() if isinstance(v, np.ndarray) else repr(v) for v in results], left


def check(function, call):
    found = [outcome(function, call, sentinel, at_end) for sentinel, at_end in ((1.0, True), (77.0, False))]
    assert found[0] == found[1], f"{function.__name__} reads beside its arrays"
    return found[0]


@pytest.mark.parametrize(("name", "i"), CASES)
def test_no_length_and_no_number_leaves_the_arrays(name, i):
    function, call = dispatchers()[name], CALLS[name][i]
    with np.errstate(all="ignore"):
        assert "Error" not in str(check(function, call))
        single = list(changes(call))
        for change in single:
            check(function, call | dict([change]))
        chosen = random.Random(0)
        for _ in range(COMBINATIONS if len(single) > 3 else 0):
            check(function, call | dict(chosen.sample(single, chosen.choice((2, 2, 3)))))


SHORT = {"affine_lines": ("scale", "lines"), "follow": ("mean",), "planar_sums": ("x", "total", "low"),
         "planar_affine": ("x", "y", "pivot"), "adapted_lines": ("running_mean", "noise_sd", "groups"),
         "merge_groups": ("mean", "m2")}  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_short_arrays_are_refused_before_anything_is_written(name):
    function, call = dispatchers()[name], CALLS[name][0]
    for short in SHORT[name]:
        arguments = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in call.items()}
        arguments[short] = call[short][..., :-1].copy()
        before = {k: v.tobytes() for k, v in arguments.items() if isinstance(v, np.ndarray)}
        with pytest.raises((ValueError, IndexError)):
            function(*arguments.values())
        assert before == {k: v.tobytes() for k, v in arguments.items() if isinstance(v, np.ndarray)}


# --- passes for a team of threads --------------------------------------------------------------------------------

ORDERS = {"planar": (C * H * W, H * W, 1), "interleaved": (H * W * C, 1, C), "gaps": (C * H * W + 5, H * W + 1, 1)}


def memory(x, strides, place):
    """x with these steps, at the edge of a place."""
    extent = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    lying = np.lib.stride_tricks.as_strided(place(np.zeros(extent, x.dtype)), x.shape, [8 * s for s in strides])
    lying[...] = x
    return lying


def passes(strides, place):
    """Every pass on small arrays: its plan, table of addresses, vectors and sums, and what comes out of it."""
    x, g, out = (memory(rng.normal(size=(N, C, H * W)), strides, place) for _ in range(3))
    y = memory(np.zeros(x.shape), strides, place)
    mean, a, b = (v + 0.5 for v in rng.normal(size=(3, C)))
    d = place(rng.normal(size=(N, C)))

    def plan(name, arrays, sample_axis=None):
        return team.plan(name, np.float64, x.shape, (strides,) * arrays, sample_axis)

    def lines(job, *vectors):
        return place(np.array([np.tile(v, job.copies) for v in vectors]))

    job = plan("moments", 1, 0)
    sums = place(np.zeros((5, N, C)))
    yield job, (x.ctypes.data, 0, 0), np.empty((0, 0), np.uint8), sums, 1, lambda: (sums[0], x.mean(axis=2))
    yield job, (x.ctypes.data, 0, 0), np.empty((0, 0), np.uint8), sums[:3], 0, lambda: (sums[0], x.mean(axis=2))
    job = plan("affine", 2)
    vectors = lines(job, mean, a, b)
    expected = (x - mean[:, None]) * a[:, None] + b[:, None]
    yield job, (x.ctypes.data, y.ctypes.data, 0), vectors, np.empty(0), 0, lambda: (y, expected)
    job = plan("reduce_grad", 2)
    found = place(np.zeros((2, job.samples, C)))
    arrays = (g.ctypes.data, x.ctypes.data, 0)
    yield job, arrays, lines(job, mean), found, 0, lambda: (found[0].sum(axis=0), g.sum(axis=(0, 2)))
    job = plan("combine", 3, 0)
    vectors, arrays = lines(job, mean, a, b), (g.ctypes.data, x.ctypes.data, out.ctypes.data)
    combined = g * a[:, None] + (x - mean[:, None]) * b[:, None]
    yield job, arrays, vectors, d, C, lambda: (out, combined + d[:, :, None])
    yield job, arrays, vectors, d[:1], 0, lambda: (out, combined + d[0][:, None])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("at_end", [False, True])
def test_a_team_stays_within_its_arrays_and_refuses_others(order, at_end):
    place = Place(5.0, at_end)
    for job, arrays, vectors, more, option, results in passes(ORDERS[order], place):
        table = job.table(*arrays, vectors, more, option)
        job.alone(table[1])
        np.testing.assert_allclose(*results(), rtol=1e-12, atol=1e-12)
        assert place.untouched()
        wrong = [(vectors, more, option + 1), (vectors, more, -1), (vectors, np.empty(0), option)]
        wrong += [(vectors, np.empty(more.size + n), option) for n in (-1, 1, C) if more.size + n >= 0]
        if len(vectors):
            wrong += [(np.empty((len(vectors) + n, vectors.shape[1])), more, option) for n in (-1, 1)]
            wrong += [(np.empty((len(vectors), vectors.shape[1] + n)), more, option) for n in (-1, 1, C)]
            wrong.append((vectors.astype(np.float32), more, option))
        for case in wrong:
            if not (case[2] == option and case[1].size == more.size and case[0] is vectors):
                with pytest.raises(ValueError, match="the pass"):
                    job.table(*arrays, *case)


def test_functions_that_only_compiled_code_calls_are_pythons_own():
    """A call of compiled code that was made for compiled code alone would end the process."""
    assert cpu._finite(np.inf) == 0.0
    assert not isinstance(cpu._finite, Dispatcher)
