"""Published tables, and the tables and pictures that are made of recorded accuracies."""

import json

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
cifar_tables = pytest.importorskip("benchmarks.cifar10.tables", reason="the benchmarks are not on the path")

from benchmarks.cifar10 import pictures as cifar_pictures  # noqa: E402
from benchmarks.cifar10.results import Setting, published, settings  # noqa: E402
from benchmarks.lab import record  # noqa: E402
from benchmarks.lab.norms import norm_name  # noqa: E402
from benchmarks.lab.tables import OverSeeds, of_seeds  # noqa: E402

# clean, Gaussian noise, FGSM, BIM, PGD
SUMS = {
    (2, "cifar10"): [516.62, 429.26, 314.67, 290.07, 291.34],
    (4, "cifar10"): [2743.7, 2359.85, 1779.48, 1707.12, 1642.51],
    (5, "cifar100"): [2030.32, 1418.32, 1020.21, 977.08, 925.09],
}
MACHINE = {"processor": "P", "cores": 1, "python": "3", "numpy": "2", "torch": "2"}


def cell(norm, mode, seed, attack, eps, right, **more):
    row = {"net": "resnet20", "norm": norm, "seed": seed, "training": "natural", "mode": mode}
    return {**row, "attack": attack, "eps": eps, "batch": 100, "mates": "same", "source": "", **more} | {
        "images": 1000,
        "right": right,
    }


def guard(norm, mode, seed, name, passed, detail="1 above 2"):
    row = {"net": "resnet20", "norm": norm, "seed": seed, "training": "natural", "mode": mode}
    return {**row, "name": name, "passed": passed, "detail": detail}


def history(*scores):
    return [
        {"epoch": i, "loss": 1.0, "seconds": 60.0, "forward": 10, "backward": 10, "scores": s}
        for i, s in enumerate(scores)
    ]


@pytest.fixture
def result(monkeypatch, tmp_path):
    """Two norms: one whole, one of a single seed with little measured."""
    rows = [
        cell("batch_norm", mode, seed, attack, eps, right + 10 * seed)
        for seed in (0, 1, 2)
        for mode, drop in (("running", 0), ("batch", 20))
        for attack, eps, right in (
            ("clean", 0.0, 900 - drop),
            ("pgd", 0.01, 600),
            ("pgd", 0.03, 300 + drop),
            ("fgsm", 0.03, 500),
        )
    ]
    rows += [cell("batch_norm", "batch", 0, "clean", 0.0, 500, batch=4)]
    rows += [cell("batch_norm", "batch", 0, "pgd", 0.03, 200, mates="other")]
    rows += [cell("batch_norm", "batch", 0, "transfer", 0.03, 150, source="batch_norm")]
    rows += [cell("batch_norm", "running", seed, "fgsm", 0.0075, 700) for seed in (0, 1, 2)]  # 0.03 deviations
    rows += [cell("robust_norm", "running", 0, "clean", 0.0, 800)]
    rows += [cell("robust_norm", "running", 0, "transfer", 0.03, 700, source="batch_norm")]
    good = history({"running": 0.5, "batch": 0.6}, {"running": 0.8, "batch": 0.7}, {"running": 0.7, "batch": 0.9})
    subject = {"net": "resnet20", "training": "natural"}
    content = {
        "command": "python -m benchmarks.cifar10",
        "date": "2026-01-01",
        "machine": MACHINE,
        "trainings": [
            {**subject, "norm": "batch_norm", "seed": 0, "history": good},
            {**subject, "norm": "robust_norm", "seed": 0, "history": [], "failed": "the loss is nan"},
        ],
        "rows": rows,
        "guards": [
            guard("batch_norm", "running", 0, "stronger is worse", True),
            guard("batch_norm", "running", 1, "stronger is worse", False),
            guard("batch_norm", "batch", 0, "other mates", None),
        ],
    }
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    (tmp_path / "some.json").write_text(json.dumps(content))
    return content


def lines(table):
    """The cells of a table's rows by the first of them."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in rows}


def test_the_interval_is_students():
    values = [91.0, 92.5, 90.0, 93.0]
    found = of_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert str(of_seeds([50.0])) == "50.0"
    assert of_seeds([50.0]) == OverSeeds(50.0, None, (50.0,))


def test_settings_are_grouped_and_in_order():
    rows = [cell(norm, mode, 0, "clean", 0, 1) for norm in ("none", "lasso") for mode in ("batch", "running")]
    assert [s[2:] for s in settings(rows)] == [
        ("none", "running"),
        ("none", "batch"),
        ("lasso", "running"),
        ("lasso", "batch"),
    ]
    assert Setting("resnet20", "natural", "none", "running").label == "none (Fixup)"
    assert norm_name("robust_norm_0.05") == "RobustNorm, p = 0.05"


def test_attacked(result):
    table = cifar_tables.attacked("some")
    found = lines(table)
    assert found["accuracy, %"] == ["clean", "FGSM", "PGD"]
    half = stats.t.ppf(0.975, 2) * 1.0 / 3**0.5  # of 30, 31 and 32
    assert found["batch norm, running statistics"][2] == f"31.0 ± {half:.1f}<sup>s</sup>"
    assert found["batch norm, running statistics"][0] == f"91.0 ± {half:.1f}"  # no guard speaks of clean images
    assert found["batch norm, batch statistics"][2] == f"33.0 ± {half:.1f}"  # and none failed in this mode
    assert found["RobustNorm, running statistics"] == ["80.0", "", ""]
    assert "1,000 test images, 3 seeds" in table
    assert "(s stronger is worse)" in table


def test_beside_published(result):
    found = lines(cifar_tables.beside_published("some"))
    assert found["RobustNorm paper, table 2: BatchNorm"] == [
        "92.05 ± 0.34",
        "59.16 ± 6.74",
        "33.75 ± 0.99",
        "25.43 ± 2.37",
        "29.73 ± 0.86",
    ]
    in_pixels, in_deviations = (
        found[f"**batch norm, running statistics**; {unit}"] for unit in ("range of a pixel", "standard deviation")
    )
    assert [in_pixels[2][:4], in_deviations[2][:4]] == ["51.0", "70.0"]
    assert in_pixels[0] == in_deviations[0]  # clean images have no strength
    assert found["RobustNorm paper, table 2: BatchNorm w/o Tracking"][4] == "48.54 ± 0.91"
    assert found["RobustNorm paper, table 3: RobustNorm with tracking"] == ["91.97 ± 0.30", "", "", "", ""]
    assert not any("No Norm" in name or "RobustNorm w/o" in name for name in found)  # nothing of ours to compare


def test_mates_transfers_guards_and_trainings(result):
    assert lines(cifar_tables.mates("some"))["batch norm, batch statistics"][1:] == ["20.0", "", "15.0"]
    found = lines(cifar_tables.transferred("some"))
    assert found["RobustNorm, running statistics"] == ["70.0"]
    assert found["batch norm, batch statistics"][0].startswith("*33.0")
    found = lines(cifar_tables.guarded("some"))
    assert found["batch norm, running statistics"] == ["1 of 2; 1 above 2", ""]
    assert found["batch norm, batch statistics"] == ["", ""]
    found = lines(cifar_tables.trained("some"))
    assert found["batch norm"] == ["3", "30 + 30", "80.0", "70.0", ""]  # of the epoch that running chose
    assert found["RobustNorm"][-1] == "1 of 1"


def test_tables_are_bound_to_their_result(result):
    made = cifar_tables.tables("some")
    assert made["some_attacked"]() == cifar_tables.attacked("some")
    assert made["some_trained"]() == cifar_tables.trained("some")


def test_pictures_are_drawn_of_what_there_is(result, tmp_path):
    (tmp_path / "some_landscapes.json").write_text(
        json.dumps(
            {
                "coordinates": [-1.0, 0.0, 1.0],
                "rows": [
                    {"net": "resnet20", "training": "natural", "norm": norm, "mode": "running", "losses": losses}
                    for norm, losses in (
                        ("batch_norm", [[9.0, 3.0, 9.0], [2.0, 0.5, 2.0], [9.0, 3.0, float("inf")]]),
                        ("robust_norm", [[float("nan")] * 3] * 3),
                    )
                ],
            }
        )
    )
    written = cifar_pictures.draw("some", tmp_path)
    names = ["some_eps.svg", "some_batch_size.svg", "some_training.svg", "some_landscapes.svg"]
    assert [path.name for path in written] == names  # one power is no curve
    assert all("</svg>" in path.read_text() for path in written)


def test_pictures_of_next_to_nothing(result, tmp_path):
    (tmp_path / "some.json").write_text(json.dumps({**result, "rows": result["rows"][:1], "trainings": []}))
    assert cifar_pictures.draw("some", tmp_path) == []


@pytest.mark.parametrize("paper", ["robustnorm", "abnn"])
def test_published_tables_are_whole(paper):
    content = published(paper)
    assert content["title"]
    assert content["source"]
    rows = [row for table in content["tables"] for row in table["rows"]]
    assert all(0 <= v <= 100 for row in rows for v in row["accuracy"].values())
    assert all(row["interval"].keys() == row["accuracy"].keys() for row in rows if "interval" in row)
    keys = [(t["table"], t["dataset"], *(r.get(n) for n in Setting._fields), r["printed"], *r["accuracy"])
            for t in content["tables"] for r in t["rows"]]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_published_numbers():
    """Sums of the columns, added up from the papers' text."""
    tables = {(t["table"], t["dataset"]): t["rows"] for t in published("robustnorm")["tables"]}
    assert {key: len(rows) for key, rows in tables.items()} == {
        (2, "cifar10"): 6,
        (3, "cifar10"): 8,
        (3, "cifar100"): 8,
        (4, "cifar10"): 32,
        (5, "cifar100"): 32,
    }
    total = {
        key: [round(sum(row["accuracy"][a] for row in rows), 2) for a in ("clean", "gaussian", "fgsm", "bim", "pgd")]
        for key, rows in tables.items()
        if key[0] != 3
    }
    assert total == SUMS


def test_the_guard_on_published_rows():
    table = cifar_tables.published_guarded()
    found = lines(table)
    assert found["table 4, CIFAR-10, vgg11, natural: RoubstNorm"] == ["29.53", "48.69", "25.71", "BIM"]
    assert not any("resnet38" in name for name in found)
    assert "of 70 rows" in table
    assert "PGD 31.5" in cifar_tables.published_abnn()
