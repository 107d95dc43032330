"""A laid array as an array of each library."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import strategies as st


def widths(library):
    """The dtype of the statistics."""
    return "float32" if library == "jax" else "float64"


def as_library(library, laid, data):
    """The array, with flags drawn where the library has them, and the context to compute in."""
    if library == "numpy":
        x = laid.numpy()
        flag = data.draw(st.sampled_from(["plain", "plain", "read-only", "swapped", "odd bytes"]))
        if flag == "read-only":
            x.flags.writeable = False
        elif flag == "swapped":
            x = x.astype(x.dtype.newbyteorder(), order="K")
        elif flag == "odd bytes":  # a field of records
            records = np.zeros(x.shape, dtype=[("odd", "u1"), ("x", x.dtype)])
            records["x"] = x
            x = records["x"]
        return x, nullcontext()
    if library == "torch":
        negated = laid.dtype in ("float32", "float64") and data.draw(st.booleans())
        return laid.torch(negated=negated), nullcontext()
    x = laid.numpy()
    if library.startswith("jax"):
        jax = pytest.importorskip("jax")
        context = jax.enable_x64(library == "jax x64")
        with context:
            return jax.numpy.asarray(x), jax.enable_x64(library == "jax x64")
    if library == "dask":
        da = pytest.importorskip("dask.array")
        return da.from_array(x, chunks=data.draw(st.sampled_from([-1, 1, 2, 3]))), nullcontext()
    return pytest.importorskip(library).asarray(x), nullcontext()


def host(v):
    """A vector as a NumPy array."""
    if hasattr(v, "detach"):
        v = v.detach().numpy()
    if hasattr(v, "compute"):
        v = v.compute(scheduler="synchronous")
    return np.asarray(v)


def vectors_of(library, vectors):
    """Vectors of a library, and the context to compute in."""
    if library == "numpy":
        return vectors, nullcontext()
    if library == "torch":
        torch = pytest.importorskip("torch")
        return [torch.from_numpy(v) for v in vectors], nullcontext()
    if library.startswith("jax"):
        jax = pytest.importorskip("jax")
        with jax.enable_x64(library == "jax x64"):
            return [jax.numpy.asarray(v) for v in vectors], jax.enable_x64(library == "jax x64")
    if library == "dask":
        da = pytest.importorskip("dask.array")
        return [da.from_array(v, chunks=-1) for v in vectors], nullcontext()
    module = pytest.importorskip(library)
    return [module.asarray(v) for v in vectors], nullcontext()
