"""A plugin for pytest: which functions of the package every test calls, and how long it takes (`tests/mutants.py`).

Written to $HITS, a line of JSON a test, a file a process. Python before 3.12 has no cheaper way than a trace of
calls; compiled functions are not seen.
"""

import json
import os
import sys
import threading
from pathlib import Path

import pytest

ROOT = f"{Path(__file__).parents[1]}{os.sep}"
FILES = {str(path) for folder in ("shrinkstats", "adapters") for path in Path(ROOT, folder).rglob("*.py")}

called = set()
compiling = [0, 0.0, 0.0]  # depth, CPU seconds at its begin, CPU seconds


def trace(frame, event, arg):
    code = frame.f_code
    if code.co_filename in FILES:
        called.add((code.co_filename, code.co_firstlineno))


def cpu():
    return sum(os.times()[:4])


def pytest_configure():
    try:
        from numba.core import event
    except ImportError:
        return

    class Compilation(event.Listener):
        def on_start(self, event):
            compiling[0] += 1
            if compiling[0] == 1:
                compiling[1] = cpu()

        def on_end(self, event):
            compiling[0] -= 1
            if not compiling[0]:
                compiling[2] += cpu() - compiling[1]

    event.register("numba:compile", Compilation())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    called.clear()
    compiling[2] = 0.0
    failed = item.session.testsfailed
    start = cpu()
    sys.settrace(trace)
    threading.settrace(trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)
        line = {
            "test": item.nodeid,
            "seconds": round(max(cpu() - start - compiling[2], 0.0), 3),
            "passed": item.session.testsfailed == failed,
            "calls": sorted(f"{file.removeprefix(ROOT)}:{line}" for file, line in set(called)),
        }
        with open(f"{os.environ['HITS']}.{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", "a") as out:
            out.write(json.dumps(line) + "\n")
