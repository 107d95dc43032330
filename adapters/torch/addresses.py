"""Where tensors lie in memory, for compiled code: the one place that asks.

An address says nothing of what PyTorch only notes beside the memory: that the numbers there are to be negated
(``z.conj().imag``), or that there are none because all are zero. And PyTorch never again resizes a storage whose tensor
gave out its array by ``numpy()``, which libraries that share out parameters over ranks have to.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
FULL = tuple(DTYPES)
REAL = (*HALF, *FULL)
ORDINARY = (Tensor, nn.Parameter)  # subclasses see every operation
_C_TYPES = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


def readable(x: Tensor | None) -> bool:
    """Whether x is memory of this computer, and nothing more; None is fine too."""
    return x is None or (type(x) in ORDINARY and x.is_cpu and x.layout is torch.strided)


def writable(x: Tensor) -> bool:
    """Whether compiled code may write a vector to x: its numbers lie side by side, just as they are."""
    return readable(x) and x.dtype in DTYPES and x.is_contiguous() and not (x.is_neg() or x._is_zerotensor())


def plain(x: Tensor) -> Tensor:
    """The numbers of x in memory, without a graph."""
    x = x.detach()
    if x.layout is not torch.strided:  # a gradient may be sparse
        x = x.to_dense()
    if x.is_neg():
        x = x.resolve_neg()
    if x._is_zerotensor():
        x = x.clone()
    return x


def dense(x: Tensor) -> Tensor:
    """The same; half precision, which NumPy and Numba lack, widened."""
    x = plain(x)
    return x.float() if x.dtype in HALF else x


def address(x: Tensor) -> int:
    """Where the first number of x lies, for which `plain` has seen to it that it is there."""
    where: int = x.data_ptr()
    if x.is_neg() or (where == 0 and x.numel()):
        raise RuntimeError(f"a tensor of shape {tuple(x.shape)} has no numbers in memory to read")
    return where


def array(x: Tensor) -> Any:
    """`dense` of x as a NumPy array, which shares its memory and keeps it, and leaves its storage resizable."""
    x = dense(x)
    size = x.numel()
    if not size:
        return np.empty(x.shape, DTYPES[x.dtype])
    if x.is_contiguous():
        strides = None
    else:
        strides = tuple(step * x.itemsize for step in x.stride())
        size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    memory = (_C_TYPES[x.dtype] * size).from_address(address(x))
    memory.owner = x
    return np.ndarray(x.shape, DTYPES[x.dtype], memory, 0, strides)


def tensor(v: Any) -> Tensor:
    """A NumPy array as a tensor whose memory is PyTorch's own."""
    return torch.from_numpy(v).clone()
