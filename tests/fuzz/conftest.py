"""Profiles of the fuzzers, and how many cases they ran.

The short profile is that of all tests: the same cases in every run. The long one draws others each time, or those of
a seed: ``make fuzz SEED=7``, or ``pytest tests/fuzz --hypothesis-profile=long --hypothesis-seed=7``.
"""

import os

import pytest
from fuzzing import cases
from hypothesis import settings

settings.register_profile(
    "long",
    deadline=None,
    database=None,
    print_blob=True,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")),
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    before = cases.total()
    yield
    item.user_properties.append(("cases", cases.total() - before))


def pytest_terminal_summary(terminalreporter):
    reports = [r for kind in ("passed", "failed", "xfailed") for r in terminalreporter.getreports(kind)]
    ran = [value for report in reports for name, value in report.user_properties if name == "cases"]
    if any(ran):
        terminalreporter.write_line(f"fuzz: {sum(ran)} cases in {sum(map(bool, ran))} tests")
