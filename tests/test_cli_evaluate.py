"""`shrinkstats evaluate` and `shrinkstats shift`: their numbers are the library's, nothing measured is lost, and
checkpoints and folders that will not do are named in one line."""

import csv
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("typer", reason="the command line needs the extra cli")
pytest.importorskip("torch", reason="evaluation needs PyTorch")
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from shrinkstats.adapters.commands.application import application
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.evaluate import show
from shrinkstats.adapters.commands.evaluation import data as folders
from shrinkstats.adapters.commands.evaluation import request
from shrinkstats.adapters.commands.evaluation import run as running
from shrinkstats.adapters.commands.evaluation.cells import Cell, Cells
from shrinkstats.adapters.commands.evaluation.data import Condition
from shrinkstats.adapters.commands.evaluation.scores import score
from shrinkstats.adapters.datasets import read_cifar10, read_cifar10c
from shrinkstats.adapters.models import fixup_resnet20, resnet20
from shrinkstats.adapters.robustness import ALEXNET, CORRUPTIONS, corrupt
from shrinkstats.adapters.torch import adapt, calibrate, reset, shift_report
from shrinkstats.estimators import BatchStatistics, PriorBlend, SteinBlend

IMAGES = 12
RUN = ["net.safetensors", "cifar-10-batches-py", "--model", "resnet20"]
SMALL = [*RUN, "--images", str(IMAGES), "--batches", "1,4"]
BRIEF = [*SMALL, "--shifts", "none,contrast:3", "--estimators", "trained,batch"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 60 training and 16 test images, and of a network that has seen some."""
    root = tmp_path_factory.mktemp("made")
    (root / "cifar-10-batches-py").mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        count = 16 if name == "test_batch" else 12
        images = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
        content = {b"labels": rng.integers(0, 10, count).tolist(), b"data": images.reshape(count, -1)}
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content, protocol=4))
    torch.manual_seed(0)
    net = resnet20()
    with torch.no_grad():
        net(prepared(read_cifar10(root, "train")[0]))
    save_file(net.state_dict(), root / "net.safetensors")
    return root


@pytest.fixture
def call(made, tmp_path, monkeypatch):
    """Run a command in a folder with links to the data and the checkpoint."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(application(), list(arguments))


@pytest.fixture
def counted(monkeypatch):
    """The forward passes over all images that were made."""
    calls, before = [], running._ranks

    def ranks(*arguments):
        calls.append(arguments[-2:])
        return before(*arguments)

    monkeypatch.setattr(running, "_ranks", ranks)
    return calls


def prepared(images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))
    return (torch.from_numpy(images.copy()) / 255 - mean) / std


def network(made, calibrated=True, seed=0):
    net = resnet20()
    net.load_state_dict(load_file(made / "net.safetensors"))
    if calibrated:
        train, _ = read_cifar10(made, "train")
        calibrate(net, [prepared(train[np.random.default_rng(seed).permutation(len(train))])])
    return net.eval()


def load(path="evaluation/results.json"):
    return json.loads(Path(path).read_text())


def works(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(result, code, *parts):
    """One line that says what is wrong, no traceback and nothing on standard output."""
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400
    for part in parts:
        assert part in result.stderr


# What is measured


def test_numbers_are_those_of_a_loop_over_batches(call, made):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    text = works(call("evaluate", *SMALL, "--shifts", "none,contrast:3,gaussian_noise:5", "--seed", "5",
                      "--mean", *map(str, mean), "--std", *map(str, std)))  # fmt: skip
    found = load()
    test, labels = read_cifar10(made, "test")
    train, _ = read_cifar10(made, "train")
    places = np.random.default_rng(5).permutation(16)[:IMAGES]
    net = network(made, calibrated=False)
    calibrate(net, [prepared(train[np.random.default_rng(5).permutation(60)], mean, std)])
    rules = {"trained": None, "batch": BatchStatistics(), "prior:16": PriorBlend(16), "stein": SteinBlend()}
    assert len(found["conditions"]) == 3 * 2 * len(rules)
    lines = map(json.loads, Path("evaluation/cells.jsonl").read_text().splitlines()[1:])
    # Trained statistics do not see the batch: kept once, as batch 0.
    kept = {
        (c["shift"], c["estimator"], n): c["ranks"] for c in lines for n in ([c["batch"]] if c["batch"] else [1, 4])
    }
    for row in found["conditions"]:
        reset(net) if rules[row["estimator"]] is None else adapt(net, rules[row["estimator"]])
        images = test[places]
        if row["shift"] != "none":
            images = corrupt(test, row["shift"], row["severity"], seed=5)[places]
        with torch.inference_mode():
            logits = torch.cat([net(x) for x in prepared(images, mean, std).split(row["batch"])])
        # Rounding may put two classes the other way round, once.
        right = logits.gather(1, torch.from_numpy(labels[places])[:, None])
        ranks = (logits > right).sum(1).clamp(max=5).numpy()
        assert (np.array(list(kept[row["shift"], row["estimator"], row["batch"]]), int) != ranks).sum() <= 1
        assert abs(row["top1"] - np.mean(ranks == 0)) < 1.5 / IMAGES
        assert abs(row["top5"] - np.mean(ranks < 5)) < 1.5 / IMAGES
        assert row["images"] == IMAGES
        assert row["top1_interval"][0] <= row["top1"] <= row["top1_interval"][1]
    assert f"{100 * found['shifts'][-1]['top1']:.1f} (" in text
    assert found["calibrated"]
    assert "not calibrated" not in text


def test_files(call):
    text = works(call("evaluate", *SMALL, "--shifts", "none,fog:3,mixed:3", "--estimators", "trained,stein,prior:2.0"))
    assert load()["estimators"] == ["trained", "stein", "prior:2"]
    assert [row["shift"] for row in load()["shifts"][:3]] == ["none", "fog", "mixed"]
    assert "fog:3" in text
    from matplotlib.image import imread

    pixels = imread("evaluation/accuracy.png")
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # something is drawn
    works(call("evaluate", *BRIEF, "--shifts", "none", "--batches", "full", "--output", "one"))
    assert {row["batch"] for row in load("one/results.json")["conditions"]} == {IMAGES}
    row = load("one/results.json")["conditions"][-1]
    assert row["top1_interval"] is None  # a single batch


def test_a_narrow_terminal_has_no_room_for_intervals(call, capsys):
    works(call("evaluate", *BRIEF))
    for width, found in ((60, False), (80, True)):
        show(load(), Console(width=width, force_terminal=True, highlight=False, color_system=None))
        text = capsys.readouterr().out
        assert "…" not in text
        assert ("95% intervals" in " ".join(text.split())) == found
        assert (re.search(r"\d\d? \(\d+\.\d-", text) is not None) == found
        assert max(map(len, text.splitlines())) <= width


# Nothing is lost, nothing overwritten


def test_a_run_goes_on(call, counted):
    works(call("evaluate", *BRIEF, "--output", "whole"))
    assert len(counted) == 2 * (1 + 2)  # trained statistics do not see the batch
    works(call("evaluate", *BRIEF))
    cells, before = Path("evaluation/cells.jsonl"), Path("evaluation/results.json").read_bytes()
    assert before == Path("whole/results.json").read_bytes()
    content = cells.read_bytes()
    cells.write_bytes(content[:-20])  # stopped while a line was written
    Path("evaluation/results.json").unlink()
    counted.clear()
    works(call("evaluate", *BRIEF))
    assert len(counted) == 1
    assert cells.read_bytes() == content
    assert Path("evaluation/results.json").read_bytes() == before
    works(call("evaluate", *BRIEF))
    assert len(counted) == 1
    works(call("evaluate", *BRIEF[:-1], "trained,batch,prior:4"))
    assert counted[1:] == [(n, PriorBlend(4)) for _ in range(2) for n in (1, 4)]


def test_interrupted(call, monkeypatch):
    works(call("evaluate", *BRIEF, "--output", "whole"))
    measured, before = [], running._ranks

    def ranks(*arguments):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(arguments)
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(running, "_ranks", ranks)
        result = call("evaluate", *BRIEF)
    assert result.exit_code == 130
    assert "3 numbers are kept" in result.stderr
    assert len(Path("evaluation/cells.jsonl").read_text().splitlines()) == 1 + 3
    works(call("evaluate", *BRIEF))
    assert load() == load("whole/results.json")


def test_other_results_stay(call, counted):
    works(call("evaluate", *BRIEF))
    before = {path: path.read_bytes() for path in Path("evaluation").iterdir()}
    fails(call("evaluate", *BRIEF, "--seed", "1"), 2, "cells.jsonl", "seed was 0, now 1", "--force")
    fails(call("evaluate", *BRIEF, "--images", "8"), 2, "images was 12, now 8")
    assert {path: path.read_bytes() for path in Path("evaluation").iterdir()} == before
    counted.clear()
    works(call("evaluate", *BRIEF, "--seed", "1", "--force"))
    assert len(counted) == 6
    assert load()["settings"]["seed"] == 1
    Path("other").mkdir()
    Path("other/results.json").write_text("mine")
    fails(call("evaluate", *BRIEF, "--output", "other"), 2, "results.json exists", "--force")
    assert Path("other/results.json").read_text() == "mine"
    fails(call("evaluate", *BRIEF, "--output", "net.safetensors"), 2, "not a folder")


@given(st.lists(st.lists(st.integers(0, 99), min_size=12, max_size=12), max_size=4), st.sampled_from([1, 3, 4, 12]))
def test_cells_keep_all_that_matters(tmp_path_factory, several, size):
    path = tmp_path_factory.mktemp("cells") / "cells.jsonl"
    cells = Cells(path, {"images": 12})
    for severity, ranks in enumerate(several):
        cells.add(Cell("fog", severity, size, "batch"), np.array(ranks))
    again = Cells(path, {"images": 12})
    assert again == cells
    conditions = [Condition("fog", severity) for severity in range(len(several))]
    if several:
        found = score(again, conditions, [size], ["batch"])
        for row, ranks in zip(found["conditions"], several, strict=True):
            assert row["top1"] == pytest.approx(np.mean(np.array(ranks) == 0))
            assert row["top5"] == pytest.approx(np.mean(np.array(ranks) < 5))
        assert found["shifts"][-1]["top1"] == pytest.approx(np.mean(np.array(several) == 0))


@pytest.mark.parametrize(
    "line",
    ["x", "[1]", '{"shift": 1}', '{"shift": "fog", "severity": 1, "batch": 1, "estimator": "batch", "ranks": "0"}',
     '{"shift": "fog", "severity": 1, "batch": 1, "estimator": "batch", "ranks": "00000x"}'],
)  # fmt: skip
def test_lines_that_are_not_cells_are_refused(tmp_path, line):
    path = tmp_path / "cells.jsonl"
    Cells(path, {"images": 6}).add(Cell("fog", 2, 0, "trained"), np.zeros(6, int))
    content = path.read_text()
    path.write_text(content + line + "\n")
    with pytest.raises(ValueError, match=r"cells.jsonl, line 3: damaged.*--force"):
        Cells(path, {"images": 6})
    assert path.read_text() == content + line + "\n"
    assert list(Cells(path, {"images": 6}, force=True)) == [Cell("fog", 2, 0, "trained")]
    assert path.read_text() == content
    path.write_text(content + line)  # a run that was stopped while it wrote
    assert list(Cells(path, {"images": 6})) == [Cell("fog", 2, 0, "trained")]
    assert path.read_text() == content


def test_cells_of_older_runs_have_no_checksum(tmp_path):
    path = tmp_path / "cells.jsonl"
    cell = {"shift": "fog", "severity": 1, "batch": 1, "estimator": "batch", "ranks": "012345"}
    path.write_text(json.dumps({"images": 6}) + "\n" + json.dumps(cell) + "\n")
    assert list(Cells(path, {"images": 6})) == [Cell("fog", 1, 1, "batch")]


# Scores


def test_mce_where_everything_is_there(tmp_path):
    rng = np.random.default_rng(0)
    cells = Cells(tmp_path / "cells.jsonl", {"images": 20})
    conditions = [Condition(name, k) for name in CORRUPTIONS for k in (1, 2, 3, 4, 5)]
    wrong = {}
    for condition in conditions:
        ranks = rng.integers(0, 7, 20)
        cells.add(Cell(*condition, 4, "batch"), ranks)
        wrong[condition] = np.mean(ranks > 0)
    expected = np.mean([sum(wrong[name, k] for k in (1, 2, 3, 4, 5)) / sum(ALEXNET[name]) for name in CORRUPTIONS])
    found = score(cells, conditions, [4], ["batch"], mce=True)
    assert found["mce"] == [{"estimator": "batch", "batch": 4, "mce": pytest.approx(expected)}]
    by_shift = {row["shift"]: row for row in found["shifts"]}
    assert by_shift["fog"]["top1"] == pytest.approx(1 - np.mean([wrong["fog", k] for k in (1, 2, 3, 4, 5)]))
    assert by_shift["mean"]["top1"] == pytest.approx(1 - np.mean(list(wrong.values())))
    low, high = by_shift["mean"]["top1_interval"]
    assert high - low < np.subtract(*by_shift["fog"]["top1_interval"][::-1])  # of many images
    assert "mce" not in score(cells, conditions, [4], ["batch"])
    assert "mce" not in score(cells, conditions[1:], [4], ["batch"], mce=True)


# Checkpoints


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


def change(path, **tensors):
    state = load_file("net.safetensors")
    save_file({k: v for k, v in (state | tensors).items() if v is not None}, path)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3}]
)
def test_checkpoints_of_pytorch(call, wrap):
    works(call("evaluate", *BRIEF))
    torch.save(wrap(load_file("net.safetensors")), "net.pt")
    works(call("evaluate", "net.pt", *BRIEF[1:], "--output", "second"))
    assert load()["conditions"] == load("second/results.json")["conditions"]


def test_a_calibrated_checkpoint_needs_no_training_images(call, made, tmp_path):
    save_file(network(made).state_dict(), "calibrated.safetensors")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_batch").write_bytes((made / "cifar-10-batches-py" / "test_batch").read_bytes())
    options = ["--model", "resnet20", *SMALL[4:], "--shifts", "contrast:5", "--estimators", "stein"]
    works(call("evaluate", "net.safetensors", "cifar-10-batches-py", *options))
    assert "not calibrated" not in works(call("evaluate", "calibrated.safetensors", "test", *options, "--output", "b"))
    assert load()["conditions"] == load("b/results.json")["conditions"]
    assert "not calibrated" in works(call("evaluate", "net.safetensors", "test", *options, "--output", "c"))
    given = ["--training-data", "cifar-10-batches-py"]
    works(call("evaluate", "net.safetensors", "test", *options, *given, "--output", "d"))
    assert load()["conditions"] == load("d/results.json")["conditions"]


def test_as_many_outputs_as_the_checkpoint(call):
    change("net100.safetensors", **{"linear.weight": torch.zeros(100, 64), "linear.bias": torch.zeros(100)})
    fails(call("evaluate", "net100.safetensors", *RUN[1:]), 2, "CIFAR-10, of 10 classes", "100 outputs")
    change("net7.safetensors", **{"linear.weight": torch.zeros(7, 64)})
    fails(call("evaluate", "net7.safetensors", *RUN[1:]), 1, "linear.bias has shape 10, expected 7")


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"bn1.weight": None}, ["resnet20 needs bn1.weight", "lacks"]),
        ({"linear.weight": None}, ["linear.weight is missing"]),
        ({"bn1.weight": torch.ones(17)}, ["bn1.weight has shape 17, expected 16"]),
        ({"fc.weight": torch.ones(1)}, ["holds fc.weight", "does not have"]),
        ({"layer1.0.conv1.weight": torch.full((16, 16, 3, 3), torch.nan)}, ["layer1.0.conv1.weight holds NaN"]),
        ({"bn1.running_var": torch.full((16,), torch.inf)}, ["bn1.running_var holds NaN or infinity"]),
    ],
)
def test_tensors_that_will_not_do(call, tensors, parts):
    change("bad.safetensors", **tensors)
    fails(call("evaluate", "bad.safetensors", *RUN[1:]), 1, "bad.safetensors", *parts)
    assert not Path("evaluation").exists()


def test_another_network(call):
    fails(call("evaluate", *RUN[:3], "resnet32"), 1, "a resnet32 needs layer1.3.conv1.weight", "more", "--model")
    fails(call("evaluate", *RUN[:3], "vgg16"), 1, "classifier.weight is missing")
    fails(call("evaluate", *RUN[:3], "lenet"), 2, "unknown network 'lenet'", "resnet20", "vgg16")


def test_no_counters_are_needed(call):
    change("old.safetensors", **{k: None for k in load_file("net.safetensors") if k.endswith("num_batches_tracked")})
    works(call("evaluate", "old.safetensors", *BRIEF[1:]))


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0, 5, 100, 10000, -1])
def test_checkpoints_cut_short(call, ending, keep):
    torch.save(load_file("net.safetensors"), "net.pt")
    Path(f"cut.{ending}").write_bytes(Path(f"net.{ending}").read_bytes()[:keep])
    fails(call("evaluate", f"cut.{ending}", *RUN[1:]), 1, f"cut.{ending}: ")


def test_checkpoints_that_are_not_tensors(call, capsys):
    for content in ({"a": Hostile()}, resnet20()):
        torch.save(content, "bad.pt")
        fails(call("evaluate", "bad.pt", *RUN[1:]), 1, "more than tensors", "state_dict()")
    Path("bad.pt").write_bytes(pickle.dumps({"a": Hostile()}))
    fails(call("evaluate", "bad.pt", *RUN[1:]), 1, "bad.pt")
    assert "this must not run" not in capsys.readouterr().out
    torch.save([1, 2], "bad.pt")
    fails(call("evaluate", "bad.pt", *RUN[1:]), 1, "dictionary of tensors, found list")
    torch.save({"a": 1}, "bad.pt")
    fails(call("evaluate", "bad.pt", *RUN[1:]), 1, '"a": int')
    fails(call("evaluate", "no.pt", *RUN[1:]), 2, "no.pt: no such file")
    fails(call("evaluate", "net.onnx", *RUN[1:]), 2, ".safetensors, .pt")


def test_networks_without_batch_norm(call):
    save_file(fixup_resnet20().state_dict(), "fixup.safetensors")
    run = ["fixup.safetensors", *BRIEF[1:3], "fixup_resnet20", *BRIEF[4:-1]]
    works(call("evaluate", *run, "trained"))
    fails(call("evaluate", *run, "trained,batch"), 1, "no batch norm layers")


# Data


def test_cifar10c(call, made, tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(rng.integers(0, 10, 16).astype(np.uint8), 5))
    for name in ("fog", "saturate"):
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8))
    run = ["net.safetensors", "CIFAR-10-C", "--model", "resnet20", "--batches", "4", "--estimators", "batch,stein"]
    text = works(call("evaluate", *run, "--training-data", "cifar-10-batches-py"))
    assert "not calibrated" not in text
    found = load()
    assert [row["shift"] for row in found["shifts"]] == ["fog", "mean"] * 2
    assert "mce" not in found
    net = adapt(network(made), BatchStatistics())
    places = np.random.default_rng(0).permutation(16)
    for row in found["conditions"][:5]:
        images, labels = read_cifar10c(folder, "fog", row["severity"])
        with torch.inference_mode():
            guesses = torch.cat([net(x).argmax(1) for x in prepared(images[places]).split(4)])
        assert abs(row["top1"] - np.mean(guesses.numpy() == labels[places])) < 1.5 / 16
    fails(call("evaluate", *run, "--shifts", "none"), 2, "CIFAR-10-C has no clean images")
    fails(call("evaluate", *run, "--shifts", "snow:1"), 2, "'snow'", "fog", "saturate")
    works(call("evaluate", *run, "--shifts", "saturate:2", "--output", "b"))
    Path("CIFAR-10-C/fog.npy").write_bytes(Path("CIFAR-10-C/fog.npy").read_bytes()[:-1])
    result = call("evaluate", *run, "--output", "c")
    assert result.exit_code == 1
    assert "fog.npy" in result.stderr


def test_imagenet_c(call, tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="reading JPEG files needs Pillow")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save("a.jpeg")
    content = Path("a.jpeg").read_bytes()
    for k in range(1000):
        (tmp_path / f"imagenet/fog/3/n{k:08}").mkdir(parents=True)
        (tmp_path / f"imagenet/fog/3/n{k:08}/a.JPEG").write_bytes(content)
    change("net1000.safetensors", **{"linear.weight": torch.randn(1000, 64), "linear.bias": torch.zeros(1000)})
    run = ["net1000.safetensors", "imagenet", "--model", "resnet20", "--images", "4", "--batches", "4"]
    works(call("evaluate", *run, "--shifts", "fog:3", "--estimators", "trained"))
    assert load()["settings"]["kind"] == "ImageNet-C"
    assert load()["conditions"][0]["images"] == 4
    assert "mce" not in load()
    fails(call("evaluate", "net.safetensors", *run[1:]), 2, "1000 classes", "10 outputs")


def test_the_mixed_set_is_dealt(call, made):
    data = folders.open_data(made, 10, seed=2)
    places = np.random.default_rng(1).permutation(16)
    images, labels = folders.read(data, Condition("mixed", 5), places, 2)
    test, right = read_cifar10(made, "test")
    kinds = [name for name in CORRUPTIONS if name != "frost"]
    made_of = np.stack([corrupt(test, name, 5, seed=2) for name in kinds])
    equal = (made_of[None] == images[:, None, None]).all((3, 4, 5))
    assert equal.any((1, 2)).all()
    first = [np.argwhere(e)[0] for e in equal]
    assert sorted(place for _, place in first) == list(range(16))
    assert [right[place] for _, place in first] == labels.tolist()
    assert len({kind for kind, _ in first}) > 7
    assert [place for _, place in first] != places.tolist()


def test_frost_takes_pictures(call, tmp_path):
    fails(call("evaluate", *BRIEF[:-4], "--shifts", "frost:1"), 2, "pictures of frost", "--frost")
    Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    (tmp_path / "frost").mkdir()
    fails(call("evaluate", *BRIEF, "--frost", "frost"), 2, "no .png or .jpg in frost")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save("frost/a.png")
    given = ["--frost", "frost", "--estimators", "trained", "--shifts"]
    text = works(call("evaluate", *SMALL, *given, "frost:1,frost:2"))
    assert "without frost" not in text
    Path("frost/a.png").write_bytes(Path("frost/a.png").read_bytes()[:50])
    fails(call("evaluate", *SMALL, *given, "frost:1"), 1, "a.png cannot be read")


def test_folders_that_will_not_do(call, made, tmp_path):
    def run(folder):
        return call("evaluate", "net.safetensors", folder, *BRIEF[2:-1], "stein")

    fails(run("nowhere"), 2, "nowhere: no such folder")
    fails(run("net.safetensors"), 2, "not a folder")
    (tmp_path / "empty").mkdir()
    fails(run("empty"), 2, "it holds nothing", "cifar-10-batches-py")
    (tmp_path / "empty" / "labels.npy").touch()
    fails(run("empty"), 2, "no corruption")
    (tmp_path / "bad" / "cifar-10-batches-py").mkdir(parents=True)
    fails(run("bad"), 1, "test_batch is missing")
    test = tmp_path / "bad" / "cifar-10-batches-py" / "test_batch"
    test.write_bytes((made / "cifar-10-batches-py" / "test_batch").read_bytes()[:1000])
    fails(run("bad"), 1, "test_batch cannot be read")
    test.write_bytes((made / "cifar-10-batches-py" / "test_batch").read_bytes())
    (tmp_path / "bad" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
    result = run("bad")
    assert result.exit_code == 1
    assert "data_batch_1 cannot be read" in result.stderr
    assert result.stderr.count("\n") == 1
    fails(call("evaluate", *RUN, "--training-data", "empty"), 2, "no CIFAR training images of 10 classes in empty")


# Requests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", [("none", 0)]),
        ("fog:3, snow:1 fog:3", [("fog", 3), ("snow", 1)]),
        ("fog", [("fog", k) for k in (1, 2, 3, 4, 5)]),
        ("mixed,mixed:2", [("mixed", 0), ("mixed", 2)]),
        ("all:4", [(name, 4) for name in CORRUPTIONS if name != "frost"]),
        ("spatter:1", [("spatter", 1)]),
    ],
)
def test_conditions(made, text, expected):
    assert request.conditions(text, folders.open_data(made, 10)) == expected


@pytest.mark.parametrize("text", ["", " ,", "Fog", "fog:", "fog:0", "fog:6", "fog:x", "none:1", "frost:1", "all:all"])
def test_conditions_that_are_not(made, text):
    with pytest.raises(UsageError, match="--shifts"):
        request.conditions(text, folders.open_data(made, 10))


def test_sizes_and_estimators():
    assert request.sizes("64 1,8,8 full", 100) == [1, 8, 64, 100]
    assert request.estimators("stein,prior:inf trained prior:0.5") == {
        "stein": SteinBlend(), "prior:inf": PriorBlend(np.inf), "trained": None, "prior:0.5": PriorBlend(0.5),
    }  # fmt: skip
    for text in ("", "0", "-1", "1.5", "101", "x", "9" * 5000, "²"):
        with pytest.raises(UsageError, match="--batches"):
            request.sizes(text, 100)
    for text in ("", "Stein", "prior", "prior:", "prior:x", "prior:-1", "prior:nan", "stein:1"):
        with pytest.raises(UsageError, match="--estimators"):
            request.estimators(text)


def test_requests_that_make_no_sense(call):
    fails(call("evaluate", *RUN, "--estimators", "magic"), 2, "'magic'", "stein")
    fails(call("evaluate", *RUN, "--batches", "17"), 2, "the 16 images", "'17'")
    fails(call("evaluate", *RUN, "--shifts", "rain"), 2, "unknown shift 'rain'", "fog")
    fails(call("evaluate", *RUN, "--std", "1", "0", "1"), 2, "--std above 0")
    assert not Path("evaluation").exists()


# Shift


def test_shift_is_the_report_of_the_library(call, made):
    run = ["shift", *RUN, "--images", str(IMAGES), "--batch", "4", "--shift", "contrast:5"]
    text = works(call(*run, "--output", "out.csv", "--picture", "out.png"))
    test, _ = read_cifar10(made, "test")
    x = prepared(corrupt(test, "contrast", 5)[np.random.default_rng(0).permutation(16)[:IMAGES]])
    expected = shift_report(network(made), x.split(4))
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [row["layer"] for row in expected.rows]
    for found, row in zip(rows, expected.rows, strict=True):
        for name in ("distance", "noise", "weight_mean", "weight_sd", "strength_mean", "strength_bound"):
            assert float(found[name]) == pytest.approx(row[name], rel=1e-3), name
        assert f"{float(found['distance']):.3g}" in text
    assert "12 images in batches of 4; calibrated noise" in text
    assert f"Mean distance {expected.distance:.3g}" in text
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    Path("out.json").write_text("mine")
    fails(call(*run, "--output", "out.json"), 2, "out.json exists", "--force")
    assert Path("out.json").read_text() == "mine"
    works(call(*run, "--output", "out.json", "--force"))
    assert load("out.json")["distance"] == pytest.approx(expected.distance, rel=1e-4)


def test_shift_errors(call):
    fails(call("shift", *RUN, "--shift", "fog"), 2, "one shift at one severity", "fog:3")
    fails(call("shift", *RUN, "--output", "out.npz"), 2, ".csv, .json")
    save_file(fixup_resnet20().state_dict(), "fixup.safetensors")
    fails(call("shift", "fixup.safetensors", RUN[1], "--model", "fixup_resnet20"), 1, "no batch norm layers")
    fails(call("shift", "no.pt", *RUN[1:]), 2, "no such file")
