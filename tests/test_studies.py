"""What every study that trains networks does: it goes on where it was stopped, shares work, and records what it saw."""

import pytest
from killed import kill_in_training

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("safetensors", reason="needs the extra shrinkstats[torch]")
from safetensors.torch import load_file  # noqa: E402
from studies import STUDIES, arguments, same  # noqa: E402

from benchmarks.lab import runner  # noqa: E402


@pytest.fixture(scope="module", params=STUDIES)
def study(request):
    return STUDIES[request.param]()


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp(study.name)
    study.made_up(folder)
    return folder


@pytest.fixture
def run(study, folder, tmp_path, monkeypatch):
    """The command; its pictures are left out."""
    if hasattr(study.module, "draw"):
        monkeypatch.setattr(study.module, "draw", lambda path, net, data: path.touch())
    return study.command(folder, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(study, folder, tmp_path_factory):
    """What is recorded of all the work, done at once."""
    with pytest.MonkeyPatch.context() as patch:
        return study.command(folder, tmp_path_factory.mktemp("whole"), patch)("whole", *study.few)


def stopped(*arguments, **options):
    raise KeyboardInterrupt


def test_a_record_has_machine_versions_and_seeds(whole):
    assert {"command", "date"} <= whole.keys()
    assert {"processor", "cores", "python", "shrinkstats", "numpy", "torch"} <= whole["machine"].keys()
    assert all(whole["machine"][name] for name in ("python", "numpy", "torch"))
    assert whole["settings"]["seeds"] == [0]
    assert {training["seed"] for training in whole["trainings"]} == {0}
    assert all(training["history"] for training in whole["trainings"])


def test_what_is_done_is_not_done_again(study, run, whole, tmp_path, monkeypatch):
    first = run("all", *study.few)
    assert same(first) == same(whole)
    assert not list((tmp_path / "all").glob("*.unfinished"))
    for place, name in ((runner, "fit"), study.measured):
        monkeypatch.setattr(place, name, None)
    again = run("all", *study.few)
    assert (again["rows"], again["trainings"]) == (first["rows"], first["trainings"])


def test_stopped_anywhere_it_goes_on(study, run, whole, tmp_path, monkeypatch):
    real, measured = runner.fit, getattr(*study.measured)

    def stop_in_training(*arguments, **options):
        return real(*arguments, **{**options, "progress": stopped, "checkpoint_seconds": 0})

    calls = []

    def stop_in_measuring(*arguments):
        calls.append(arguments)
        return measured(*arguments) if len(calls) < 4 else stopped()

    monkeypatch.setattr(runner, "fit", stop_in_training)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", *study.few)
    assert list((tmp_path / "stopped").glob("*.unfinished"))
    monkeypatch.setattr(runner, "fit", real)
    monkeypatch.setattr(*study.measured, stop_in_measuring)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", *study.few)
    monkeypatch.setattr(*study.measured, measured)
    cells = tmp_path / "stopped" / "cells.jsonl"
    cells.write_text(cells.read_text()[:-20])  # the last line was being written
    assert same(run("stopped", *study.few)) == same(whole)


def test_two_shares_make_the_same_record(study, run, whole):
    assert run("shared", "--share", "1/2", *study.few) is None
    assert run("shared", "--share", "0/2", *study.few) is None
    assert same(run("shared", *study.few)) == same(whole)


@pytest.mark.long
def test_killed_in_training_it_goes_on_to_the_same_weights(study, folder, tmp_path, monkeypatch):
    options = [*study.options.split(), "--share", "0/1000"]
    one, two = (arguments(folder, tmp_path / name, *options) for name in ("whole", "killed"))
    for name, nothing in study.unmeasured.items():
        monkeypatch.setattr(study.module, name, nothing)
    kill_in_training(study.module, two)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"cells.jsonl", f"{study.killed}.unfinished"}
    study.module.main(one)
    study.module.main(two)
    one, two = (load_file(tmp_path / kind / f"{study.killed}.safetensors") for kind in ("whole", "killed"))
    assert all(torch.equal(one[key], two[key]) for key in one.keys() | two.keys())


def test_other_settings_need_another_folder(study, run):
    run("all", "--share", "9/10")  # begins the file, trains nothing
    with pytest.raises(SystemExit, match="holds cells of other settings"):
        run("all", *study.other)


def test_damaged_cells_are_refused_by_name(run, tmp_path, monkeypatch):
    """A digit of a cell that is another one would be another result."""
    monkeypatch.setattr(runner, "fit", diverge)
    run("all")
    cells = tmp_path / "all" / "cells.jsonl"
    text = cells.read_text()
    cells.write_text(text.replace("epoch 0", "epoch 8", 1))
    with pytest.raises(SystemExit, match=r"cells.jsonl, line 2: .*remove the line to measure it again"):
        run("all")
    cells.write_text(text)
    run("all")


@pytest.mark.parametrize("share", ["2/2", "-1/2"])
def test_a_share_there_is_not(run, share, capsys):
    with pytest.raises(SystemExit):
        run("all", f"--share={share}")
    assert "0/2 and 1/2 are the two halves" in capsys.readouterr().err


def diverge(*arguments, **options):
    raise FloatingPointError("the loss of epoch 0 is nan")


def test_a_training_that_breaks_down_is_recorded(run, monkeypatch):
    monkeypatch.setattr(runner, "fit", diverge)
    result = run("all", "--norms", "batch_norm")
    assert [(t["history"], t["failed"]) for t in result["trainings"]] == [([], "the loss of epoch 0 is nan")]
    assert result["rows"] == []
