"""Threads for large arrays: a pool of ours around kernels that release the GIL. (PyTorch layers have PyTorch's.)

Numba has threading layers of its own, and no kernel here uses one (none is compiled with parallel=True, so none is
ever started): OpenMP does not survive a fork and the workqueue aborts when two Python threads enter it. Plain threads
do neither.

Work is cut into chunks that whoever is free takes next. The calling thread is one of the workers and waits only for
chunks that another has begun: on a busy machine a helper that comes late costs nothing.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

WORTHWHILE = 4 * 2**20  # bytes a pass must touch before a second thread pays for being woken
CHUNKS = 4  # to a thread

_count: int | None = None
_jobs: SimpleQueue[_Job] = SimpleQueue()
_helpers = 0
_starting = threading.Lock()
_caller = threading.local()


def get_num_threads() -> int:
    """Threads a pass may use: `set_num_threads`, else SHRINKSTATS_NUM_THREADS, else the cores of this process."""
    if _count is not None:
        return _count
    chosen = os.environ.get("SHRINKSTATS_NUM_THREADS", "")
    if chosen:
        if not chosen.isdigit() or int(chosen) < 1:
            raise ValueError(f"SHRINKSTATS_NUM_THREADS must be a positive whole number, got {chosen!r}")
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_num_threads(count: int | None) -> None:
    """Use at most `count` threads from now on; None goes back to the default. Results do not depend on it."""
    global _count
    if count is not None and count < 1:
        raise ValueError(f"the number of threads must be at least 1, got {count}")
    _count = count


class at_most:
    """Within it, work of the calling thread is shared by at most `count` threads: for a library that has a limit."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = getattr(_caller, "limit", None)
        _caller.limit = self.count

    def __exit__(self, *_: object) -> None:
        _caller.limit = self.before


def share(task: Callable[[int, int], object], items: int, size: int) -> None:
    """Call task(begin, end) over the range of items, in several threads where `size` bytes are worth it."""
    if not size:  # of an empty array there is nothing to read, whatever its shape
        return
    workers = min(_allowed(), items) if size >= WORTHWHILE else 1
    if workers == 1:
        task(0, items)
        return
    job = _Job(task, items, min(items, CHUNKS * workers))
    _start_helpers(workers - 1)
    for _ in range(workers - 1):
        _jobs.put(job)
    job.work()
    job.finish()


class _Job:
    """Chunks of a task, for whoever takes them."""

    def __init__(self, task: Callable[[int, int], object], items: int, chunks: int) -> None:
        self.task, self.items, self.chunks = task, items, chunks
        self.take = itertools.count().__next__  # atomic
        self.left = chunks
        self.lock, self.done = threading.Lock(), threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def work(self) -> None:
        while (i := self.take()) < self.chunks:
            try:
                self.task(self.items * i // self.chunks, self.items * (i + 1) // self.chunks)
            except BaseException as error:
                self.error = error
            with self.lock:
                self.left -= 1
                if not self.left:
                    self.done.release()

    def finish(self) -> None:
        self.done.acquire()
        if self.error is not None:
            raise self.error


def _allowed() -> int:
    limit = getattr(_caller, "limit", None)
    return get_num_threads() if limit is None else min(get_num_threads(), limit)


def _start_helpers(count: int) -> None:
    global _helpers
    if _helpers >= count:
        return
    with _starting:
        for i in range(_helpers, count):
            threading.Thread(target=_help, args=(_jobs,), name=f"shrinkstats-{i}", daemon=True).start()
        _helpers = max(_helpers, count)


def _help(jobs: SimpleQueue[_Job]) -> None:
    while True:
        jobs.get().work()


def _forget() -> None:
    """A forked child has none of its parent's threads: it starts its own when it needs them."""
    global _jobs, _helpers, _starting
    _jobs, _helpers, _starting = SimpleQueue(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
