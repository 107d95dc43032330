"""The passes over the data. Everything else happens on short vectors of channels.

================  ==========  =======================================================================
pass              reads       gives
================  ==========  =======================================================================
`moments`         x           per channel: mean, squared deviations, extremes, dispersion of the samples
`affine`          x           ``a[c] * x + b[c]``
================  ==========  =======================================================================

One file a backend: `cpu` (Numba, NumPy arrays of any strides) and `generic` (array operations, any library).
"""

from __future__ import annotations

from types import ModuleType

from shrinkstats._arrays import Array, is_numpy


def supports(x: Array) -> bool:
    """Whether the compiled kernels read this NumPy array as it lies."""
    kind, size = x.dtype.kind, x.dtype.itemsize
    return type(x).__name__ != "MaskedArray" and x.dtype.isnative and (kind in "iu" or (kind == "f" and size in (4, 8)))


def backend(x: Array) -> ModuleType:
    """The module whose passes fit x; Numba is loaded at its first use."""
    if is_numpy(x) and supports(x):
        from shrinkstats.kernels import cpu

        return cpu
    from shrinkstats.kernels import generic

    return generic
