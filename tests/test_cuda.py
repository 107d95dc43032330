"""On a GPU: everything that `python -m benchmarks.gpu` checks. Without one: that the command itself runs."""

import sys

import cuda_on_host as host
import numpy as np
import pytest

torch = pytest.importorskip("torch")
gpu = pytest.importorskip("benchmarks.speed.gpu", reason="the tests of benchmarks/ need the whole repository")

from benchmarks.lab import record  # noqa: E402
from shrinkstats import kernels  # noqa: E402

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@on_gpu
@pytest.mark.parametrize("name", gpu.CHECKS)
def test_on_a_gpu(name):
    try:
        gpu.CHECKS[name](DEVICE)
    except gpu.Skipped as reason:
        pytest.skip(str(reason))


def test_dry_run(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    gpu.main(["--dry"])
    printed = capsys.readouterr().out
    assert "passed   layers equal the cpu" in printed
    assert "skipped  cuda graphs: needs a GPU" in printed
    assert "failed" not in printed
    assert not list(tmp_path.iterdir())  # nothing is recorded


@pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler (g++) to run the kernels with")
def test_the_parts_for_cupy(monkeypatch):
    for module in (kernels, sys.modules["shrinkstats.moments"]):
        monkeypatch.setattr(module, "is_numpy", lambda x: type(x) is np.ndarray)
    with host.installed():
        assert gpu.CHECKS["cupy arrays"](torch.device("cpu")).startswith("moments")
        rows = gpu.measure_moments(torch.device("cpu"), 1, 1)
    assert rows[0]["seconds"].keys() == {"moments", "CuPy", "PyTorch"}


def test_a_check_that_fails_is_an_error(capsys, monkeypatch):
    def wrong(device):
        gpu.agree("two numbers", [(torch.ones(1), torch.ones(1) + 1e-3)], 1e-6)

    monkeypatch.setattr(gpu, "CHECKS", {"something": wrong})
    with pytest.raises(SystemExit, match=r"1 check\(s\) failed: something"):
        gpu.main(["--dry"])
    assert "Different: two numbers: off by 1.0e-03" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no GPU"):
        gpu.main([])


def test_nan_is_a_difference():
    with pytest.raises(gpu.Different):
        gpu.agree("NaN", [(torch.ones(1), torch.ones(1)), (torch.tensor([float("nan")]), torch.ones(1))], 1.0)
