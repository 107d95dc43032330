"""A CuPy without a GPU: NumPy's arrays, and kernels compiled by the C++ compiler, whose threads take turns.

It has what the package uses of CuPy and nothing else. So the logic of the kernels, and all of their launch, is tested
where there is no GPU.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from shrinkstats import kernels
from shrinkstats.kernels import cuda

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")


class ndarray(np.ndarray):
    """An array as CuPy's looks."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    number = 0

    @property
    def device(self):
        return Device(self.number)

    def get(self):
        return np.array(self)


class Device:
    attributes = {"MultiProcessorCount": 2}  # noqa: RUF012
    current: ClassVar[list[int]] = [0]

    def __init__(self, id):
        self.id = id

    def __enter__(self):
        self.current.append(self.id)

    def __exit__(self, *error):
        self.current.pop()


def ExternalStream(pointer):
    """Everything happens at once."""
    return nullcontext()


class RawModule:
    def __init__(self, *, code, options):
        self.code, self.options = code, tuple(options)

    def get_function(self, name):
        return Kernel(_library(self.code, self.options), name)


class Kernel:
    def __init__(self, library, name):
        self.function = library[f"launch_{name}"]

    def __call__(self, blocks, threads, arguments):
        slots = [(ctypes.c_double if isinstance(a, float) else ctypes.c_longlong)(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(s) for s in slots))
        grid = (ctypes.c_uint * 3)(*(*blocks, 1, 1)[:3])
        self.function(grid, ctypes.c_uint(threads[0]), pointers)


@cache
def _library(code, options):
    """The source as C++, every kernel with a launcher of its own."""
    names = re.findall(r"__global__ void (\w+)\((?!THREADS)", code)
    passes = re.findall(r"^PASS\((\w+)\)", code, re.MULTILINE)
    names += [f"{name}_{form}" for name in passes for form in ("planar", "interleaved", "single")]
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text("\n".join(['#include "cuda_on_host.h"', code, *(f"LAUNCHER({n})" for n in names)]))
    flags = ("-O1", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w", f"-I{HERE}")
    options = [option for option in options if option.startswith("-D")]
    subprocess.run([COMPILER, *flags, *options, "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded


def array(values, dtype=None, order="K"):
    return np.array(values, dtype=dtype, order=order).view(ndarray)


def empty(shape, dtype=np.float64):
    """Filled with something that nobody can take for a result."""
    return np.full(shape, -777).astype(dtype).view(ndarray)


def empty_like(x):
    y = np.empty_like(x, subok=True)
    y[...] = np.nan
    return y


def module() -> ModuleType:
    """What `import cupy` finds."""
    fake = ModuleType("cupy")
    fake.ndarray, fake.RawModule, fake.empty, fake.empty_like = ndarray, RawModule, empty, empty_like
    for name in ("asarray", "stack", "ascontiguousarray", "ones_like"):
        setattr(fake, name, _viewed(getattr(np, name)))
    fake.float32, fake.float64 = np.float32, np.float64
    fake.cuda = SimpleNamespace(Device=Device, ExternalStream=ExternalStream)
    return fake


def _viewed(function):
    return lambda *arguments, **options: function(*arguments, **options).view(ndarray)


@contextmanager
def installed():
    """The package with it instead of CuPy; its kernels for CuPy's arrays are given."""
    name = "shrinkstats.kernels.cupy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", module())
        patch.delitem(sys.modules, name, raising=False)
        backend = import_module(name)
        patch.setattr(kernels, "cupy", backend)
        _forget()
        yield backend
    sys.modules.pop(name)
    _forget()


def _forget():
    for cached in (cuda.kernel, cuda._module, cuda._processors):
        cached.cache_clear()
