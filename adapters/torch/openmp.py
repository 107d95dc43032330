"""Threads for the compiled passes: PyTorch's own.

Its OpenMP team is awake while a network runs. Threads of ours would sleep until they are called, and then share the
cores with PyTorch's, which go on spinning for a while.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from shrinkstats.kernels import threads
from shrinkstats.kernels.team import Pass, Table

WORTHWHILE = 2**18  # bytes a pass must touch before a second thread pays


def run(job: Pass, table: tuple[Table, int], size: int) -> None:
    """Make a pass that reads `size` bytes, with as many threads as PyTorch and this package may use."""
    _, address = table
    workers = 1 if size < WORTHWHILE else min(torch.get_num_threads(), threads.get_num_threads())
    if workers == 1:
        job.alone(address)
    elif _parallel is None:
        with threads.at_most(workers):
            threads.share(lambda *_: job.alone(address), workers, size)
    else:
        _parallel(job.address, address, workers, 0)


def _find(libraries: Iterable[Path]) -> Any:
    """`GOMP_parallel` of the OpenMP that a library is bound to: GNU's, or another that knows its calls."""
    for library in libraries:
        try:
            function = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        function.restype = None
        return function
    return None


def _forget() -> None:
    """Use this package's own threads in a forked child, where GNU's library waits for ever for its parent's."""
    global _parallel
    _parallel = None


_parallel = _find((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
