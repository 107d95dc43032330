"""Recorded results: JSON files in results/ that name the machine, the versions and the command behind every figure."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.lab.command import command
from shrinkstats._files import whole

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("shrinkstats", "numpy", "scipy", "numba", "torch")


def machine() -> dict[str, Any]:
    """The processor, its cores for this process, the platform and the versions in use."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write results/NAME.json, whole or not at all."""
    content = {"command": command(), "date": date.today().isoformat(), "machine": machine(), **result}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """What `save` wrote."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def side_by_side(rivals: Mapping[str, Callable[[], object]], *, repeats: int, in_a_row: int = 1) -> dict[str, float]:
    """Median seconds of every rival; they take turns, so that a busy machine is busy for all of them.

    A turn may be several calls in a row after one that is not timed: OpenMP's threads go on spinning for a while after
    their work, and a rival that follows at once would pay for it.
    """
    for call in rivals.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals.items())
    for _ in range(-(-repeats // in_a_row)):
        order = order[1:] + order[:1]  # nobody always follows the same rival
        for name, call in order:
            if in_a_row > 1:
                call()
            for _ in range(in_a_row):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
