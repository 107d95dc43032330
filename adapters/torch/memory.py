"""Fresh memory for results, in large pages where the system grants them on request.

A pass over a large array that was just allocated waits mostly for the system to hand out its pages, one by one: for
33 MB of 4 KB pages, several times as long as the arithmetic takes.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LARGE = 4 * 2**20  # bytes from which at least one large page (2 MB, aligned) fits for sure


def has_pytorch_order(x: Tensor) -> bool:
    """Whether x lies as outputs of PyTorch's layers may: in the order of its axes, or with the channels of images last.

    What takes a view of an output relies on it.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


def empty_like(x: Tensor, dtype: torch.dtype, *, any_order: bool = True) -> Tensor:
    """`torch.empty_like`, in any order that x has or one that PyTorch has; large results ask for large pages."""
    y = torch.empty_like(x, dtype=dtype)
    if not (any_order or has_pytorch_order(y)):
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
    advise = _madvise() if y.nbytes >= LARGE else None
    if advise is not None:
        start = -(-y.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (y.data_ptr() + y.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, stop - start, mmap.MADV_HUGEPAGE)  # advice: a system that will not take it loses nothing
    return y


@lru_cache(maxsize=1)
def _madvise() -> Any:
    """The C library's madvise, where there is one that knows large pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
