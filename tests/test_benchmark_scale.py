"""The benchmark of time and memory against size, on small sizes: what it records, and that it goes on where it was."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("dask.array", reason="dask.array is not installed")
pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")

from benchmarks.lab import plots, record
from benchmarks.speed import scale, scale_tables

SIZES = [1000, 20_000]  # the second in a file


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command; gives what it recorded."""
    monkeypatch.setattr(scale, "SIZES", SIZES)
    monkeypatch.setattr(scale, "REPEATS", 3)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")

    def call(*options):
        cells, folder = tmp_path / "cells.jsonl", tmp_path / "files"
        folder.mkdir(exist_ok=True)
        command = ["scale", "--in-memory", "5000", "--cells", str(cells), "--folder", str(folder), *options]
        monkeypatch.setattr(sys, "argv", command)
        scale.main()
        assert not list(folder.iterdir())  # the file with the data is gone
        return json.loads((tmp_path / "results/scale.json").read_text())

    return call


def test_every_rival_at_every_size(run, tmp_path, monkeypatch):
    result = run()
    found = {(r["size"], r["rival"]): r for r in result["rows"]}
    assert set(found) == {(size, rival) for size in SIZES for rival in scale.RIVALS}
    assert all(
        r["seconds"] > 0 and r["where"] == ("file" if size > 5000 else "memory") for (size, _), r in found.items()
    )
    assert found[20_000, "NumPy"]["memory"] > 4 * 20_000 > found[20_000, "moments"]["memory"]
    text = scale_tables.scale()
    assert text.count("\n| ") == 2 + len(SIZES) - 1
    assert "2e4, a file" in text
    monkeypatch.setattr(plots, "STATIC", tmp_path)
    assert scale_tables.picture().read_text().count("moments of Dask") >= 1


def test_it_goes_on_where_it_was(run, tmp_path, monkeypatch):
    first = run()
    cells = tmp_path / "cells.jsonl"
    lines = cells.read_text().splitlines(keepends=True)
    cells.write_text("".join(lines[:-1]) + lines[-1][:20])  # stopped while it wrote the last
    calls = []
    monkeypatch.setattr(scale, "seconds", lambda call: calls.append(call) or 1.0)
    again = run()
    assert len(calls) == 1
    assert again["rows"][:-1] == first["rows"][:-1]
    assert again["rows"][-1]["seconds"] == 1.0
    cells.write_text(lines[0].replace("float32", "float64") + "".join(lines[1:]))
    with pytest.raises(SystemExit, match="other settings"):
        run()


def test_what_would_not_fit_is_not_run(run, monkeypatch):
    monkeypatch.setattr(scale, "fits", lambda rival, size, rows: rival != "StandardScaler" or size < 10_000)
    rows = {(r["size"], r["rival"]): r for r in run()["rows"]}
    assert rows[20_000, "StandardScaler"]["seconds"] is None
    assert "would not fit" in scale_tables.scale()


def test_memory_in_proportion_to_the_data_is_foreseen():
    total = scale.os.sysconf("SC_PAGE_SIZE") * scale.os.sysconf("SC_PHYS_PAGES")
    rows = [{"rival": name, "size": total // 16, "memory": memory} for name, memory in (("a", total // 4), ("b", 10))]
    assert [scale.fits(name, total // 4, rows) for name in "abc"] == [False, True, True]
    assert scale.fits("a", total // 10, rows)


def test_the_data_are_the_same_in_memory_and_in_a_file(tmp_path):
    with scale.data(20_000, 10**6, tmp_path) as x, scale.data(20_000, 0, tmp_path) as mapped:
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(x, mapped)
