"""The tables made of recorded scores of street scenes."""

import json

import pytest

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
cityscapes_tables = pytest.importorskip("benchmarks.cityscapes.tables", reason="the benchmarks are not on the path")

from benchmarks.lab import record  # noqa: E402

MACHINE = {"processor": "P", "cores": 1, "python": "3", "numpy": "2", "torch": "2"}


def row(norm, mode, batch, condition, miou, seed=0):
    means = {"miou": miou, "pixel_accuracy": 0.9, "precision": 0.8, "sensitivity": 0.7, "f1": 0.6}
    void = {"jaccard": 0.5, "accuracy": 0.1, "precision": 0.4, "sensitivity": 0.3, "f1": 0.2}
    score = {"precision": 1, "sensitivity": 1, "f1": 1}
    per_class = {
        "road": {"iou": miou + 0.2, "pixels": 300, **score},
        "car": {"iou": miou - 0.2, "pixels": 100, **score},
    }
    where = {"net": "hrnet_w18_small_v1", "norm": norm, "seed": seed, "mode": mode, "batch": batch}
    return {**where, "condition": condition, "images": 9, **means, "classes": per_class, "counting_void": void}


def record_result(folder, rows, other=4):
    content = {
        "command": "python -m benchmarks.cityscapes",
        "date": "2026-01-01",
        "machine": MACHINE,
        "settings": {"net": "hrnet_w18_small_v1", "size": [180, 240], "epochs": 30, "train_batch": 8, "seeds": [0, 1]},
        "scenes": {"train": 50, "validation": 5, "test": 9, "other": other},
        "rows": rows,
    }
    (folder / "made_up.json").write_text(json.dumps(content))


@pytest.fixture
def result(monkeypatch, tmp_path):
    rows = [row("batch_norm", "stein_blend", 2, "night", 0.35), row("batch_norm", "batch", 16, "clean", 0.41)]
    rows += [row("batch_norm", "batch", 2, "clean", 0.3), row("batch_norm", "running", 16, "pgd", 0.1)]
    rows += [row("batch_norm", "running", 16, "clean", value, seed) for seed, value in ((0, 0.4), (1, 0.42))]
    rows += [row("robust_norm", "running", 16, "clean", 0.38)]
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record_result(tmp_path, rows)


def lines(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def test_conditions(result):
    text = cityscapes_tables.conditions("made_up")
    head, _, *rows = lines(text)
    assert head == ["mean IoU, %", "clean", "night", "PGD"]
    assert rows == [
        ["batch norm, running statistics", "41.0 ± 12.7", "", "10.0"],
        ["batch norm, batches of 2", "30.0", "", ""],
        ["batch norm, batches of 16", "41.0", "", ""],
        ["batch norm, Stein blend, batches of 2", "", "35.0", ""],
        ["RobustNorm, running statistics", "38.0", "", ""],
    ]
    assert "180 x 240 pixels, 30 epochs of 50 scenes in batches of 8, 2 seeds; 5 scenes choose" in text
    assert "9 are tested, 4 of other drives." in text


def test_scores_of_both_kinds(result):
    head, _, *rows = lines(cityscapes_tables.scores("made_up"))
    assert head[1:] == [
        "mean IoU", "pixel accuracy", "precision", "sensitivity", "F1", "Jaccard*", "precision*", "sensitivity*", "F1*"
    ]  # fmt: skip
    values = [38, 90, 80, 70, 60, 50, 40, 30, 20]
    assert rows[-1] == ["RobustNorm, running statistics", *(f"{value}.0" for value in values)]


def test_classes(result):
    text = cityscapes_tables.classes("made_up")
    assert lines(text)[0] == ["IoU, %", "of the pixels", "batch norm", "RobustNorm"]
    assert lines(text)[2:] == [
        ["road", "75.0", "61.0 ± 12.7", "58.0"],
        ["car", "25.0", "21.0 ± 12.7", "18.0"],
        ["mean", "", "41.0 ± 12.7", "38.0"],
    ]


def test_without_other_drives_none_are_spoken_of(result, tmp_path):
    record_result(tmp_path, [row("batch_norm", "running", 16, "clean", 0.4)], other=0)
    text = cityscapes_tables.conditions("made_up")
    assert "9 are tested." in text
    assert "other drives" not in text


def test_the_picture_shows_every_way(result, tmp_path):
    cityscapes_pictures = pytest.importorskip("benchmarks.cityscapes.pictures", reason="matplotlib is not installed")
    figure = cityscapes_pictures.conditions(record.load("made_up"))
    first, second = figure.axes
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["batch norm", "RobustNorm"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["clean", "night", "PGD"]
    drawn = [line.get_ydata().tolist() for line in first.get_lines()]
    assert drawn == [pytest.approx([41, 10]), pytest.approx([30]), pytest.approx([41]), pytest.approx([35])]
    assert all(axis.get_ylim() == (0, pytest.approx(108 * 0.42)) for axis in figure.axes)  # nothing lies outside
    (picture,) = cityscapes_pictures.draw("made_up", tmp_path)
    assert picture.read_text().startswith("<?xml")
