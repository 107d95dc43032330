"""What the core asks of an array library, and how it looks at its arguments."""

from __future__ import annotations

import math
import operator
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_cupy_array,
    is_dask_array,
    is_jax_array,
    is_numpy_array,
)

Array = Any
"""An array of any supported library; the array API has no type that every one of them declares."""

Namespace = Any


_FREE = (int, float, complex, str, list, tuple, np.generic, type(None))
_known: dict[type, Namespace] = {}


def is_torch_array(x: object) -> bool:
    """Asked without the caches of array_api_compat, which torch.compile warns of."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_traced(x: object) -> bool:
    """Whether x stands for an array of JAX that is yet to come: under jit, grad, vmap."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.core.Tracer)


def is_array(x: object) -> bool:
    """Whether x decides which library computes: NumPy's scalars and Python's numbers go with any."""
    return not isinstance(x, _FREE) and (is_torch_array(x) or is_array_api_obj(x))


def namespace(**arguments: object) -> Namespace:
    """The array API namespace that the named arguments share; numbers and sequences go with any."""
    kinds = {type(x) for x in arguments.values() if not isinstance(x, _FREE)}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind in _known:  # asking every library anew would cost more than the arithmetic on short vectors
        return _known[kind]
    check_running()
    arrays = {name: x for name, x in arguments.items() if is_array(x)}
    if arrays and all(is_torch_array(x) for x in arrays.values()):
        import array_api_compat.torch

        return array_api_compat.torch
    if not arrays:
        return array_namespace(np.empty(0))
    if any(is_dask_array(x) or is_traced(x) for x in arrays.values()):
        # Vectors in memory go with data that are deferred, and are constants of a function that is being traced.
        arrays = {name: x for name, x in arrays.items() if not is_numpy_array(x)}
    try:
        xp = array_namespace(*arrays.values())
    except TypeError as error:
        kinds_found = ", ".join(f"{name} is a {type(x).__module__}.{type(x).__name__}" for name, x in arrays.items())
        raise TypeError(f"arrays of different libraries: {kinds_found}; convert them to one kind first") from error
    if any(map(is_jax_array, arrays.values())):
        _register()
    if kind is not None:
        _known[kind] = xp
    return xp


def check_running() -> None:
    """An error when Python's modules are gone, of which array libraries look for some at every call."""
    if sys.meta_path is None:
        raise RuntimeError(
            "Python is shutting down, and its modules are gone: nothing can be computed any more; do it earlier, "
            "for example in a function given to atexit.register"
        )


def as_constant(x: Array, xp: Namespace) -> Array:
    """x; a NumPy array beside traced arrays of JAX as one of theirs."""
    if not (is_numpy(x) and xp.__name__.startswith("jax")):
        return x
    import jax

    with jax.ensure_compile_time_eval():  # an array with values, which may be looked at
        return xp.asarray(x)


@cache
def _register() -> None:
    """Let JAX's functions take and return Moments."""
    from shrinkstats.values import register_with_jax

    register_with_jax()


def as_real(name: str, x: object, xp: Namespace, like: Array | None = None) -> Array:
    """x as a real floating array; integers are promoted, and numbers take the dtype and device of `like`."""
    _refuse(name, x)
    if is_array(x):
        array: Array = as_constant(x, xp)
    else:
        place = {} if like is None else {"device": device_of(like)}
        if like is not None and type(x) in (int, float):
            try:  # made there: a copy to a device would wait for it
                return xp.full((), float(x), dtype=like.dtype, **place)  # type: ignore[arg-type]
            except OverflowError as error:
                raise TypeError(f"{name} is larger than any floating-point number") from error
        try:
            host = np.asarray(x)
        except ValueError as error:
            raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from error
        if host.dtype.kind not in "biufc":
            hint = "; pass its vectors, such as m.mean and m.noise" if hasattr(x, "noise") else ""
            raise TypeError(f"{name} must hold real numbers, got {type(x).__name__} of dtype {host.dtype}{hint}")
        if like is not None and host.dtype.kind != "c":
            return xp.asarray(host.tolist(), dtype=like.dtype, **place)
        array = xp.asarray(host, **place)
    try:
        if xp.isdtype(array.dtype, "real floating") and getattr(array.dtype, "itemsize", 2) > 1:
            return array
        if xp.isdtype(array.dtype, ("bool", "integral")):
            return xp.astype(array, xp.__array_namespace_info__().default_dtypes()["real floating"])
    except TypeError:  # ml_dtypes' types, and the keys of JAX, are none of which libraries would say what they are
        pass
    raise TypeError(_no_numbers(name, array))


def _no_numbers(name: str, x: Array) -> str:
    """Say that an array is of a type that nobody computes with."""
    dtype = str(x.dtype)
    if dtype.startswith("key<"):
        return f"{name} holds random keys of JAX; draw numbers with one of them first: jax.random.normal(key, shape)"
    if "complex" in dtype:
        hint = "take its real part or its absolute value"
    else:
        convert = f"{name}.to(torch.float32)" if is_torch_array(x) else f"{name}.astype('float32')"
        hint = f"if these are numbers, convert them first: {convert}"
    return f"{name} must hold real numbers, got dtype {dtype}; {hint}"


def _refuse(name: str, x: object) -> None:
    """An error for arrays that are not what they seem."""
    if isinstance(x, _FREE):
        return
    if is_torch_array(x):
        import torch

        array: Array = x
        if array.layout != torch.strided or array.is_nested:
            kind = "a nested tensor" if array.is_nested else f"a tensor of layout {array.layout}"
            raise TypeError(f"{name} is {kind}; pass a dense one")
        if array.is_quantized:
            raise TypeError(f"{name} is a quantized tensor; pass {name}.dequantize()")
        return
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass {name}.compressed() or fill it")
    if isinstance(x, np.ndarray) and x.dtype.names is not None:
        raise TypeError(f"{name} is a structured array; pass one of its fields, such as {name}[{x.dtype.names[0]!r}]")
    if isinstance(x, np.matrix):
        raise TypeError(f"{name} is a numpy.matrix, whose * is another product; pass numpy.asarray({name})")
    if type(x).__module__.startswith("scipy.sparse"):
        raise TypeError(f"{name} is a sparse array of SciPy; pass {name}.toarray()")
    if is_dask_array(x) and any(math.isnan(n) for n in x.shape):  # type: ignore[attr-defined]
        raise ValueError(f"{name} has chunks of unknown size; call {name}.compute_chunk_sizes() first")


def at_least_single(x: Array, xp: Namespace) -> Array:
    """Half precision widened to float32: sums of squares need the exponent range."""
    return xp.astype(x, xp.float32) if xp.finfo(x.dtype).bits < 32 else x


def device_of(x: Array) -> Any:
    """Where x lies, in its library's own terms."""
    return x.device if is_torch_array(x) else device(x)


def constant(x: Array) -> Array:
    """x, through which no gradient flows."""
    if is_torch_array(x):
        return x.detach()
    if is_jax_array(x):
        import jax

        return jax.lax.stop_gradient(x)
    return x


def root(x: Array, xp: Namespace) -> Array:
    """The square root; its slope at 0 is taken for 0: infinity would make NaN of all it is multiplied with."""
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, xp.ones_like(x))), 0 * x)


def where_it_lies(x: Array) -> AbstractContextManager[Any]:
    """A context in which CuPy computes on x's device, rather than on the current one; other libraries do so anyway."""
    return x.device if not is_torch_array(x) and is_cupy_array(x) else nullcontext()


def statistics_dtype(x: Array, xp: Namespace) -> Any:
    """float64 on the CPU; float32 or better elsewhere."""
    if is_torch_array(x):
        return xp.float64 if x.dtype == xp.float64 or x.device.type == "cpu" else xp.float32
    if is_jax_array(x):  # float64 exists only where the user has switched it on
        return xp.result_type(x.dtype, xp.__array_namespace_info__().default_dtypes()["real floating"])
    return xp.float64


def can_look(x: Array) -> bool:
    """Whether reading x's values is free: on the host, and not being traced, transformed or deferred."""
    if is_torch_array(x):
        import torch

        return (
            x.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and torch._C._len_torch_dispatch_stack() == 0  # no mode that records operations
            and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        )
    if is_jax_array(x):
        import jax

        return not isinstance(x, jax.core.Tracer) and device(x).platform == "cpu"
    return not (is_cupy_array(x) or is_dask_array(x))


def leaves_open(x: Array, n: object) -> bool:
    """Whether x is of a graph of PyTorch in which n may be any number: a symbol, or under torch.jit.trace a tensor."""
    if not is_torch_array(x):
        return False
    import torch

    return torch.compiler.is_compiling() or not isinstance(n, (int, float))


def nonnegative(name: str, x: Array, xp: Namespace) -> Array:
    """x, with a negative entry as an error; as NaN where looking would stall a device or break a trace."""
    if can_look(x):
        seen, here = (np.asarray(x), np) if is_jax_array(x) else (x, xp)  # JAX's operations may be recorded, not done
        if bool(here.any(seen < 0)):
            raise ValueError(f"{name} must not be negative, got {float(here.min(seen)):g}")
        return x
    return xp.where(x < 0, xp.full_like(x, math.nan), x)


def positive_number(name: str, x: float, *, minimum: float = 0.0, infinite: bool = False, zero: bool = False) -> float:
    """x as a float above zero, or zero if that is allowed, and at least `minimum`."""
    try:
        ordinary = isinstance(x, (int, float))  # of a symbol of torch.compile nothing else may be asked
        if not ordinary and (isinstance(x, (str, bytes)) or _has_axes(x) or "complex" in str(getattr(x, "dtype", ""))):
            raise TypeError
        value = float(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a number, got {_kind(name, x)}") from error
    if not ((value > 0 or (zero and value == 0)) and value >= minimum and (infinite or value < math.inf)):
        bound = f"at least {minimum:g}" if minimum > 0 or zero else "above 0"
        raise ValueError(f"{name} must be {bound}{'' if infinite else ' and finite'}, got {value:g}")
    return value


def whole_number(name: str, x: int) -> int:
    """x as an integer."""
    try:
        if _has_axes(x):
            raise TypeError
        return operator.index(x)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, got {_kind(name, x)}") from error


def _has_axes(x: object) -> bool:
    return not isinstance(x, (int, float)) and bool(getattr(x, "ndim", None))


def _kind(name: str, x: object) -> str:
    """What x is, in a few words; a number or a text as it stands."""
    if is_traced(x):
        return f'one that JAX traces; keep it from that, for example by jax.jit(..., static_argnames="{name}")'
    return repr(x) if isinstance(x, (int, float, str, bytes)) else type(x).__name__


def check_channels(**arrays: Array) -> None:
    """The arguments' last axes must agree (a scalar goes with any) and their leading axes must broadcast."""
    shapes = {name: tuple(x.shape) for name, x in arrays.items()}
    if any(is_torch_array(n) for shape in shapes.values() for n in shape):
        return  # under torch.jit.trace a size is a tensor itself
    described = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
    if len({shape[-1] for shape in shapes.values() if shape}) > 1:
        raise ValueError(f"different numbers of channels (last axis): {described}")
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError as error:
        raise ValueError(f"leading axes do not broadcast: {described}") from error


def check_vector(name: str, x: Array) -> None:
    """A vector of channels, or a stack of them."""
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"{name} must be a vector of channels (or a stack of vectors), got shape {tuple(x.shape)}")


def is_numpy(x: object) -> bool:
    """Whether x is an array of NumPy that behaves as one."""
    return isinstance(x, np.ndarray) and is_numpy_array(x) and not isinstance(x, np.matrix)
