"""Dask arrays: any chunks, nothing computed before it is asked for, on threads, processes and a cluster that fails."""

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE

import shrinkstats
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

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array needs more than dask alone")

VECTORS = ("mean", "m2", "minimum", "maximum", "noise")


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(1.0, 20.0, size=shape).astype(dtype)


def assert_same(found, expected, tolerance=1e-12):
    assert (found.count, found.samples) == (expected.count, expected.samples)
    for name in VECTORS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture(autouse=True)
def in_this_thread_unless_told_otherwise():
    with dask.config.set(scheduler="synchronous"):
        yield


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_any_chunks_give_the_whole(chunks, data):
    axis = data.draw(st.integers(0, len(chunks) - 1))
    sample_axis = data.draw(st.sampled_from([None, *(i for i in range(len(chunks)) if i != axis)]))
    chunks[axis][0] += 1  # some channels
    x = random(*map(sum, chunks))
    m = shrinkstats.moments(da.from_array(x, chunks=tuple(map(tuple, chunks))), axis=axis, sample_axis=sample_axis)
    (found,) = dask.compute(m)
    assert isinstance(found.mean, np.ndarray)
    assert_same(found, shrinkstats.moments(x, axis=axis, sample_axis=sample_axis))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16", "uint8"])
def test_dtypes(dtype):
    x = (random(8, 3, 5) % 100).astype(dtype)
    lazy = da.from_array(x, chunks=(3, 2, 2))
    assert_same(dask.compute(shrinkstats.moments(lazy))[0], shrinkstats.moments(x), 1e-5)
    y, expected = shrinkstats.normalize(lazy, Stein()), shrinkstats.normalize(x, Stein())
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y.compute(), expected, rtol=2 * np.finfo(expected.dtype).eps, atol=1e-6)


RULES = [
    BatchStatistics(), Stein(), Stein.published(), RobustNorm(), Ridge(0.5), Lasso(0.5), PriorBlend(16.0), SteinBlend(),
    JSNorm(), MinMaxNorm(),
]  # fmt: skip


@pytest.mark.parametrize("prior_in_memory", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_normalize(rule, prior_in_memory):
    x, weight, bias = random(8, 3, 5), np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, -1.0])
    expected = shrinkstats.normalize(x, rule, weight=weight, bias=bias, prior=shrinkstats.Statistics(bias, weight))
    vectors = (weight, bias) if prior_in_memory else [da.from_array(v, chunks=2) for v in (weight, bias)]
    prior = shrinkstats.Statistics(vectors[1], vectors[0])
    lazy = da.from_array(x, chunks=(4, 2, 3))
    y = shrinkstats.normalize(lazy, rule, weight=vectors[0], bias=vectors[1], prior=prior)
    assert y.chunks == lazy.chunks
    np.testing.assert_allclose(y.compute(), expected, rtol=1e-12, atol=1e-12)


def counted(x, reads, chunks):
    """A Dask array that notes which of its chunks are made."""

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    return da.from_array(x, chunks=chunks).map_blocks(read, dtype=x.dtype, meta=np.empty((0,) * x.ndim, x.dtype))


def test_nothing_is_read_before_it_is_asked_for_and_then_once_a_pass():
    reads = []
    x = random(8, 3, 4)
    lazy = counted(x, reads, chunks=(2, 3, 2))
    m = shrinkstats.moments(lazy)
    y = shrinkstats.normalize(lazy, Stein())
    assert reads == []
    dask.compute(m)
    assert len(reads) == len(set(reads)) == 8
    y.compute()
    assert len(reads) == 3 * 8  # twice more: for the statistics, and for the values


def test_the_bits_do_not_depend_on_the_scheduler():
    lazy = da.from_array(random(37, 5, 6, dtype="float32"), chunks=(2, 2, 4))
    m = shrinkstats.moments(lazy)
    results = [dask.compute(m, scheduler=name)[0] for name in ("synchronous", "threads")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results.append(dask.compute(m, scheduler="processes", pool=pool)[0])
    for name in VECTORS:
        for found in results[1:]:
            np.testing.assert_array_equal(getattr(found, name), getattr(results[0], name))


def test_deferred_moments_merge_and_are_saved_in_one_pass(tmp_path):
    reads = []
    x = random(8, 3, 4)
    m = shrinkstats.moments(counted(x[:5], reads, chunks=(2, 3, 4))) + shrinkstats.moments(
        counted(x[5:], reads, chunks=(2, 3, 4))
    )
    m.save(tmp_path / "m.npz")
    assert len(reads) == 3 + 2
    assert_same(shrinkstats.Moments.load(tmp_path / "m.npz"), shrinkstats.moments(x))


def test_errors():
    x = da.from_array(random(6, 3), chunks=2)
    with pytest.raises(ValueError, match=r"unknown size.*compute_chunk_sizes"):
        shrinkstats.moments(x[x[:, 0] > 0])
    with pytest.raises(TypeError, match="real numbers"):
        shrinkstats.moments(x * 1j)
    m = shrinkstats.moments(x[:0])
    assert (m.count, m.samples) == (0, 0)


def test_zarr_and_hdf5(tmp_path):
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    x = random(8, 3, 4)
    stored = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, dtype=x.dtype, chunks=(3, 2, 4))
    stored[...] = x
    assert_same(dask.compute(shrinkstats.moments(da.from_zarr(tmp_path / "x.zarr")))[0], shrinkstats.moments(x))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(3, 2, 4))
        lazy = da.from_array(file["x"])
        assert_same(dask.compute(shrinkstats.moments(lazy))[0], shrinkstats.moments(x))


# --- a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")
    with (
        dask.config.set({"distributed.logging.distributed": "critical"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def slow(block, folder):
    """Leaves a mark of every reading, and after some of them waits until a worker has been killed."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    while len(marks(folder)) >= 8 and not (folder / "killed").exists():
        time.sleep(0.01)
    return block


def marks(folder):
    """The process of every reading."""
    return [int(path.name.split("-")[0]) for path in folder.glob("*-*")]


@pytest.mark.long
def test_two_processes(client):
    x = random(24, 5, 6)
    lazy = da.from_array(x, chunks=(5, 2, 4))
    assert_same(client.compute(dask.delayed(shrinkstats.moments(lazy))).result(), shrinkstats.moments(x))
    y = client.compute(shrinkstats.normalize(lazy, Stein())).result()
    np.testing.assert_allclose(y, shrinkstats.normalize(x, Stein()), rtol=1e-12, atol=1e-12)
    kept = client.persist(lazy)  # in the workers' memory
    assert_same(client.compute(dask.delayed(shrinkstats.moments(kept))).result(), shrinkstats.moments(x))
    np.testing.assert_allclose(client.compute(shrinkstats.normalize(kept, Stein())).result(), y, rtol=1e-12)


def test_a_killed_worker_loses_nothing(client, tmp_path):
    x = random(40, 3, 4)
    lazy = da.from_array(x, chunks=(1, 3, 4)).map_blocks(slow, tmp_path, dtype=x.dtype, meta=x[:0])
    future = client.compute(dask.delayed(shrinkstats.moments(lazy)))
    while len(marks(tmp_path)) < 8 and future.status == "pending":
        time.sleep(0.01)
    assert not future.done()
    os.kill(statistics.mode(marks(tmp_path)), signal.SIGKILL)
    (tmp_path / "killed").touch()
    assert_same(future.result(timeout=PATIENCE), shrinkstats.moments(x))
    assert len(marks(tmp_path)) > 40  # what the worker knew was read again


FLAT = """
import resource
import dask, dask.array as da, numpy as np
import shrinkstats
from shrinkstats.estimators import Stein

def program(chunks):
    x = da.zeros((chunks * 2**18, 8), chunks=(2**18, 8), dtype="float32") + 1
    with dask.config.set(scheduler="threads", num_workers=2):
        m, total = dask.compute(shrinkstats.moments(x), shrinkstats.normalize(x, Stein()).sum())
    assert m.count == chunks * 2**18
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

print(program(8), program(80))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_memory_stays_flat():
    """Ten times the data, 640 MB instead of 64, in the memory of the tenth."""
    done = subprocess.run([sys.executable, "-c", FLAT], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    little, much = map(float, done.stdout.split())
    assert much < little + 100


@pytest.mark.parametrize("name", ["weight", "bias", "prior.mean", "prior.var"])
def test_deferred_vectors_do_not_go_with_data_in_memory(name):
    one, x = np.ones(5), np.random.default_rng(0).normal(size=(8, 5, 4))
    vectors = {"weight": one, "bias": one, "prior.mean": one, "prior.var": one} | {name: da.from_array(one)}
    prior = shrinkstats.Statistics(vectors["prior.mean"], vectors["prior.var"])
    options = {"weight": vectors["weight"], "bias": vectors["bias"], "prior": prior}
    with pytest.raises(TypeError, match=f"different libraries: x is a numpy array, {name} a dask array"):
        shrinkstats.normalize(x, PriorBlend(3.0), **options)
    shrinkstats.normalize(da.from_array(x), PriorBlend(3.0), **options).compute()
