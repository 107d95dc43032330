"""What the tests share: array libraries, golden numbers, and Hypothesis without a clock."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: the first call of a kernel compiles it.
settings.register_profile("tests", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("tests")


@dataclass(frozen=True)
class Library:
    """One way to hold an array."""

    name: str
    module: ModuleType

    def array(self, values, dtype="float64"):
        """values as an array of this library."""
        host = np.array(values, dtype=dtype)
        if self.name == "read-only":
            host.flags.writeable = False
        if self.name in ("numpy", "read-only"):
            return host
        return self.module.asarray(host)

    def dtype(self, name):
        return np.dtype(name) if self.name == "read-only" else getattr(self.module, name)

    def host(self, x):
        """x as a NumPy array, after a check that it is of this library."""
        assert isinstance(x, type(self.array([0.0]))), f"{type(x)} is not an array of {self.name}"
        if self.name == "torch":
            return x.detach().cpu().numpy()
        return x.get() if self.name == "cupy" else np.asarray(x)


@pytest.fixture(params=["numpy", "read-only", "torch", "jax", "array_api_strict", "cupy"])
def xp(request):
    """Every array library the core works with; those that are not installed are skipped by name."""
    name = request.param
    if name in ("numpy", "read-only"):
        yield Library(name, np)
        return
    module = pytest.importorskip("jax.numpy" if name == "jax" else name, reason=f"{name} is not installed")
    if name == "cupy" and not module.is_available():
        pytest.skip("CuPy sees no GPU")
    with pytest.importorskip("jax").enable_x64(True) if name == "jax" else nullcontext():
        yield Library(name, module)


@pytest.fixture(scope="session")
def golden():
    """Values computed in 50-digit arithmetic by an independent program."""
    return json.loads((Path(__file__).parent / "golden.json").read_text())
