"""Measurements: each module is a command, ``python -m benchmarks.NAME``, that records what it saw in results/."""
