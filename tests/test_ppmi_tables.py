"""The tables made of recorded scores of brain volumes."""

import json

import pytest

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
ppmi_tables = pytest.importorskip("benchmarks.ppmi.tables", reason="the benchmarks are not on the path")

from benchmarks.lab import record  # noqa: E402

MACHINE = {"processor": "P", "cores": 1, "python": "3", "numpy": "2", "torch": "2"}
SCORES = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity")


def row(norm, train_batch, mode, batch, attack, eps, value, half=0.05):
    scores = {
        name: [value + 0.01 * k, value + 0.01 * k - half, value + 0.01 * k + half] for k, name in enumerate(SCORES)
    }
    where = {"net": "small_cnn3d", "norm": norm, "train_batch": train_batch, "mode": mode, "batch": batch}
    each = {"balanced_accuracy_by_seed": {"0": value, "1": value + 0.02}}
    return {**where, "attack": attack, "eps": eps, "volumes": 20, **scores, **each}


@pytest.fixture
def result(monkeypatch, tmp_path):
    """Rows as the benchmark sorts them: by names."""
    rows = [row("batch_norm", 2, "batch", 16, "clean", 0.0, 0.60), row("batch_norm", 2, "batch", 2, "clean", 0.0, 0.5)]
    rows += [
        row("batch_norm", size, "running", 16, attack, eps, value)
        for size in (2, 16)
        for attack, eps, value in (("clean", 0.0, 0.7), ("pgd", 0.003, 0.65), ("pgd", 0.01, 0.55), ("fgsm", 0.01, 0.6))
    ]
    rows += [row("stein_sampling", 2, "running", 16, "clean", 0.0, 0.72, half=0.07)]
    content = {
        "command": "python -m benchmarks.ppmi",
        "date": "2026-01-01",
        "machine": MACHINE,
        "settings": {"positive": ["large"], "seeds": [0, 1]},
        "data": {"volumes": 50, "subjects": 49, "positive": 25, "shape": [3, 4, 5], "problems": 0},
        "rows": rows,
        "extents": {"extents alone": {name: [0.71, 0.7, 0.8] for name in SCORES}},
    }
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    (tmp_path / "made_up.json").write_text(json.dumps(content))


def cells(table):
    return {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in table.splitlines()[2:]
        if "|" in line
    }


def test_attacks_stand_in_order_of_strength(result):
    text = ppmi_tables.attacked("made_up")
    head = [cell.strip() for cell in text.splitlines()[0].split("|")[1:-1]]
    assert head == ["balanced accuracy, %", "clean", "FGSM 0.01", "PGD 0.003", "PGD 0.01"]
    names = [line.split("|")[1].strip() for line in text.splitlines()[2:] if line.startswith("|")]
    assert names == [
        "*small 3D CNN, trained in batches of 2*",
        "batch norm, running statistics",
        "batch norm, batches of 2",
        "batch norm, batches of 16",
        "Stein, sampling noise, running statistics",
        "*small 3D CNN, trained in batches of 16*",
        "batch norm, running statistics",
        "extents alone",
    ]
    known = cells(text)
    assert known["batch norm, running statistics"] == ["71.0", "61.0", "66.0", "56.0"]  # the second of the scores
    assert known["batch norm, batches of 2"] == ["51.0", "", "", ""]
    assert known["extents alone"] == ["71.0", "", "", ""]
    assert "50 volumes of 49 subjects, 25 in the group large; 3 x 4 x 5 voxels; 20 tested, in 2 of five folds" in text
    assert "95% intervals go at most 7 points to each side" in text


def test_scores_stand_with_their_intervals(result):
    text = ppmi_tables.scores("made_up")
    known = cells(text)
    assert known["batch norm"][:2] == ["70.0 (65.0 to 75.0)", "71.0 (66.0 to 76.0)"]
    assert known["Stein, sampling noise"][4] == "76.0 (69.0 to 83.0)"
    assert known["batch norm"][-1] == "70, 72"
    assert known["extents alone"] == 5 * ["71.0 (70.0 to 80.0)"] + [""]


def test_the_picture_shows_values_and_intervals(result, tmp_path):
    ppmi_pictures = pytest.importorskip("benchmarks.ppmi.pictures", reason="matplotlib is not installed")
    figure = ppmi_pictures.under_attack(record.load("made_up"))
    two, sixteen = figure.axes
    assert [axis.get_title(loc="left")[-2:] for axis in (two, sixteen)] == [" 2", "16"]
    assert [label.get_text() for label in two.get_xticklabels()] == ["clean", "FGSM\n0.01", "PGD\n0.003", "PGD\n0.01"]
    drawn = {bars.get_label(): bars for bars in two.containers}
    assert drawn.keys() == {"batch norm", "Stein, sampling noise"}
    points, _, (lines,) = drawn["batch norm"]
    assert [round(x) for x in points.get_xdata()] == [0, 2, 3, 1]
    assert points.get_ydata() == pytest.approx([71, 66, 56, 61])
    assert lines.get_segments()[0][:, 1] == pytest.approx([66, 76])
    (picture,) = ppmi_pictures.draw("made_up", tmp_path)
    assert picture.read_text().startswith("<?xml")
