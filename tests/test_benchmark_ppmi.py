"""The comparison in a 3D network, from end to end on made-up brains."""

import csv

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")
nibabel = pytest.importorskip("nibabel", reason="needs the extra shrinkstats[medical]")
pytest.importorskip("sklearn", reason="needs the extra shrinkstats[sklearn]")
from safetensors.torch import load_file  # noqa: E402
from studies import STUDIES, brains  # noqa: E402

from benchmarks.lab import runner  # noqa: E402
from benchmarks.ppmi import data as ppmi_data  # noqa: E402
from benchmarks.ppmi import scores as ppmi_scores  # noqa: E402
from benchmarks.ppmi import study as ppmi  # noqa: E402
from benchmarks.ppmi.data import Part, Shuffled, augment  # noqa: E402
from benchmarks.ppmi.nets import Run  # noqa: E402
from benchmarks.ppmi.scores import extents_alone, scores, summary  # noqa: E402
from benchmarks.ppmi.study import Cell, evaluate  # noqa: E402
from shrinkstats.adapters.datasets import PPMI, Scan, Volumes, harmonize  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    brains(folder)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """The command with a small preset; gives what it recorded."""
    return STUDIES["ppmi"]().command(folder, tmp_path, monkeypatch)


def test_from_an_archive_to_a_record(run, tmp_path, capsys):
    result = run("all", "--seeds", "0", "1")
    assert result["data"] == {"volumes": 29, "subjects": 29, "positive": 10, "shape": [12, 12, 12], "problems": 1}
    said = capsys.readouterr().out
    assert "left out:" in said
    assert "S29" in said
    assert "| *small 3D CNN, trained in batches of 4* |" in said
    assert "| batch norm, batches of 2 |" in said
    assert "| extents of the scans alone | 50.0 |" in said  # they are all of a size
    cells = {tuple(row[name] for name in ("norm", *Cell._fields)) for row in result["rows"]}
    assert len(cells) == len(result["rows"]) == 2 * 2 * 4
    assert {cell[1:3] for cell in cells} == {("running", 16), ("batch", 2)}
    for row in result["rows"]:
        assert row["volumes"] == 12  # two folds of five
        assert row["balanced_accuracy_by_seed"].keys() == {"0", "1"}
        for name in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity"):
            value, low, high = row[name]
            assert 0 <= low <= high <= 1
            assert 0 <= value <= 1
    for training in result["trainings"]:
        weights = tmp_path / "all" / f"small_cnn3d-{training['norm']}-4-{training['seed']}.safetensors"
        Run("small_cnn3d", training["norm"], 4, 0).build((12, 12, 12)).load_state_dict(load_file(weights))


@pytest.mark.parametrize("options", [("--positive", "large", "tiny"), ("--negative", "tiny")])
def test_other_groups_need_another_folder(run, options):
    run("all", "--share", "9/10")  # begins the file, trains nothing
    with pytest.raises(SystemExit, match="holds cells of other settings"):
        run("all", *options)


def test_other_scans_need_another_folder(run, folder):
    run("all", "--share", "9/10")
    table = folder / "table.csv"
    before = table.read_text()
    table.write_text(before.replace("S0,large", "S0,tiny").replace("S2,tiny", "S2,large"))  # as many as before
    try:
        with pytest.raises(SystemExit, match="holds cells of other settings"):
            run("all", "--share", "9/10")
    finally:
        table.write_text(before)


def test_one_table_is_needed(folder, tmp_path, run):
    (folder / "other.csv").touch()
    try:
        with pytest.raises(SystemExit, match=r"expected one CSV .*other.csv, table.csv; name"):
            run("all")
    finally:
        (folder / "other.csv").unlink()


# --- parts of it ---------------------------------------------------------------------------------------------------


def made_up(n, subjects=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.random((n, 1, 6, 6, 6), dtype=np.float32)
    whose = np.array([f"{k}" for k in range(n)] if subjects is None else subjects)
    return Volumes(images, labels, whose, (), ())


def test_every_subject_is_tested_once_and_never_trained_on():
    subjects = [f"{k // 4}-{k % 2}" for k in range(80)]  # two volumes of each
    volumes = made_up(80, subjects)
    tested = []
    for seed in range(5):
        split = ppmi_data.parts(volumes, seed, torch.device("cpu"))
        where = [
            {
                subjects[int(np.flatnonzero((volumes.images == image.numpy()).all((1, 2, 3, 4)))[0])]
                for image in part.images
            }
            for part in split
        ]
        assert len(set.union(*where)) == sum(map(len, where))
        assert sum(len(part.images) for part in split) == 80
        tested += where[2]
    assert sorted(tested) == sorted(set(subjects))


def test_scanners_differences_are_taken_out_fold_by_fold():
    """By the training part alone: as `harmonize` does it, within 0 and 1."""
    pytest.importorskip("combatlearn", reason="needs the extra shrinkstats[harmonization]")
    rng = np.random.default_rng(0)
    made_on = rng.permutation(np.repeat(["GE", "Siemens"], 20))
    volumes = made_up(40)
    images = np.where((made_on == "GE").reshape(-1, 1, 1, 1, 1), volumes.images, 0.5 * volumes.images)
    scans = tuple(Scan(f"I{k}", f"{k}", "PD", None, {"Scanner": name}) for k, name in enumerate(made_on))
    volumes = volumes._replace(images=images, scans=scans)
    plain = ppmi_data.parts(volumes, 1, torch.device("cpu"))
    found = ppmi_data.parts(volumes, 1, torch.device("cpu"), "Scanner")
    train = [int(np.flatnonzero((images == image.numpy()).all((1, 2, 3, 4)))[0]) for image in plain[0].images]
    expected = harmonize(images, made_on, train).clip(0, 1)
    for part, before in zip(found, plain, strict=True):
        assert torch.equal(part.labels, before.labels)
        index = [int(np.flatnonzero((images == image.numpy()).all((1, 2, 3, 4)))[0]) for image in before.images]
        assert np.array_equal(part.images.numpy(), expected[index])
    assert not torch.equal(found[2].images, plain[2].images)
    with pytest.raises(SystemExit, match="the table has no column Site; it has Scanner"):
        ppmi_data.parts(volumes, 1, torch.device("cpu"), "Site")


def test_epochs_differ_and_can_be_repeated():
    part = Part(torch.rand(10, 1, 4, 4, 4), torch.arange(10))
    seen, again, other = (list(Shuffled(part, 3, seed)) for seed in (5, 5, 6))
    assert len(seen) == len(Shuffled(part, 3, 5)) == 3
    for (x, y), (x2, y2) in zip(seen, again, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not torch.equal(seen[0][1], other[0][1])
    assert len({int(label) for _, labels in seen for label in labels}) == 9


def test_every_training_has_its_batches_and_its_rate(monkeypatch, tmp_path):
    trainings = []
    monkeypatch.setattr(runner, "train", lambda *arguments, **options: trainings.append((arguments[2], options)))
    part = Part(torch.rand(32, 1, 8, 8, 8), torch.arange(32) % 2)
    preset = ppmi.PRESETS["cpu"]
    for size, seed in ((2, 0), (2, 1), (16, 0)):
        ppmi.train(Run("small_cnn3d", "batch_norm", size, seed), (part, part, part), preset, tmp_path, None)
    first = {(k, epoch): next(iter(batches(epoch)))[0] for k, (batches, _) in enumerate(trainings) for epoch in (0, 1)}
    assert len({x.double().sum().item() for x in first.values()}) == len(first)
    for (k, epoch), x in first.items():
        assert torch.equal(next(iter(trainings[k][0](epoch)))[0], x)
    two, _, sixteen = (options["rate"] for _, options in trainings)
    assert sixteen == preset.rate
    assert two == pytest.approx(preset.rate / 8**0.5)


def test_volumes_move_and_are_mirrored():
    volumes = torch.rand(40, 1, 5, 4, 3)
    changed = augment(volumes, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(volumes, [ppmi_data.SHIFT] * 6)
    seen = set()
    for x, frame in zip(changed, framed, strict=True):
        places = [
            (i, j, k, mirrored)
            for i in range(5) for j in range(5) for k in range(5) for mirrored in (False, True)
            if torch.equal(x.flip(1) if mirrored else x, frame[:, i : i + 5, j : j + 4, k : k + 3])
        ]  # fmt: skip
        assert places
        seen |= set(places)
    assert [len({place[axis] for place in seen}) for axis in range(4)] == [5, 5, 5, 2]


def test_batches_are_full_and_results_in_order():
    """A net that tells the size of its batch, and what is in it."""
    batches = []

    class Told(torch.nn.Module):
        def forward(self, x):
            batches.append(x.mean((1, 2, 3, 4)))
            return batches[-1][:, None]

    part = Part(torch.rand(7, 1, 2, 2, 2), torch.zeros(7, dtype=torch.int64))
    for batch in (2, 4, 16):
        batches.clear()
        logits = evaluate(Told(), part, Cell("batch", batch, "clean", 0.0))
        assert {len(means) for means in batches} == {batch}
        seats = torch.cat(batches)
        assert torch.equal(seats, seats[:7].repeat(3)[: len(seats)])  # filled up with the first ones, in turn
        assert len(set(seats[:7].tolist())) == 7
        assert np.allclose(logits, part.images.mean((1, 2, 3, 4)), atol=1e-5)


def test_batches_have_statistics_of_their_own():
    run = Run("small_cnn3d", "batch_norm", 4, 0)
    net = run.build((8, 8, 8))
    volumes = torch.rand(4, 1, 8, 8, 8) * torch.arange(1, 5).reshape(4, 1, 1, 1, 1)
    with torch.no_grad():
        running, batch = (run.in_mode(net, mode)(volumes) for mode in ("running", "batch"))
        alone = [run.in_mode(net, mode)(volumes[:2]) for mode in ("running", "batch")]
        assert torch.allclose(running, net.eval()(volumes), atol=1e-6)
        assert torch.allclose(batch, net.train()(volumes), atol=1e-5)
    assert torch.allclose(alone[0], running[:2], atol=1e-6)
    assert not torch.allclose(alone[1], batch[:2], atol=1e-4)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_attacks_raise_the_loss_of_the_labels(attack):
    run = Run("small_cnn3d", "stein_sampling", 4, 0)
    net = run.build((8, 8, 8))
    part = Part(torch.rand(8, 1, 8, 8, 8), torch.arange(8) % 2)
    for mode in ("running", "batch"):
        evaluated = run.in_mode(net, mode)
        clean, attacked = (
            torch.tensor(evaluate(evaluated, part, Cell(mode, 4, *kind)))[:, None]
            for kind in (("clean", 0.0), (attack, 0.1))
        )
        assert ppmi.losses(attacked, part.labels).mean() > ppmi.losses(clean, part.labels).mean()


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(2, size=60), np.repeat([0, 1], 30)
    logits = (rng.normal(size=60) + labels).round(1)  # with ties
    found = scores(logits, labels, np.arange(60).astype(str), folds)
    predicted = logits > 0
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "sensitivity": metrics.recall_score(labels, predicted),
        "specificity": metrics.recall_score(labels, predicted, pos_label=0),
        "auc": np.mean([metrics.roc_auc_score(labels[folds == k], logits[folds == k]) for k in (0, 1)]),
    }
    assert {name: value for name, (value, *_) in found.items()} == pytest.approx(expected)


def test_scores_are_those_of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification", reason="compares with torchmetrics")
    rng = np.random.default_rng(2)
    labels = rng.integers(2, size=80)
    logits = rng.normal(size=80) + labels
    found = scores(logits, labels, np.arange(80).astype(str), np.zeros(80, int))
    names = {"accuracy": "accuracy", "auc": "auroc", "sensitivity": "recall", "specificity": "specificity"}
    for name, theirs in names.items():
        metric = getattr(classification, f"binary_{theirs}")
        assert found[name][0] == pytest.approx(
            float(metric(torch.from_numpy(logits).sigmoid(), torch.from_numpy(labels)))
        )


def test_intervals_are_those_of_independent_subjects():
    """Of a proportion, about 1.96 sqrt(p (1 - p) / subjects) to each side, however many volumes a subject has."""
    rng = np.random.default_rng(1)
    labels, right = np.repeat([0, 1], 200), rng.random(400) < 0.7
    logits = np.where(right == (labels == 1), 1.0, -1.0)
    subjects = np.arange(400).astype(str)
    once = scores(logits, labels, subjects, np.zeros(400, int))
    thrice = scores(*(np.repeat(v, 3) for v in (logits, labels, subjects)), np.zeros(1200, int))
    for name, n in (("sensitivity", 200), ("specificity", 200), ("accuracy", 400)):
        value, low, high = once[name]
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(value * (1 - value) / n), rel=0.1)
        assert thrice[name] == pytest.approx(once[name], abs=0.01)
    value, low, high = once["auc"]  # with two values it is the balanced accuracy
    assert once["auc"] == pytest.approx(once["balanced_accuracy"])


def test_seeds_are_pooled_by_their_folds():
    volumes = made_up(40)
    perfect = {
        seed: np.where(volumes.labels[ppmi_data.fold(volumes, seed)[1]] == 1, 2.0, -2.0).tolist() for seed in (0, 1)
    }
    rows = [
        {"norm": "a", "train_batch": 2, "seed": seed, "logits": values}
        for seed, values in ((0, perfect[0]), (1, [-v for v in perfect[1]]))
    ]
    (found,) = summary(volumes, rows, ("norm", "train_batch"))
    assert found["balanced_accuracy_by_seed"] == {0: 1.0, 1: 0.0}
    assert found["balanced_accuracy"][0] == pytest.approx(0.5)
    assert found["auc"][0] == pytest.approx(0.5)
    assert found["volumes"] == 16


def test_extents_tell_groups_that_were_scanned_differently(tmp_path, monkeypatch):
    """By millimetres along an axis of the body, whichever axis of the scan that is."""
    rows = []
    for k in range(40):
        large = k % 2
        shape, step = ((6, 5, 7 + large), 2.0) if k < 20 else ((6, 7 + large, 5), 2.0)
        affine = np.diag([step, step, step, 1]) if k < 20 else np.eye(4)[[0, 2, 1, 3]] * [step, step, step, 1]
        brain = np.random.default_rng(k).random(shape, dtype=np.float32) + 1
        nibabel.save(nibabel.Nifti1Image(brain, affine), tmp_path / f"I{k}.nii")
        rows.append([f"I{k}", f"S{k}", "large" if large else "small"])
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Image Data ID", "Subject", "Group"], *rows])
    volumes = PPMI(tmp_path, tmp_path / "table.csv", positive="large").load()
    found = extents_alone(volumes, (0, 1, 2, 3, 4))
    assert found["volumes"] == 40
    assert found["balanced_accuracy"] == [1, 1, 1]
    assert extents_alone(volumes, (0, 1), (14, 14, 14))["balanced_accuracy"][0] == 0.5  # cut off alike
    rest, test = ppmi_data.fold(volumes, 0)
    monkeypatch.setattr(ppmi_scores, "fold", lambda volumes, seed: (rest, test))
    volumes.labels[test] = 1 - volumes.labels[test]  # which must not be looked at
    assert extents_alone(volumes, (0,))["balanced_accuracy"][0] == 0
