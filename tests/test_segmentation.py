"""Scores of segmentation against scikit-learn and the published way of counting, and the pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("benchmarks", reason="the benchmarks are not on the path")

from benchmarks.lab.segmentation import Confusion, Example, draw_overlays, scores_counting_void
from benchmarks.lab.segmentation.overlay import overlay

CLASSES, VOID = 5, 255
labels = st.sampled_from([*range(CLASSES), VOID])
truths = arrays(np.int64, (3, 4, 6), elements=labels).filter(lambda truth: (truth != VOID).any())
predictions = arrays(np.int64, (3, 4, 6), elements=st.integers(0, CLASSES - 1))


@settings(max_examples=20)
@given(truths, predictions)
def test_scores_are_those_of_scikit_learn(truth, prediction):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    scores = Confusion.of(truth, prediction, classes=CLASSES).scores()
    known = truth != VOID
    y, z = truth[known], prediction[known]
    occur = np.unique(y)
    precision, sensitivity, f1, pixels = metrics.precision_recall_fscore_support(y, z, labels=occur, zero_division=0)
    iou = metrics.jaccard_score(y, z, labels=occur, average=None, zero_division=0)
    expected = np.array([iou, precision, sensitivity, f1])
    assert [scores.miou, scores.precision, scores.sensitivity, scores.f1] == pytest.approx(expected.mean(1), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(metrics.accuracy_score(y, z))
    assert np.array([scores.classes[k] for k in occur]) == pytest.approx(np.array([*expected, pixels]).T, abs=1e-12)
    for k in set(range(CLASSES)) - set(occur):
        assert scores.classes[k].pixels == 0
        assert np.isnan(scores.classes[k][:4]).all()


def test_scores_are_those_of_torchmetrics():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="compares with torchmetrics")
    rng = np.random.default_rng(0)
    truth, prediction = rng.choice([*range(CLASSES), VOID], (3, 20, 30)), rng.integers(CLASSES, size=(3, 20, 30))
    scores = Confusion.of(truth, prediction, classes=CLASSES).scores()
    pair = torch.from_numpy(prediction), torch.from_numpy(truth)
    for name, theirs in {
        "iou": "jaccard_index",
        "precision": "precision",
        "sensitivity": "recall",
        "f1": "f1_score",
    }.items():
        metric = getattr(metrics, f"multiclass_{theirs}")
        expected = metric(*pair, num_classes=CLASSES, average=None, ignore_index=VOID)
        assert [getattr(score, name) for score in scores.classes] == pytest.approx(expected.tolist(), rel=1e-6)
    accuracy = metrics.multiclass_accuracy(*pair, num_classes=CLASSES, average="micro", ignore_index=VOID)
    assert scores.pixel_accuracy == pytest.approx(float(accuracy), rel=1e-6)


@given(truths, predictions, st.integers(0, CLASSES - 1))
def test_void_changes_nothing(truth, prediction, other):
    changed = np.where(truth == VOID, other, prediction)
    first, second = (Confusion.of(truth, guess, classes=CLASSES).scores() for guess in (prediction, changed))
    assert repr(first) == repr(second)


@given(truths, predictions)
def test_counts_add_up(truth, prediction):
    parts = [Confusion.of(t, p, classes=CLASSES) for t, p in zip(truth, prediction, strict=True)]
    total = sum(parts, Confusion.empty(CLASSES))
    once = Confusion.of(truth, prediction, classes=CLASSES)
    assert np.array_equal(total.counts, once.counts)
    assert total.void == once.void == (truth == VOID).sum()


def as_published(truths, predictions, classes, metrics):
    """The published arithmetic, written out: sums over true classes are called false positives there."""
    table = np.zeros((classes, classes))
    jaccard, accuracy = [], []
    for batch, guess in zip(truths, predictions, strict=True):
        jaccard.append(metrics.jaccard_score(batch.ravel(), guess.ravel(), average="micro"))
        accuracy.append(metrics.accuracy_score(batch.ravel(), guess.ravel()))
        for true, found in zip(batch.ravel(), guess.ravel(), strict=True):
            if 0 <= true < classes:
                table[true, found] += 1
    hit = np.diag(table)
    false_positive, false_negative = table.sum(axis=1) - hit, table.sum(axis=0) - hit
    sensitivity = np.mean(hit / (hit + false_negative + 1e-6))
    precision = np.mean(hit / (hit + false_positive + 1e-6))
    f1 = 2 * precision * sensitivity / (precision + sensitivity + 1e-6)
    return np.mean(jaccard), np.mean(accuracy), precision, sensitivity, f1


@settings(max_examples=20)
@given(truths, predictions)
def test_the_published_way(truth, prediction):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    batches = [Confusion.of(t, p, classes=CLASSES) for t, p in zip(truth, prediction, strict=True)]
    assert scores_counting_void(batches) == pytest.approx(as_published(truth, prediction, CLASSES, metrics), abs=1e-12)


def test_the_published_precision_is_the_sensitivity():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CLASSES, (64, 64))
    prediction = np.where(rng.random((64, 64)) < 0.4, 0, truth)  # much is taken for class 0
    batch = Confusion.of(truth, prediction, classes=CLASSES)
    ours, published = batch.scores(), scores_counting_void([batch])
    assert abs(ours.precision - ours.sensitivity) > 0.05
    assert published.precision == pytest.approx(ours.sensitivity, abs=1e-6)
    assert published.sensitivity == pytest.approx(ours.precision, abs=1e-6)


def test_the_table_shows_what_occurs():
    table = Confusion.of([0, 0, 2, VOID], [0, 1, 2, 2], classes=3).scores().table(["road", "wall", "sky"])
    assert table.splitlines()[2:] == [
        "| road | 50.0 | 100.0 | 50.0 | 66.7 | 2 |",
        "| sky | 100.0 | 100.0 | 100.0 | 100.0 | 1 |",
        "| mean | 75.0 | 100.0 | 75.0 | 83.3 | 3 |",
    ]
    with pytest.raises(ValueError, match="expected 3 names"):
        Confusion.of([0], [0], classes=3).scores().table(["road"])


@pytest.mark.parametrize(
    ("truth", "prediction", "error", "message"),
    [
        ([0, 1], [0], ValueError, r"shape \(2,\).*\(1,\)"),
        ([0.0], [0.0], TypeError, "take the argmax"),
        ([0, 3], [0, 0], ValueError, "truth has labels 0 to 3, expected 0 to 2"),
        ([-1], [0], ValueError, "truth has labels -1"),
        ([0], [VOID], ValueError, "prediction has labels 255"),
    ],
)
def test_labels_that_will_not_do(truth, prediction, error, message):
    with pytest.raises(error, match=message):
        Confusion.of(truth, prediction, classes=3)


def test_nothing_to_score():
    with pytest.raises(ValueError, match="2 are void"):
        Confusion.of([VOID, VOID], [0, 0], classes=3).scores()
    with pytest.raises(ValueError, match="one batch"):
        scores_counting_void([])
    with pytest.raises(ValueError, match="no pixels"):
        scores_counting_void([Confusion.empty(3)])


COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def test_colours_lie_over_the_grey_scene():
    image = np.stack([np.full((2, 2), value, np.uint8) for value in (30, 60, 90)])
    truth = np.array([[0, 1], [2, VOID]])
    shown = overlay(image, truth, COLOURS)
    assert shown.shape == (2, 2, 3)
    assert shown[0, 0].tolist() == [151, 21, 21]  # 0.65 of the colour, 0.35 of the grey 60
    assert shown[1, 1].tolist() == [21, 21, 21]
    with pytest.raises(ValueError, match="label 7 has no colour"):
        overlay(image, np.full((2, 2), 7), COLOURS)
    with pytest.raises(ValueError, match=r"\(3, 2, 3\)"):
        overlay(image, np.zeros((2, 3), int), COLOURS)


def test_a_picture_of_scenes_with_and_without_an_attack(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    truth = rng.integers(0, 3, (20, 30))
    truth[:5] = VOID
    plain = Example(image, truth, np.zeros((20, 30), int))
    attacked = plain._replace(attacked=np.ones((20, 30), int))
    names = ["road", "wall", "sky"]
    draw_overlays(tmp_path / "scenes.png", [attacked, plain], names=names, colours=COLOURS)
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.png"]
    with pytest.raises(ValueError, match="one example"):
        draw_overlays(tmp_path / "none.png", [], names=names, colours=COLOURS)
    with pytest.raises(ValueError, match="3 names of classes and 2 colours"):
        draw_overlays(tmp_path / "none.png", [plain], names=names, colours=COLOURS[:2])
