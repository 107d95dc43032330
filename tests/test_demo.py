"""The demo, on a setting small enough for a test."""

import json
import math

import pytest

pytest.importorskip("torch", reason="the demo needs the extra demo")
pytest.importorskip("sklearn", reason="the demo needs the extra demo")
pytest.importorskip("matplotlib", reason="the demo needs the extra demo")
pytest.importorskip("typer", reason="the demo needs the extra demo")
import torch
from typer.testing import CliRunner

from shrinkstats.adapters.commands import digits
from shrinkstats.adapters.commands.application import application
from shrinkstats.adapters.commands.digits import data, evaluation, run
from shrinkstats.adapters.commands.digits.summary import summary


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(data, "TEST", 64)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One tiny run, and where it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "TEST", 64)
        folder = tmp_path_factory.mktemp("demo") / "new"
        return run(folder, unseen, seed=3, epochs=2, shuffles=1), folder


def unseen(stage, steps):
    """Progress that nobody watches."""
    return lambda: None


def numbers(results):
    return {key: value for key, value in results.items() if key != "seconds"}


def test_files(results):
    returned, folder = results
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(returned))
    picture = (folder / "accuracy.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.endswith(b"IEND\xaeB`\x82")
    from matplotlib.image import imread

    pixels = imread(folder / "accuracy.png")
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # something is drawn


def test_every_cell_is_there(results):
    found, _ = results
    assert list(found["panels"]) == ["none", "noise", "contrast", "blur", "brightness", "mean"]
    for lines in found["panels"].values():
        assert list(lines) == list(evaluation.RULES)
        for line in lines.values():
            assert len(line["accuracy"]) == len(line["standard_error"]) == 4
            assert all(0 <= value <= 100 for value in line["accuracy"])
        assert len(set(lines["trained statistics"]["accuracy"])) == 1  # they do not see the batch
    assert found["settings"] == {"seed": 3, "epochs": 2, "shuffles": 1, "training_images": 1733, "test_images": 64}
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["test_accuracy"] > 60


@pytest.mark.long
def test_same_seed_same_numbers(results, tmp_path):
    torch.manual_seed(123)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again = run(tmp_path, unseen, seed=3, epochs=2, shuffles=1)
    assert numbers(again) == numbers(results[0])
    assert (tmp_path / "accuracy.png").read_bytes() == (results[1] / "accuracy.png").read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_another_seed_other_numbers():
    first, second = (data.load(seed)[1].labels for seed in (3, 4))
    assert not torch.equal(first, second)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SHUFFLES", 1)
    arguments = ["demo", "--output", str(tmp_path / "out"), "--seed", "3", "--epochs", "1"]
    result = CliRunner().invoke(application(), arguments)
    assert result.exit_code == 0, result.output
    for part in ("brightness", "SteinBlend", "batch 64", "Trained to", "accuracy.png"):
        assert part in result.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["accuracy.png", "results.json"]


def test_standard_errors_and_ranking():
    rules = ["trained statistics", "other"]
    hits = torch.zeros(2, 1, 1, 100, dtype=torch.float64)
    hits[0, ..., :90] = 1
    hits[1, ..., :50] = 1
    found = summary(hits, rules, ["none"], [1])
    assert found["test_accuracy"] == pytest.approx(90)
    error = found["panels"]["none"]["other"]["standard_error"][0]
    assert error == pytest.approx(100 * math.sqrt(0.25 / 99))
    assert found["overall"]["verdict"].startswith(
        "trained statistics is best overall, 40.0 ± 4.9 points ahead of other"
    )


def test_the_verdict_names_no_winner_within_the_noise():
    hits = torch.zeros(2, 1, 1, 100, dtype=torch.float64)
    hits[0, ..., :50] = 1
    hits[1, ..., 48:97] = 1
    assert summary(hits, ["trained statistics", "b"], ["none"], [1])["overall"]["verdict"].startswith("No clear")


def test_shifts_change_images_but_not_their_shape():
    _, test = data.load(0)
    for name, shift in data.SHIFTS.items():
        shifted = shift(test.images, torch.Generator().manual_seed(0))
        assert shifted.shape == test.images.shape
        assert torch.equal(shifted, test.images) == (name == "none")
    assert test.images.min() == 0
    assert test.images.max() == 1
