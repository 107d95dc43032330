"""What the benchmarks that train networks share."""

from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("safetensors", reason="needs the extra shrinkstats[torch]")
from safetensors.torch import load_file  # noqa: E402

runner = pytest.importorskip("benchmarks.lab.runner", reason="the benchmarks are not on the path")
from benchmarks.lab.cells import Cells  # noqa: E402


@dataclass(frozen=True)
class Run:
    norm: str
    seed: int


def test_a_line_cut_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "cells.jsonl"
    cells = Cells(path, {"epochs": 1})
    cells.add({"a": 1})
    cells.add({"b": 2})
    path.write_text(path.read_text()[:-4])  # killed while it wrote
    cells = Cells(path, {"epochs": 1})
    cells.add({"c": 3})
    assert Cells(path, {"epochs": 1}).rows == cells.rows == [{"a": 1}, {"c": 3}]


def test_cells_that_were_kept_without_checksums_are_gone_on_with(tmp_path):
    """As older versions wrote them; a line without one after others that have them has lost it."""
    path = tmp_path / "cells.jsonl"
    path.write_text('{"epochs": 1}\n{"a": 1}\n')
    Cells(path, {"epochs": 1}).add({"b": 2})
    assert Cells(path, {"epochs": 1}).rows == [{"a": 1}, {"b": 2}]
    path.write_text(path.read_text() + '{"c": 3}\n')
    with pytest.raises(SystemExit, match="line 4: its checksum is missing"):
        Cells(path, {"epochs": 1})


def test_what_a_network_is_completed_by_is_saved_with_it(tmp_path):
    def made():
        return torch.nn.Linear(2, 1)

    def complete(net):
        net.register_buffer("noise", torch.full((2,), 7.0))

    def loss(found, y):
        return (found - y).square().mean(1)

    cells = Cells(tmp_path / "cells.jsonl", {})
    options = {"epochs": 1, "complete": complete, "validate": lambda net: {"score": 1.0}}
    pair = [(torch.ones(4, 2), torch.ones(4, 1))]
    net = runner.train(Run("a", 0), made(), lambda epoch: pair, loss, tmp_path, cells, **options)
    again = runner.train(Run("a", 0), made(), lambda epoch: 1 / 0, loss, tmp_path, cells, **options)
    (weights,) = tmp_path.glob("*.safetensors")
    assert load_file(weights).keys() == {"weight", "bias", "noise"}
    assert all(torch.equal(net.state_dict()[name], value) for name, value in again.state_dict().items())
