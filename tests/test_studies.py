"""What every study of long standing does: it goes on where it was stopped, shares work, and records what it saw."""

import re

import pytest
from killed import kill_in_training

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("safetensors", reason="needs the extra shrinkstats[torch]")
from safetensors.torch import load_file  # noqa: E402
from studies import STUDIES, TRAINING, same  # noqa: E402

from benchmarks.lab import runner  # noqa: E402


@pytest.fixture(scope="module", params=STUDIES)
def study(request):
    return STUDIES[request.param]()


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    study.made_up(folder)
    return folder


@pytest.fixture
def run(study, folder, tmp_path, monkeypatch):
    """The command; its pictures are left out."""
    if study.undrawn:
        monkeypatch.setattr(study.module, "draw", study.undrawn)
    return study.command(folder, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(study, folder, tmp_path_factory):
    """What is recorded of all the work, done at once."""
    with pytest.MonkeyPatch.context() as patch:
        if study.undrawn:
            patch.setattr(study.module, "draw", study.undrawn)
        return study.command(folder, tmp_path_factory.mktemp("whole"), patch)("whole", *study.few)


def networks(test):
    """For the studies that train networks."""
    return pytest.mark.parametrize("study", TRAINING, indirect=True)(test)


def stopped(*arguments, **options):
    raise KeyboardInterrupt


def test_a_record_has_machine_versions_and_seeds(whole):
    assert {"command", "date"} <= whole.keys()
    assert {"processor", "cores", "python", "shrinkstats", "numpy", "torch"} <= whole["machine"].keys()
    assert all(whole["machine"][name] for name in ("python", "numpy", "torch"))
    assert (whole["settings"]["seeds"] if "settings" in whole else [whole["seed"]]) == [0]
    assert all(training["history"] and training["seed"] == 0 for training in whole.get("trainings", []))


def test_what_is_done_is_not_done_again(study, run, whole, tmp_path, monkeypatch):
    first = run("all", *study.few)
    assert same(first) == same(whole)
    assert not list((tmp_path / "all").glob("*.unfinished"))
    for place, name in ((runner, "fit"), study.measured):
        monkeypatch.setattr(place, name, None)
    again = run("all", *study.few)
    assert all(again[part] == first[part] for part in ("rows", "trainings") if part in first)


def test_stopped_anywhere_it_goes_on(study, run, whole, tmp_path, monkeypatch):
    real, measured = runner.fit, getattr(*study.measured)

    def stop_in_training(*arguments, **options):
        return real(*arguments, **{**options, "progress": stopped, "checkpoint_seconds": 0})

    calls = []

    def stop_in_measuring(*arguments):
        calls.append(arguments)
        return measured(*arguments) if len(calls) < 4 else stopped()

    if study.killed:
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


@networks
@pytest.mark.long
def test_killed_in_training_it_goes_on_to_the_same_weights(study, folder, tmp_path, monkeypatch):
    options = [*study.options.split(), "--share", "0/1000"]
    one, two = ([*study.arguments(folder, tmp_path / name), *options] for name in ("whole", "killed"))
    for name, nothing in {**study.unmeasured, **({"draw": study.undrawn} if study.undrawn else {})}.items():
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
    """A digit that is another one would be another result."""
    monkeypatch.setattr(runner, "fit", diverge)
    run("all")
    cells = tmp_path / "all" / "cells.jsonl"
    text = cells.read_text()
    settings, first, rest = text.split("\n", 2)
    other = re.sub(r'": (\d)', lambda found: f'": {9 - int(found[1])}', first, count=1)
    cells.write_text("\n".join([settings, other, rest]))
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


@networks
def test_a_training_that_breaks_down_is_recorded(run, monkeypatch):
    monkeypatch.setattr(runner, "fit", diverge)
    result = run("all", "--norms", "batch_norm")
    assert [(t["history"], t["failed"]) for t in result["trainings"]] == [([], "the loss of epoch 0 is nan")]
    assert result["rows"] == []
