"""What the tests share: array libraries, golden numbers, Hypothesis without a clock, and how workers live together."""

import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # a process to a core: teams of threads would wait for one another. Tests of threads ask for their own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "600s")
# Each of JAX's programs runs once here: what counts is how soon it is compiled.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples in every run, and no clock: the first call of a kernel compiles it, and a machine may be busy.
settings.register_profile(
    "tests",
    deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None, max_examples=50,
)  # fmt: skip
settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """A worker to a core, up to eight: each imports and collects everything."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def pytest_collection_modifyitems(items):
    """Workers have to agree on names, so none may hold an address."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} has another name in every process: give it an id")


def pytest_configure():
    if WORKER:
        from turns import compile_by_turns

        compile_by_turns()


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
