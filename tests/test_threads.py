"""Threads: the same bits for any number of them, after a fork, and from several Python threads at once."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest
from patience import PATIENCE

import shrinkstats
from shrinkstats.estimators import BatchStatistics
from shrinkstats.kernels import threads

pytestmark = pytest.mark.core


@pytest.fixture
def set_num_threads():
    yield threads.set_num_threads
    threads.set_num_threads(None)


def lay(shape, order):
    x = np.random.default_rng(0).normal(3.0, 2.0, size=shape).astype("float32")
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if order == "channels-last" else x


def bits(x):
    m = shrinkstats.moments(x)
    vectors = (m.mean, m.m2, m.minimum, m.maximum, m.noise, shrinkstats.moments(x, sample_axis=None).m2)
    return [v.tobytes() for v in (*vectors, shrinkstats.normalize(x, BatchStatistics()))]


@pytest.mark.parametrize("order", ["C", "channels-last"])
@pytest.mark.parametrize("shape", [(37, 16, 9, 11), (1, 3, 5000), (3, 1030, 40), (1, 1100, 33), (513, 6), (2, 1, 3)])
def test_the_same_bits_for_small_arrays(order, shape, set_num_threads, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    x = lay(shape, order)
    set_num_threads(1)
    one = bits(x)
    for count in (2, 3, 8):
        set_num_threads(count)
        assert bits(x) == one


@pytest.mark.parametrize("order", ["C", "channels-last"])
def test_the_same_bits_above_the_threshold(order, set_num_threads):
    x = lay((16, 64, 65, 80), order)
    assert x.nbytes > threads.WORTHWHILE
    set_num_threads(1)
    one = bits(x)
    set_num_threads(2)
    assert bits(x) == one


def test_work_is_shared_above_the_threshold_only(set_num_threads):
    set_num_threads(2)
    for size, parts in [(threads.WORTHWHILE, 2 * threads.CHUNKS), (threads.WORTHWHILE - 1, 1)]:
        seen = []
        threads.share(lambda i, j: seen.append((i, j)), 10, size)  # noqa: B023
        assert len(seen) == parts
        assert [i for begin, end in sorted(seen) for i in range(begin, end)] == list(range(10))


def test_a_helper_that_comes_late_is_not_waited_for(set_num_threads, monkeypatch):
    monkeypatch.setattr(threads, "_start_helpers", lambda count: None)  # none ever comes
    monkeypatch.setattr(threads, "_jobs", SimpleQueue())
    set_num_threads(4)
    seen = []
    threads.share(lambda i, j: seen.append((i, j)), 100, threads.WORTHWHILE)
    assert [i for begin, end in sorted(seen) for i in range(begin, end)] == list(range(100))


def test_an_error_in_a_thread_is_raised(set_num_threads):
    def task(i, j):
        if i:
            raise RuntimeError("in a thread")

    set_num_threads(2)
    with pytest.raises(RuntimeError, match="in a thread"):
        threads.share(task, 10, threads.WORTHWHILE)


def test_several_python_threads_at_once(set_num_threads, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    set_num_threads(2)
    arrays = [lay((20, 7, 50 + i), order) for i in range(8) for order in ("C", "channels-last")]
    expected = [bits(x) for x in arrays]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(bits, arrays)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
def test_after_a_fork():
    """The child has none of its parent's threads: it must neither hang nor crash, nor count differently."""
    program = """
        import os
        import warnings
        import numpy as np
        import shrinkstats
        from shrinkstats.kernels import threads

        threads.set_num_threads(2)
        threads.WORTHWHILE = 0
        x = np.random.default_rng(0).normal(size=(20, 7, 50))
        before = shrinkstats.moments(x).m2
        assert threads._helpers > 0
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forking with threads
        child = os.fork()
        if child == 0:
            os._exit(0 if (shrinkstats.moments(x).m2 == before).all() else 3)
        _, status = os.waitpid(child, 0)
        assert (shrinkstats.moments(x).m2 == before).all()
        print("child:", os.waitstatus_to_exitcode(status))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "child: 0", done.stderr


def test_the_number_of_threads(set_num_threads, monkeypatch):
    monkeypatch.delenv("SHRINKSTATS_NUM_THREADS", raising=False)
    assert threads.get_num_threads() >= 1
    monkeypatch.setenv("SHRINKSTATS_NUM_THREADS", "3")
    assert threads.get_num_threads() == 3
    set_num_threads(5)
    assert threads.get_num_threads() == 5


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads(value, monkeypatch):
    monkeypatch.setenv("SHRINKSTATS_NUM_THREADS", value)
    with pytest.raises(ValueError, match="SHRINKSTATS_NUM_THREADS"):
        threads.get_num_threads()
    with pytest.raises(ValueError, match="threads"):
        threads.set_num_threads(0)
