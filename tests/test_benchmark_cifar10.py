"""The comparison under attack, from end to end on made-up images and small networks."""

from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("matplotlib", reason="needs the extra shrinkstats[cli]")
from safetensors.torch import load_file  # noqa: E402
from studies import NETS, STUDIES, images, small, without_norm  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.cifar10 import cells as cifar10_cells  # noqa: E402
from benchmarks.cifar10 import guards as cifar10_guards  # noqa: E402
from benchmarks.cifar10 import study as cifar10  # noqa: E402
from benchmarks.cifar10.cells import ATTACKS, Cell  # noqa: E402
from benchmarks.cifar10.data import Data, Shuffled, augment  # noqa: E402
from benchmarks.cifar10.nets import NORMS, Subject, subjects  # noqa: E402
from benchmarks.lab.cells import Cells  # noqa: E402
from benchmarks.lab.training import fit  # noqa: E402
from shrinkstats.adapters import models  # noqa: E402

TEST, EPS = 10, 0.03


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    images(folder)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """The command with a preset of small networks; gives what it recorded."""
    return STUDIES["cifar10"]().command(folder, tmp_path, monkeypatch)


def test_from_images_to_a_record(run, tmp_path):
    result = run("all")
    modes = Counter((row["norm"], row["mode"]) for row in result["rows"] if row["attack"] != "pgd_restarts")
    assert set(modes) == {(n, m) for n in NETS[:2] for m in ("running", "batch")} | {("group_norm", "running")}
    assert (
        modes["batch_norm", "batch"] == modes["batch_norm", "running"] + 4
    )  # other mates, known ones, one size, from running
    cells = {(row["norm"], *(row[name] for name in Cell._fields)) for row in result["rows"]}
    assert len(cells) == len(result["rows"])
    assert {row["source"] for row in result["rows"] if row["norm"] == "batch_norm"} == {"", *NETS}
    assert all(0 <= row["right"] <= row["images"] == TEST for row in result["rows"])
    assert {attack for _, _, attack, *_ in cells} | {"pgd_restarts"} == {"clean", "transfer", *ATTACKS}
    assert [t["norm"] for t in result["trainings"]] == list(NETS)
    for training in result["trainings"]:
        (epoch,) = training["history"]
        assert (epoch["forward"], epoch["backward"]) == (2, 2)
        assert {"running", "running_loss"} <= epoch["scores"].keys()
        weights = tmp_path / "all" / f"resnet20-{training['norm']}-natural-0.safetensors"
        Subject("resnet20", training["norm"], 0).build().load_state_dict(load_file(weights))
    assert {guard["name"] for guard in result["guards"]} == {
        "stronger is worse", "falls to chance", "black box no better", "other mates"
    }  # fmt: skip


def test_adversarial_training(run):
    result = run("all", "--norms", "none", "batch_norm", "--trainings", "adversarial")
    for training in result["trainings"]:
        (epoch,) = training["history"]
        assert (epoch["forward"], epoch["backward"]) == (2 * 8, 2 * 8)
        assert next(iter(epoch["scores"])) == "attacked"
    assert {row["training"] for row in result["rows"]} == {"adversarial"}


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_trained_saved_and_attacked(norm, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "resnet20", small)
    monkeypatch.setattr(models, "fixup_resnet20", without_norm)
    data = Data.load(folder, train=256, validation=20, test=10, device=torch.device("cpu"))
    subject, preset = Subject("resnet20", norm, 0), cifar10.PRESETS["quick"]
    cells = Cells(tmp_path / "cells.jsonl", {})
    if norm == "abnn":
        assert cifar10.train(subject, data, preset, tmp_path, cells) is None
        substitute = cifar10.train(replace(subject, norm="batch_norm"), data, preset, tmp_path, cells)
    net = cifar10.train(subject, data, preset, tmp_path, cells)
    if norm == "abnn":
        for name, value in substitute.net.state_dict().items():
            assert torch.equal(net.net.substitute.state_dict()[name], value)
    loaded = cifar10.train(subject, data, preset, tmp_path, cells)
    for mode in subject.modes:
        one, two = (
            cifar10_cells.Bench(subject, n, data.test, data.test_labels, tmp_path / name)
            for name, n in (("one", net), ("two", loaded))
        )
        for bench in (one, two):
            bench.folder.mkdir(exist_ok=True)
        for cell in (Cell(mode, "clean", 0.0), Cell(mode, "fgsm", EPS), Cell(mode, "bim_5", 5 / 255)):
            assert one.right(cell) == two.right(cell)
        assert one.right(Cell(mode, "fgsm", 0.5)) <= one.right(Cell(mode, "clean", 0.0))


def test_without_tracking_is_the_batch_mode(folder):
    """Training the same, bit for bit; evaluation as with the batch's statistics."""
    data = Data.load(folder, train=256, validation=20, test=20, device=torch.device("cpu"))

    def train(net):
        fit(
            net,
            lambda epoch: Shuffled(data.train, data.train_labels, epoch),
            nn.functional.cross_entropy,
            epochs=2,
        )
        return net

    def network(**options):
        torch.manual_seed(0)
        return small(lambda channels: nn.BatchNorm2d(channels, **options))

    tracked, untracked = train(network()), train(network(track_running_stats=False))
    for name, value in untracked.state_dict().items():
        assert torch.equal(tracked.state_dict()[name], value)
    batch = Subject("resnet20", "batch_norm", 0).in_mode(tracked, "batch")
    with torch.no_grad():
        torch.testing.assert_close(batch(data.test), untracked(data.test))
        assert not torch.allclose(tracked(data.test), untracked(data.test))


def test_the_columns_of_the_papers_alone(run, monkeypatch):
    alone = replace(cifar10.PRESETS["quick"], all_attacks=False)
    monkeypatch.setitem(cifar10.PRESETS, "quick", alone)
    rows = run("few", "--norms", "batch_norm")["rows"]
    wanted = [cell for mode in ("running", "batch") for cell in cifar10_cells.first_cells(mode)]
    assert [Cell(*(row[name] for name in Cell._fields)) for row in rows] == wanted


def test_restarts_are_left_out_where_one_start_leaves_nothing(tmp_path):
    cells = Cells(tmp_path / "cells.jsonl", {})
    subject, once = Subject("resnet20", "lasso", 0), Cell("batch", "pgd", 0.03)
    cells.add(cifar10.row(subject, once, 500, 1))
    assert not cifar10.needless(subject, once._replace(attack="pgd_restarts"), cells)
    cells.add(cifar10.row(subject, once, 500, 0))
    assert cifar10.needless(subject, once._replace(attack="pgd_restarts"), cells)
    assert not cifar10.needless(subject, once._replace(attack="pgd_l2"), cells)
    assert not cifar10.needless(subject, Cell("running", "pgd_restarts", 0.03), cells)


def test_transferred_images_are_those_of_the_source(run, tmp_path, folder):
    """Seen by hand: the source's attacked images, given to another network."""
    result = run("all", "--norms", "batch_norm", "group_norm")
    data = Data.load(folder, train=256, validation=20, test=TEST, device=torch.device("cpu"))
    images = load_file(tmp_path / "all" / "attacked" / "resnet20-batch_norm-natural-0-running.safetensors")["images"]
    assert 0 < float((images - data.test).abs().max()) <= EPS + 1e-6
    subject = Subject("resnet20", "group_norm", 0)
    net = subject.build().eval()
    net.load_state_dict(load_file(tmp_path / "all" / f"{subject}.safetensors"))
    right = int((net(images).argmax(1) == data.test_labels).sum())
    (row,) = (r for r in result["rows"] if r["norm"] == "group_norm" and r["source"] == "batch_norm")
    assert row["right"] == right


def test_the_shares_have_equally_many_of_each_norm():
    everyone = subjects(("resnet20",), NORMS[:4], ("natural",), (0, 1))
    assert len(set(everyone)) == 8
    for share in (0, 1):
        assert sorted(s.norm for s in everyone[share::2]) == sorted(NORMS[:4])


def test_networks_without_normalization_exist_where_fixup_does():
    everyone = subjects(("resnet20", "resnet9"), ("none", "batch_norm"), ("natural",), (0,))
    assert [(s.net, s.norm) for s in everyone] == [
        ("resnet20", "none"), ("resnet20", "batch_norm"), ("resnet9", "batch_norm")
    ]  # fmt: skip


# --- guards --------------------------------------------------------------------------------------------------------


def rows(mode="running", **right):
    """Rows of one network; names are attack, strength in thousandths, and mates or source."""
    subject = vars(Subject("resnet20", "batch_norm", 0))
    for name, count in right.items():
        attack, eps, other = (*name.split("_"), "")[:3]
        mates = other if other in ("other", "known") else "same"
        cell = Cell(mode, attack, float(eps) / 1000, mates=mates, source=other if mates == "same" else "")
        yield {**subject, **cell._asdict(), "images": 500, "right": count}


HONEST = {"clean_0": 450, "pgd_30": 50, "fgsm_30": 100, "pgd_900": 10, "transfer_30_stein": 300}


def verdicts(mode="running", **right):
    return [(guard["name"], guard["passed"]) for guard in cifar10_guards.guards(list(rows(mode, **right)))]


def test_honest_rows_pass():
    assert verdicts(**HONEST) == [
        ("stronger is worse", True),
        ("stronger is worse", True),
        ("falls to chance", True),
        ("black box no better", True),
    ]
    mates = {"pgd_30_other": 60, "pgd_30_known": 55}
    assert verdicts("batch", **HONEST, **mates)[-1] == ("other mates", True)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"pgd_30": 200, "pgd_100": 300}, ["stronger is worse", "stronger is worse"]),
        ({"pgd_30": 200}, ["stronger is worse"]),
        ({"pgd_900": 90, "pgd_30": 90}, ["falls to chance"]),
        ({"transfer_30_other": 10, "transfer_30_lasso": 5}, ["black box no better"]),
    ],
)
def test_dishonest_rows_fail(change, failed):
    assert [name for name, passed in verdicts(**{**HONEST, **change}) if passed is False] == failed


def test_defences_that_hang_on_the_mates_fail():
    mates = {"pgd_30": 200, "fgsm_30": 250, "pgd_30_other": 210, "pgd_30_known": 60}
    assert [name for name, passed in verdicts("batch", **{**HONEST, **mates}) if passed is False] == ["other mates"]


# --- data ----------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_every_image_once():
    images = torch.arange(64, dtype=torch.uint8)[:, None, None, None].expand(64, 3, 32, 32).clone() + 100
    batches = Shuffled(images, torch.arange(64), seed=3, size=20)
    seen = torch.cat([labels for _, labels in batches])
    assert (len(batches), len(set(seen.tolist()))) == (3, 60)
    for x, labels in batches:
        assert torch.equal(x.amax((1, 2, 3)), (labels + 100).float() / 255)
    again, other = (torch.cat([y for _, y in Shuffled(images, torch.arange(64), s, 20)]) for s in (3, 4))
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)


def test_crops_are_parts_of_the_framed_image():
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = augment(images, torch.Generator().manual_seed(0))
    framed = nn.functional.pad(images, [4] * 4)
    for x, frame in zip(changed, framed, strict=True):
        crops = [frame[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
        assert any(torch.equal(x, crop) or torch.equal(x, crop.flip(2)) for crop in crops)


def test_validation_images_are_not_trained_on(folder):
    data = Data.load(folder, train=200, validation=100, test=30, device=torch.device("cpu"))
    shown = {tuple(image.flatten().tolist()) for image in data.train}
    held = {tuple((255 * image).round().int().flatten().tolist()) for image in data.validation}
    assert len(shown) == 200
    assert len(held) == 100
    assert not shown & held
    assert (len(data.test), data.test.dtype, float(data.test.max()) <= 1) == (30, torch.float32, True)
    with pytest.raises(SystemExit, match="there are 300 images, not 250"):
        Data.load(folder, train=250, validation=100, test=30, device=torch.device("cpu"))
