"""Threads for large arrays: a pool of ours around kernels that release the GIL. (PyTorch layers have PyTorch's.)

Numba has threading layers of its own, and no kernel here uses one (none is compiled with parallel=True, so none is
ever started): OpenMP does not survive a fork and the workqueue aborts when two Python threads enter it. Plain threads
do neither.

Work is cut into chunks that whoever is free takes next. The calling thread is one of the workers and waits only for
chunks that another has begun: on a busy machine a helper that comes late costs nothing.

A thread that comes back from compiled code to an interpreter that has gone takes the process down. So helpers end
before the interpreter does, and it waits for passes that others' daemon threads are in the middle of.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

WORTHWHILE = 4 * 2**20  # bytes a pass must touch before a second thread pays for being woken
CHUNKS = 4  # to a thread
PATIENCE = 10.0  # seconds that the end of the process waits for passes; none takes that long
PAUSE = 1.0  # seconds that a daemon thread which begins a pass after that leaves for the end to come

_count: int | None = None
_jobs: SimpleQueue[_Job | None] = SimpleQueue()
_helpers = 0
_running: list[threading.Thread] = []
_ending = False
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
    if _ending:
        _pause()
    workers = min(_allowed(), items) if size >= WORTHWHILE and not _ending else 1
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
            helper = threading.Thread(target=_help, args=(_jobs,), name=f"shrinkstats-{i}", daemon=True)
            if _ending:
                return
            helper.start()
            _running.append(helper)
        _helpers = max(_helpers, count)


def _help(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.work()


def _end() -> None:
    """Leave no thread of this process in compiled code; only daemon threads are left at this time, and the main one."""
    global _ending
    with _starting:
        _ending = True
    for _ in _running:
        _jobs.put(None)
    last = time.monotonic() + PATIENCE
    for helper in _running:
        helper.join(max(0.0, last - time.monotonic()))
    while any(map(_in_a_pass, threading.enumerate())) and time.monotonic() < last:
        time.sleep(0.001)


def _in_a_pass(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or thread is threading.current_thread() or frame.f_code is _pause.__code__:
        return False
    return str(frame.f_globals.get("__name__")).startswith("shrinkstats.")


def _pause() -> None:
    """Let a daemon thread that begins a pass when the process ends sleep while that happens.

    Not for ever: the main thread may be waiting for it, in a function that runs at the end.
    """
    if threading.current_thread().daemon:
        time.sleep(PAUSE)


def _forget() -> None:
    """A forked child has none of its parent's threads: it starts its own when it needs them."""
    global _jobs, _helpers, _running, _ending, _starting
    _jobs, _helpers, _running, _ending, _starting = SimpleQueue(), 0, [], False, threading.Lock()


atexit.register(_end)  # runs after all threads have ended for which the interpreter waits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
