"""The compiled functions under watch, in one command: `make bounds`, or ``python tests/bounds.py``.

1. Both guards are shown a defect that was planted, and must report it.
2. The tests of the kernels run with Numba's own checks of every index (compiled anew, which takes minutes at first).
3. They run with arrays that end, or begin, where memory may not be touched: one element too far ends the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ["test_bounds.py", "test_strides.py", "test_vectors.py", "test_tables.py", "test_layouts.py"]
GUARDED = ["test_bounds.py", "test_strides.py"]
CHECKS = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(ROOT / "build" / "numba-boundscheck")}
PAGES = {"SHRINKSTATS_GUARD_PAGES": "1"}

PLANTED = {
    "an index, in a compiled function": (
        CHECKS,
        """
@jit
def beyond(x):
    return x[x.size]
beyond(np.ones(3))
""",
        "IndexError",
    ),
    "an index, in the body of a team": (
        CHECKS,
        """
def body(table):
    t = numba.carray(table, 1)[0]
    x, _, _ = team._walk0(t)
    x[x.size] = 1.0
team._BODIES["affine"] = (body, body)
job = team.plan("affine", np.float64, (1, 1, 8), ((8, 8, 1),) * 2, None)
x, lines = np.ones(8), np.zeros((3, job.copies))
job.alone(job.table(x.ctypes.data, x.ctypes.data, 0, lines, np.empty(0))[1])
""",
        "IndexError",
    ),
    "a read after the last element": (
        PAGES,
        """
x = guarded(64).view(np.float64)
beyond = np.lib.stride_tricks.as_strided(x, (9,), (8,))
print(cpu.moments(beyond, 0, None))
""",
        -11,
    ),
    "a write before the first element": (
        PAGES,
        """
x = guarded(64, at_end=False).view(np.float64)
before = np.lib.stride_tricks.as_strided(x, (3,), (-8,))
cpu.affine(np.ones(3), 0, np.ones(3), np.ones(3), np.ones(3), before)
""",
        -11,
    ),
}
PREAMBLE = """
import numba, numpy as np
from places import guarded
from shrinkstats.kernels import cpu, team
def jit(f):
    return numba.njit(error_model="numpy", nogil=True)(f)
"""


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    where = {**os.environ, **environment, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=where, cwd=ROOT, capture_output=True, text=True, check=False)


def reports(planted: str, watch: dict[str, str], sign: str | int) -> bool:
    """Whether the guard sees a planted defect: an error that is named, or the end of the process by a signal."""
    done = run(["-c", PREAMBLE + planted], watch)
    seen = sign in done.stderr if isinstance(sign, str) else done.returncode == sign
    if not seen:
        print(done.returncode, done.stdout, done.stderr)
    return seen


def main() -> int:
    """Plant, run, report; the number of reports is the exit status."""
    count = 0
    for name, (watch, planted, sign) in PLANTED.items():
        seen = reports(planted, watch, sign)
        print(f"planted: {name}: {'reported' if seen else 'NOT SEEN'}", flush=True)
        count += not seen
    for name, watch, files in (("bounds-checked", CHECKS, CHECKED), ("guard pages", PAGES, GUARDED)):
        start = time.perf_counter()
        done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{file}" for file in files)], watch)
        summary = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(f"{name}: {summary}, {time.perf_counter() - start:.0f} s")
        if done.returncode:
            print(done.stdout[-8000:], done.stderr[-4000:])
            count += 1
    print(f"{count} reports")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
