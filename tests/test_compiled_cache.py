"""Numba's cache on disk: damaged, full, removed, or not to be used. Nothing depends on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

PROGRAM = """
import logging, sys, warnings
warnings.simplefilter("error")
import numpy as np
import shrinkstats
x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 6, 5))
m = shrinkstats.moments(x)
assert np.allclose(m.mean, x.mean(axis=(0, 2)), rtol=1e-12)
assert np.allclose(m.var(), x.var(axis=(0, 2)), rtol=1e-12)
y = shrinkstats.normalize(x, shrinkstats.estimators.BatchStatistics(), eps=0.0)
assert np.allclose(y.std(axis=(0, 2)), 1, rtol=1e-12)
"""


def run(cache, before="", **environment):
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.long
def test_damaged_and_full(tmp_path):
    """A warning, the right result, and a cache that is sound afterwards."""
    assert run(tmp_path) == ""
    files = list(Path(tmp_path).rglob("*.nb[ic]"))
    assert files
    for ending in (".nbi", ".nbc"):
        for path in (path for path in files if path.suffix == ending):
            path.write_bytes(path.read_bytes()[: 10 if ending == ".nbi" else 50])
        said = run(tmp_path)
        assert "cannot read the compiled code in" in said
        assert len(said.splitlines()) == 1
        assert run(tmp_path) == ""
    full = """
import os
replace = os.replace
def refuse(source, target):
    if "nb" in str(target)[-3:]:
        raise OSError(28, "No space left on device")
    return replace(source, target)
os.replace = refuse
"""
    for path in files:
        path.unlink(missing_ok=True)  # removed, as by another process
    said = run(tmp_path, full)
    assert "No space left on device" in said
    assert len(said.splitlines()) == 1


def test_nothing_is_compiled_where_numba_is_told_so(tmp_path):
    assert run(tmp_path, NUMBA_DISABLE_JIT="1") == ""
    assert not list(tmp_path.rglob("*.nbi"))


@pytest.mark.long
def test_the_first_compilation_says_so(tmp_path):
    said = run(tmp_path, "import logging; logging.basicConfig(level=logging.INFO)\n")
    assert said.count("compiling for this machine") == 1


LAYER = """
import torch
from shrinkstats.adapters.torch import ShrinkBatchNorm2d
from shrinkstats.estimators import BatchStatistics
t = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
ours, theirs = ShrinkBatchNorm2d(3, BatchStatistics()), torch.nn.BatchNorm2d(3)
for mode in (True, False):
    a, b = t.clone().requires_grad_(), t.clone().requires_grad_()
    y, z = ours.train(mode)(a), theirs.train(mode)(b)
    y.pow(3).sum().backward()
    z.pow(3).sum().backward()
    assert torch.allclose(y, z, atol=1e-5) and torch.allclose(a.grad, b.grad, atol=1e-4)
"""


def test_layers_where_numba_is_told_so(tmp_path):
    pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
    assert run(tmp_path, LAYER, NUMBA_DISABLE_JIT="1") == ""
