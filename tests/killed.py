"""A benchmark in a process of its own that kills itself in the middle of a training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

SCRIPT = """
import os, signal, sys
from importlib import import_module
import torch
from benchmarks.lab import runner

module, threads, *arguments = sys.argv[1:]
torch.set_num_threads(int(threads))
fit = runner.fit

def killed(*arguments, **options):
    def progress(step):
        if (step.epoch, step.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
    return fit(*arguments, **{**options, "progress": progress, "checkpoint_seconds": 0})

runner.fit = killed
import_module(module).main(arguments)
"""


def kill_in_training(module, arguments):
    """Run a benchmark until the first step of its second epoch is done; nothing can be tidied up after that."""
    torch = pytest.importorskip("torch")
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("there is no SIGKILL on this platform")
    command = [sys.executable, "-c", SCRIPT, module.__name__, str(torch.get_num_threads()), *arguments]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
