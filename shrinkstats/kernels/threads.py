"""Threads for large arrays: a pool of ours around kernels that release the GIL.

OpenMP does not survive a fork and Numba's workqueue aborts when two Python threads enter it; plain threads do
neither. Handing work over costs some 70 microseconds, so only large arrays are shared out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

WORTHWHILE = 16 * 2**20  # bytes a pass must touch before a second thread pays for its hand-over

_count: int | None = None
_pool: ThreadPoolExecutor | None = None


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


def share(task: Callable[[int, int], object], items: int, size: int) -> None:
    """Call task(begin, end) over the range of items, in several threads where `size` bytes are worth it."""
    workers = min(get_num_threads(), items) if size >= WORTHWHILE else 1
    bounds = [items * i // workers for i in range(workers + 1)]
    others = [_executor().submit(task, bounds[i], bounds[i + 1]) for i in range(1, workers)]
    task(0, bounds[1])
    for future in others:
        future.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="shrinkstats")
    return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads: it starts a pool of its own when it needs one."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
