"""The comparison on street scenes, from end to end on made-up streets and a small network."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
from safetensors.torch import load_file  # noqa: E402
from studies import SIZE, STUDIES, segmenter, streets  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.cityscapes import study as cityscapes  # noqa: E402
from benchmarks.cityscapes.study import CONDITIONS, Cell, Data, Run, changed, evaluate  # noqa: E402
from benchmarks.lab.segmentation import Confusion  # noqa: E402
from shrinkstats.adapters.datasets import Cityscapes  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streets")
    streets(folder)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """The command with a preset of a small network; gives what it recorded."""
    return STUDIES["cityscapes"]().command(folder, tmp_path, monkeypatch)


@pytest.fixture
def preset(run):
    return cityscapes.PRESETS["quick"]


def test_from_scenes_to_a_record(run, tmp_path, capsys):
    result = run("all", "--seeds", "0", "1")
    said = capsys.readouterr().out
    assert "| batch norm, Stein blend, batches of 2 |" in said
    assert "| car |" in said
    assert result["scenes"] == {"train": 12, "validation": 4, "test": 5, "other": 3}
    cells = {(row["norm"], row["seed"], *(row[name] for name in Cell._fields)) for row in result["rows"]}
    ways = {cell[2:4] for cell in cells if cell[0] == "batch_norm"}
    assert ways == {("running", 16), ("batch", 2), ("stein_blend", 2)}
    assert len(cells) == len(result["rows"]) == 2 * (3 + 2) * len(CONDITIONS)
    for row in result["rows"]:
        assert row["classes"].keys() == {"road", "sky", "car"}
        assert row["images"] == (3 if row["condition"] == "other_drive" else 5)
        assert row["miou"] == pytest.approx(np.mean([of["iou"] for of in row["classes"].values()]))
        assert row["counting_void"].keys() == {"jaccard", "accuracy", "precision", "sensitivity", "f1"}
    for training in result["trainings"]:
        run_name = f"hrnet_w18_small_v1-{training['norm']}-{training['seed']}"
        weights = load_file(tmp_path / "all" / f"{run_name}.safetensors")
        Run("hrnet_w18_small_v1", training["norm"], 0).build().load_state_dict(weights)
        with Image.open(tmp_path / "all" / f"{run_name}.png") as picture:
            assert picture.format == "PNG"


# --- parts of it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data(folder, preset):
    return Data.load(folder, preset, torch.device("cpu"))


def files(subset):
    """The images of a part of the data."""
    return {subset.dataset.frames[index].image for index in subset.indices}


def test_no_scene_is_in_two_parts(folder, preset, data):
    """The last scenes of "train" choose the weights; of "test" only other drives count, and no void scenes."""
    parts = [files(part) for part in (data.train, data.validation, data.test, data.other)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert files(data.plain) == parts[0]
    assert sorted(path.stem[12:18] for path in parts[1]) == [f"{k:06}" for k in range(12, 16)]
    assert {(path.parts[-3], path.parts[-2]) for path in parts[2]} == {("val", "aachen")}
    assert {(path.parts[-3], path.parts[-2]) for path in parts[3]} == {("test", "ulm")}
    few = Data.load(folder, replace(preset, test_images=3, other_images=3), torch.device("cpu"))
    assert (len(few.test), len(few.other)) == (3, 2)  # of ulm, ulm and secret
    with pytest.raises(SystemExit, match="12 scenes to train on, too few for a batch of 13"):
        Data.load(folder, replace(preset, train_batch=13), torch.device("cpu"))


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine"])
def test_other_drives_need_not_be_there(missing, folder, preset, tmp_path):
    shutil.copytree(folder, tmp_path / "some")
    shutil.rmtree(tmp_path / "some" / missing / "test")
    data = Data.load(tmp_path / "some", preset, torch.device("cpu"))
    assert len(data.other) == 0
    run = Run("hrnet_w18_small_v1", "batch_norm", 0)
    assert {cell.condition for cell in cityscapes.all_cells(run, data)} == {*CONDITIONS} - {"other_drive"}


def test_epochs_differ_and_can_be_repeated(data):
    seen, again, other = (list(data.shuffled(0, epoch)) for epoch in (3, 3, 4))
    assert len(seen) == len(data.shuffled(0, 3)) == 3
    assert all(torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(seen, again, strict=True))
    assert not any(torch.equal(x, x2) for (x, _), (x2, _) in zip(seen, other, strict=True))
    assert not torch.equal(
        seen[0][0], next(iter(data.shuffled(1, 3)))[0]
    )  # nor do trainings with other seeds share them
    drawn = [np.stack([data.shuffled(0, epoch).scenes[k][0] for k in range(12)]) for epoch in (3, 3, 4)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])  # the same scenes, cut out elsewhere
    assert 0.2 < max(float(x.max()) for x, _ in seen) <= 1


def test_scores_are_those_of_the_predictions(folder, data):
    """A perfect network, but for the cars, which it takes for road; in any batches."""
    truth = torch.from_numpy(np.stack([labels for _, labels in Cityscapes(folder, "val", size=SIZE)]))
    seen = []

    class Blind(nn.Module):
        def forward(self, x):
            start = sum(seen)
            seen.append(len(x))
            labels = truth[start : start + len(x)]
            found = torch.where((labels == 255) | (labels == 13), 0, labels)
            return nn.functional.one_hot(found, 19).movedim(-1, 1).float()

    for batch in (2, 16):
        seen.clear()
        found = evaluate(Blind(), data, Cell("running", batch, "clean"))
        road = (truth == 0).sum() / ((truth == 0).sum() + (truth == 13).sum())
        assert found["classes"]["car"]["iou"] == 0
        assert found["classes"]["sky"]["iou"] == 1
        assert found["classes"]["road"]["iou"] == pytest.approx(float(road))
        assert found["miou"] == pytest.approx((1 + float(road)) / 3)


def test_a_scene_has_the_same_weather_in_batches_of_any_size(data):
    seen = []

    class Told(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 19, *x.shape[2:])

    found = []
    for batch in (2, 16):
        seen.clear()
        evaluate(Told(), data, Cell("running", batch, "noise"))
        found.append(torch.cat(seen))
    assert torch.equal(*found)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_change_images_within_their_bounds(condition, data):
    run = Run("hrnet_w18_small_v1", "stein_sampling", 0)
    net = run.in_mode(run.build(), "batch", data.clean)
    images, labels = next(iter(data.shuffled(0, 0)))
    once, again = (changed(condition, net, images, labels, 3, 7) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == images.shape
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    assert torch.equal(once, images) == (condition in ("clean", "other_drive"))
    if condition in cityscapes.SHIFTS:  # an image has the same weather in any batch
        alone = changed(condition, net, images[1:2], labels[1:2], 3, 8)
        assert torch.equal(alone, once[1:2])
    if condition in ("fgsm", "pgd"):
        assert float((once - images).abs().max()) <= cityscapes.EPS + 1e-6
        with torch.no_grad():
            before, after = (cityscapes.losses(net(x), labels).mean() for x in (images, once))
        assert after > before


def test_night_is_dark_and_fog_pale():
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    dark, pale = (shift(image, torch.Generator().manual_seed(0)) for shift in (cityscapes.night, cityscapes.fog))
    assert float(dark.mean()) < 0.3 * float(image.mean())
    assert float(dark[:, 2].mean()) > float(dark[:, 0].mean())
    assert float(pale.std()) < 0.8 * float(image.std())


def test_the_three_modes(data):
    """Running statistics give what the network gives; those of the batch depend on the mates; a blend lies between."""
    run = Run("hrnet_w18_small_v1", "batch_norm", 0)
    net = run.build()
    images = torch.stack([image for batch, _ in data.shuffled(0, 0) for image in batch])
    for _ in range(20):
        net(images)  # in training: statistics move
    net.eval()
    with torch.no_grad():
        running, batch, blend = (run.in_mode(net, mode, data.clean)(images[:2]) for mode in run.modes)
        alone = run.in_mode(net, "batch", data.clean)(images[:1])
        assert torch.allclose(running, net(images[:2]), atol=1e-5)
    assert not torch.allclose(batch[:1], alone, atol=1e-3)
    assert not torch.allclose(batch, running, atol=1e-3)
    assert float((blend - running).norm()) < float((batch - running).norm())
    assert Run("hrnet_w18_small_v1", "robust_norm", 0).modes == ("running", "batch")


def test_void_pixels_and_half_precision_do_not_enter_the_loss():
    logits, labels = torch.randn(2, 19, 4, 4), torch.randint(19, (2, 4, 4))
    labels[:, :2] = 255
    other = logits.clone()
    other[:, :, :2] = 100 * torch.randn(2, 19, 2, 4)
    assert torch.equal(cityscapes.losses(logits, labels), cityscapes.losses(other, labels))
    expected = nn.functional.cross_entropy(logits[:1, :, 2:], labels[:1, 2:])
    assert float(cityscapes.losses(logits, labels)[0]) == pytest.approx(float(expected))
    with torch.autocast("cpu", torch.bfloat16):
        assert cityscapes.Segmenter(segmenter())(torch.rand(1, 3, *SIZE)).dtype == torch.float32


def test_counts_are_by_true_class():
    logits = torch.zeros(1, 19, 1, 3)
    logits[0, 2] = 1.0
    found = cityscapes.confusion(logits, torch.tensor([[[2, 5, 255]]]))
    expected = Confusion.of([2, 5, 255], [2, 2, 2], classes=19)
    assert np.array_equal(found.counts, expected.counts)
    assert found.void == 1
