"""A plugin for pytest: which lines of the package every test runs, and how long it takes (`tests/mutants.py`).

Written to $HITS, a line of JSON a test, a file a process. Python before 3.12 has no cheaper way than a trace;
compiled functions are not seen.
"""

import inspect
import json
import os
import sys
import threading
from pathlib import Path

import pytest

ROOT = f"{Path(__file__).parents[1]}{os.sep}"
FOLDERS = ("shrinkstats", "adapters/torch", "adapters/commands")
FILES = {str(path) for folder in FOLDERS for path in Path(ROOT, folder).rglob("*.py")}

seen = set()
compiling = [0, 0.0, 0.0]  # depth, CPU seconds at its begin, CPU seconds


def trace(frame, event, arg):
    code = frame.f_code
    if code.co_filename not in FILES or not code.co_flags & inspect.CO_OPTIMIZED:  # a module or a class is no function
        return None
    seen.add((code.co_filename, code.co_firstlineno))
    return trace_line


def trace_line(frame, event, arg):
    seen.add((frame.f_code.co_filename, frame.f_lineno))
    return trace_line


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
    seen.clear()
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
        lines = {}
        for file, line in sorted(seen.copy()):
            lines.setdefault(file.removeprefix(ROOT), []).append(line)
        note = {
            "test": item.nodeid,
            "seconds": round(max(cpu() - start - compiling[2], 0.0), 3),
            "passed": item.session.testsfailed == failed,
            "lines": lines,
        }
        with open(f"{os.environ['HITS']}.{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", "a") as out:
            out.write(json.dumps(note) + "\n")
