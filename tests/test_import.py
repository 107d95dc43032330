"""Importing the package is light: heavy libraries load at their first use, or never."""

import subprocess
import sys

import pytest
from patience import PATIENCE

pytestmark = pytest.mark.core

HEAVY = {"torch", "cupy", "jax", "numba", "matplotlib", "typer", "scipy", "rich", "sklearn", "dask"}


def loaded(statement):
    """The heavy libraries that a fresh interpreter has loaded after the statement."""
    program = f"import sys; {statement}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout.split()


def test_import_loads_nothing_heavy():
    assert loaded("import shrinkstats") == []


@pytest.mark.parametrize("library", ["scipy", "numba"])
def test_the_check_can_fail(library):
    assert library in loaded(f"import shrinkstats, {library}")


def test_vectors_need_no_compiler():
    assert loaded("import shrinkstats; shrinkstats.james_stein([1.0, 2.0, 3.0], 0.1)") == []


def test_kernels_load_at_their_first_use():
    assert "numba" in loaded("import numpy, shrinkstats; shrinkstats.moments(numpy.ones((2, 3)))")
