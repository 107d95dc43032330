"""The passes over the data. Everything else happens on short vectors of channels.

================  ==========  =======================================================================
pass              reads       gives
================  ==========  =======================================================================
`moments`         x           per channel: mean, squared deviations, extremes, dispersion of the samples
`affine`          x           ``a[c] * x + b[c]``
`reduce_grad`     x, g        per channel: the sums of g and of ``g (x - mean)``
`combine`         x, g        ``a[c] * g + b[c] * (x - mean) + d[c]``, where d may differ between samples
================  ==========  =======================================================================

One file a backend: `cpu` (Numba, NumPy arrays of any strides), `dask` (deferred, chunk by chunk; the forward passes)
and `generic` (array operations, any library; the forward passes, whose gradients the libraries find themselves).
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from array_api_compat import is_dask_array

from shrinkstats._arrays import Array, is_numpy, is_torch_array

COMPILED = ("float32", "float64", "uint8")
"""What the kernels are compiled for: floats, and images as they lie in files. Other integers are promoted first."""


def supports(x: Array) -> bool:
    """Whether the compiled kernels read this NumPy array as it lies."""
    return not isinstance(x, np.ma.MaskedArray) and x.dtype.isnative and x.dtype.name in COMPILED


def backend(x: Array) -> ModuleType:
    """The module whose passes fit x; Numba is loaded at its first use."""
    if is_numpy(x) and supports(x):
        from shrinkstats.kernels import cpu

        return cpu
    if not is_torch_array(x) and is_dask_array(x):
        from shrinkstats.kernels import dask

        return dask
    from shrinkstats.kernels import generic

    return generic
