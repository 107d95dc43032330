"""The passes over the data. Everything else happens on short vectors of channels.

================  ==========  =======================================================================
pass              reads       gives
================  ==========  =======================================================================
`moments`         x           per channel: mean, squared deviations, extremes, dispersion of the samples
`affine`          x           ``a[c] * x + b[c]``
`reduce_grad`     x, g        per channel: the sums of g and of ``g (x - mean)``
`combine`         x, g        ``a[c] * g + b[c] * (x - mean) + d[c]``, where d may differ between samples
================  ==========  =======================================================================

One file a backend: `cpu` (Numba, NumPy arrays of any strides; `converted` feeds it other types), `torch` (the same for
tensors on the CPU, with gradients), `cupy` (CUDA, through `cuda` and `passes.cu`), `dask` (deferred, chunk by chunk;
the forward passes) and `generic` (array operations, any library; the forward passes, whose gradients the libraries find
themselves).
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

import numpy as np
from array_api_compat import is_cupy_array, is_dask_array

from shrinkstats._arrays import Array, check_running, is_numpy, is_torch_array
from shrinkstats._first_use import undisturbed
from shrinkstats.kernels.cuda import DATA

DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")
"""Whether Numba was told, for debugging, to compile nothing: loops over data are then left to array operations."""


def supports(x: Array) -> bool:
    """Whether compiled kernels read this array as it lies."""
    check_running()
    if is_numpy(x):
        if DISABLED:
            return False
        return not isinstance(x, np.ma.MaskedArray) and (x.dtype.kind in "iu" or x.dtype.name in DATA)
    return not is_torch_array(x) and is_cupy_array(x) and x.dtype.name in DATA


def backend(x: Array) -> ModuleType:
    """The module whose passes fit x; Numba and CuPy's kernels are loaded at their first use."""
    if supports(x):
        return load("cpu" if is_numpy(x) else "cupy")
    if is_torch_array(x):
        import torch

        if not torch.compiler.is_compiling() and load("torch").fits(x):
            return load("torch")
    elif is_dask_array(x):
        return load("dask")
    from shrinkstats.kernels import generic  # as torch.compile may trace it

    return generic


_loaded: dict[str, ModuleType] = {}


def load(name: str) -> ModuleType:
    """A module of this folder, which may import Numba."""
    if name not in _loaded:
        with undisturbed():
            _loaded[name] = import_module(f"{__name__}.{name}")
    return _loaded[name]
