"""The CUDA kernels without a GPU: their logic on the CPU (cuda_on_host.py), and that NVIDIA's compilers take them."""

import ctypes
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cuda_on_host as host
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import moments as naive_moments

import shrinkstats
from shrinkstats import kernels
from shrinkstats.estimators import BatchStatistics, Stein
from shrinkstats.kernels import cpu, cuda

pytestmark = pytest.mark.core

KERNELS = Path(cuda.__file__).parent
DTYPES = ["float16", "bfloat16", "float32", "float64"]
STEP = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6, "float64": 1e-12}  # between neighbours, with some room
needs_compiler = pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler (g++) to run the kernels with")


@pytest.fixture
def passes():
    """The CuPy backend, on a CuPy that is none."""
    with host.installed() as backend:
        yield backend


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes, for bfloat16, is not installed").bfloat16)
    return np.dtype(name)


def surrounded(values, order="C", offset=0):
    """An array in the middle of memory that is NaN: who reads too far will show. `offset` elements off 16 bytes."""
    values = np.asarray(values)
    room = np.full(values.size + 64, np.nan, dtype=values.dtype)
    start = -room.ctypes.data % 16 // values.itemsize + 16 + offset
    lying = np.ndarray(values.shape, values.dtype, room, start * values.itemsize, order=order)
    lying[...] = values
    return lying.view(host.ndarray)


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, size=shape).astype(dtype_of(dtype))


def check_moments(passes, x, axis, sample_axis, tolerance=1e-6):
    expected = naive_moments(np.asarray(x, dtype=np.float64), axis, sample_axis)
    mean, m2, low, high, sample_m2 = passes.moments(x, axis, sample_axis)
    sd = np.sqrt(expected["m2"] / expected["count"])
    assert np.all(np.abs(mean - expected["mean"]) <= tolerance * (sd + 1e-30))
    np.testing.assert_allclose(m2, expected["m2"], rtol=tolerance)
    np.testing.assert_array_equal(low, expected["minimum"])
    np.testing.assert_array_equal(high, expected["maximum"])
    if sample_axis is None:
        np.testing.assert_array_equal(sample_m2, m2)
    else:
        s = x.shape[sample_axis]
        between = expected["noise"] * s * (s - 1) if s > 1 else np.zeros_like(mean)
        np.testing.assert_allclose(sample_m2, between, rtol=1e-4, atol=tolerance * np.max(sd) ** 2)


LAYOUTS = {  # what lies outermost in memory, and what next to each other
    "planar, short runs": ((3, 5, 7), 1, 0),
    "planar, runs of odd length": ((4, 6, 7, 7), 1, 0),
    "planar": ((3, 4, 16, 16), 1, 0),
    "planar, cut": ((2, 3, 9001), 1, 0),
    "planar, one channel": ((5, 1, 700), 1, 0),
    "planar, rows in a sample": ((3, 4, 5, 40), 2, 0),
    "planar, no samples": ((6, 5, 33), 1, None),
    "a vector": ((1000,), 0, None),
    "a table": ((500, 8), 1, 0),
    "a table of odd width": ((500, 3), 1, 0),
    "a table, no samples": ((3000, 16), 1, None),
    "a wide table": ((20, 2100), 1, 0),
    "channels last": ((4, 10, 11, 24), 3, 0),
    "channels last, odd": ((4, 9, 9, 3), 3, 0),
    "channels last, cut": ((2, 3000, 4), 2, 0),
    "channels outermost": ((5, 4, 30), 0, 1),
    "one element": ((1, 1), 1, 0),
    "one element a channel": ((1, 9), 1, 0),
    "one sample": ((1, 3, 50), 1, 0),
}


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_moments(passes, name, dtype):
    shape, axis, sample_axis = LAYOUTS[name]
    for offset in (0, 1):
        x = surrounded(random(shape, dtype), offset=offset)
        check_moments(passes, x, axis, sample_axis, 1e-12 if dtype == "float64" else 1e-6)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_affine_and_backward(passes, name, dtype):
    shape, axis, _ = LAYOUTS[name]
    c, rng = shape[axis], np.random.default_rng(1)
    mean, a, b = (host.array(rng.normal(size=c)) for _ in range(3))
    along = [1] * len(shape)
    along[axis] = c
    x, g = random(shape, dtype), random(shape, dtype, seed=1)
    wide_x, wide_g = x.astype(np.float64), g.astype(np.float64)
    around = wide_x - mean.reshape(along)
    others = tuple(i for i in range(len(shape)) if i != axis)
    tolerance = {"rtol": STEP[dtype], "atol": 4 * STEP[dtype]}
    for lying in ({}, {"offset": 1}):
        here, there = surrounded(x, **lying), surrounded(g)
        y = passes.affine(here, axis, mean, a, b)
        assert y.dtype == x.dtype
        expected = around * a.reshape(along) + b.reshape(along)
        np.testing.assert_allclose(y.astype(np.float64), expected, **tolerance)
        total, product = passes.reduce_grad(there, here, axis, mean)
        scale = np.abs(wide_g).sum(axis=others) * 10
        assert np.all(np.abs(total - wide_g.sum(axis=others)) <= 1e-6 * scale)
        assert np.all(np.abs(product - (wide_g * around).sum(axis=others)) <= 1e-6 * scale)
        d = host.array(rng.normal(size=(1, c)))
        y = passes.combine(there, here, axis, mean, a, b, d)
        expected = wide_g * a.reshape(along) + around * b.reshape(along) + d.reshape(along)
        np.testing.assert_allclose(y.astype(np.float64), expected, **tolerance)
        if axis == 1 and len(shape) > 1:
            d = host.array(rng.normal(size=shape[:2]))
            y = passes.combine(there, here, axis, mean, a, b, d)
            expected = wide_g * a.reshape(along) + around * b.reshape(along)
            expected = expected + d.reshape(*shape[:2], *[1] * (len(shape) - 2))
            np.testing.assert_allclose(y.astype(np.float64), expected, **tolerance)


@needs_compiler
def test_any_strides(passes):
    x = random((4, 3, 5, 6), "float32")
    lying = {
        "transposed": surrounded(x).transpose(2, 0, 3, 1),
        "Fortran": surrounded(x, order="F"),
        "backwards": surrounded(x)[::-1, :, ::-1],
        "every other": surrounded(x)[:, :, ::2],
        "repeated": np.broadcast_to(surrounded(x[:1]), (4, 3, 5, 6), subok=True),
    }
    for values in lying.values():
        for axis in range(4):
            for sample_axis in (None, *(i for i in range(4) if i != axis)):
                check_moments(passes, values, axis, sample_axis)
            mean = host.array(np.arange(values.shape[axis], dtype=np.float64))
            y = passes.affine(values, axis, mean, mean + 1, mean)
            assert y.shape == values.shape
            expected = cpu.affine(np.array(values), axis, np.array(mean), np.array(mean + 1), np.array(mean))
            np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)


HARD = {
    "far from zero": lambda x: x + 1e6,
    "an outlier comes first": lambda x: np.concatenate([np.full_like(x[:1], 1e8), x[1:]]),
    "an outlier in between": lambda x: np.concatenate([x[:7], np.full_like(x[:1], -1e8), x[8:]]),
    "small": lambda x: x * 1e-30,
    "large": lambda x: x * 1e25,
    "nearly the largest": lambda x: np.sign(x - 3) * 3e38,
    "constant": lambda x: 0 * x + 7.25,
    "zero": lambda x: 0 * x,
    "two values": lambda x: np.where(x > 3, 1e4, 1e4 + 0.001),
}


@needs_compiler
@pytest.mark.parametrize("form", ["planar", "interleaved", "single"])
@pytest.mark.parametrize("name", HARD)
def test_hard_data(passes, name, form):
    shape, axis = {"planar": ((4, 2, 600), 1), "interleaved": ((300, 8), 1), "single": ((700, 3), 1)}[form]
    x = np.random.default_rng(0).normal(3.0, 2.0, size=shape)
    check_moments(passes, surrounded(HARD[name](x).astype(np.float32)), axis, 0, tolerance=2e-6)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3, 50), (40, 8), (40, 3)])
@pytest.mark.parametrize("sample", [0, 2])  # the very first element is the pivot
def test_nan_and_infinity_stay_in_their_channel(passes, shape, dtype, sample):
    x = random(shape, dtype)
    x[sample, 0], x[sample, 1] = np.nan, np.inf
    mean, m2, low, high, sample_m2 = passes.moments(surrounded(x), 1, 0)
    for v in (mean, m2, low, high, sample_m2):
        assert np.isnan(v[0])
        assert np.isfinite(v[2])
    assert mean[1] == high[1] == np.inf
    assert np.isfinite(low[1])
    assert np.isnan(m2[1])


@needs_compiler
def test_the_bits_are_the_same_again(passes):
    """Threads arrive at barriers in another order (see cuda_on_host.h); nothing depends on it."""
    x = surrounded(random((3, 5, 3000), "float32"))
    one, other = passes.moments(x, 1, 0), passes.moments(x, 1, 0)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_public_functions(passes, monkeypatch, dtype):
    """`moments` and `normalize` of a CuPy array go through the kernels, and agree with NumPy's."""
    for module in (kernels, sys.modules["shrinkstats.moments"]):
        monkeypatch.setattr(module, "is_numpy", lambda x: type(x) is np.ndarray)
    x = random((6, 4, 5, 5), dtype)
    ours, theirs = shrinkstats.moments(surrounded(x)), shrinkstats.moments(x.astype(np.float64))
    assert (ours.count, ours.samples) == (theirs.count, theirs.samples)
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        assert isinstance(getattr(ours, name), host.ndarray)
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, err_msg=name)
    y = shrinkstats.normalize(surrounded(x), Stein(), weight=host.array([1.0, 2, 3, 4]))
    assert isinstance(y, host.ndarray)
    assert y.dtype == x.dtype
    expected = shrinkstats.normalize(x.astype(np.float64), Stein(), weight=np.array([1.0, 2, 3, 4]))
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=STEP[dtype], atol=10 * STEP[dtype])
    table = random((50, 4), dtype)
    np.testing.assert_allclose(
        shrinkstats.normalize(surrounded(table), BatchStatistics()).astype(np.float64),
        shrinkstats.normalize(table.astype(np.float64), BatchStatistics()),
        rtol=STEP[dtype], atol=10 * STEP[dtype],
    )  # fmt: skip


@needs_compiler
def test_arrays_stay_on_their_device(passes, monkeypatch):
    """All is computed where the data lie, though another device is the current one."""
    for module in (kernels, sys.modules["shrinkstats.moments"]):
        monkeypatch.setattr(module, "is_numpy", lambda x: type(x) is np.ndarray)
    monkeypatch.setattr(host.ndarray, "number", 1)
    seen = []
    for module in (sys.modules["shrinkstats.moments"], sys.modules["shrinkstats.normalize"], kernels):
        wrapped = module.namespace if hasattr(module, "namespace") else module.backend
        name = wrapped.__name__
        watched = lambda *a, f=wrapped, **o: seen.append(host.Device.current[-1]) or f(*a, **o)  # noqa: E731
        monkeypatch.setattr(module, name, watched)
    x = surrounded(random((6, 4, 5, 5), "float32"))
    shrinkstats.moments(x)
    shrinkstats.normalize(x, Stein())
    assert set(seen) == {1}
    assert host.Device.current == [0]


@given(
    samples=st.integers(1, 300), rows=st.integers(1, 5000), channels=st.integers(1, 3000), length=st.integers(1, 70000),
    width=st.sampled_from([2, 4, 8]), aligned=st.booleans(), processors=st.integers(1, 200),
)  # fmt: skip
def test_plans_cover_everything_once(samples, rows, channels, length, width, aligned, processors):
    if channels == 1:  # as grid_of has it
        rows = 1
    job = cuda.plan(cuda.Grid(samples, rows, channels, length), width, aligned, processors)
    _, _, _, size, cuts, team, parts = job.sizes
    whole = length if job.form == "planar" else rows
    assert (cuts - 1) * size < whole <= cuts * size  # every cut has something, and nothing is left
    assert 1 <= team <= cuda.THREADS
    if job.form == "planar":
        assert cuda.THREADS % team == 0
        assert parts == samples * rows * cuts
        assert (job.blocks - 1) * (cuda.THREADS // team) < parts * channels <= job.blocks * (cuda.THREADS // team)
    else:
        columns = channels // (width if job.form == "interleaved" else 1)
        assert parts == samples * cuts
        assert job.blocks == parts * -(-columns // team)
    assert job.parts == parts


@pytest.mark.parametrize(
    ("shape", "strides", "axis", "sample_axis", "expected"),
    [
        ((4, 3, 5, 5), (75, 25, 5, 1), 1, 0, (4, 1, 3, 25)),
        ((4, 3, 5, 5), (75, 1, 15, 3), 1, 0, (4, 25, 3, 1)),
        ((4, 3, 5, 5), (75, 25, 5, 1), 2, 0, (4, 3, 5, 5)),
        ((4, 3, 5, 5), (75, 25, 5, 1), 1, None, (1, 4, 3, 25)),
        ((4, 3, 5, 5), (75, 25, 5, 1), 1, 2, None),  # samples inside
        ((4, 3, 5, 5), (150, 50, 10, 2), 1, 0, None),  # gaps
        ((4, 1, 5, 5), (25, 99, 5, 1), 1, 0, (4, 1, 1, 25)),
        ((1, 3), (77, 1), 1, 0, (1, 1, 3, 1)),
        ((1, 1), (1, 1), 1, 0, (1, 1, 1, 1)),
        ((4, 3), (0, 1), 1, 0, None),  # repeated
    ],
)
def test_grids(shape, strides, axis, sample_axis, expected):
    assert cuda.grid_of(shape, strides, axis, sample_axis) == expected


SOURCES = [("passes.cu", f"-DDATA={bits}") for bits in cuda.DATA.values()] + [("stein.cu", "-DDATA=64")]


@pytest.mark.long
@pytest.mark.parametrize(("file", "option"), SOURCES)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_compiles_with_nvcc(file, option, tmp_path):
    architectures = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]
    command = ["nvcc", "-std=c++17", "-fatbin", "--threads=2", "-Werror", "all-warnings", option, *architectures]
    done = subprocess.run(
        [*command, "-o", tmp_path / "kernels.fatbin", KERNELS / file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("file", "option"), SOURCES[::2])
def test_compiles_with_nvrtc(file, option):
    """The compiler that CuPy calls, with the options CuPy adds to ours; it takes less than nvcc does."""
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    source = (KERNELS / file).read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.encode(), 0, None, None) == 0
    theirs = ("--device-as-default-execution-space", "-ftz=true", "--gpu-architecture=sm_90")
    options = [o.encode() for o in (option, *cuda.OPTIONS, *theirs)]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    assert size.value > 0


def _nvrtc():
    nvidia = find_spec("nvidia")
    for folder in nvidia.submodule_search_locations if nvidia else ():
        for library in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL("libnvrtc.so")
    except OSError:
        pytest.skip("NVRTC (nvidia-cuda-nvrtc) is not installed")
