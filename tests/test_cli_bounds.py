"""`shrinkstats bounds`: its numbers are the library's, its files hold them, and its errors are one line."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Statistics

pytest.importorskip("typer", reason="the command line needs the extra cli")
from typer.testing import CliRunner

from shrinkstats.adapters.commands.application import application

NUMBERS = ["--source", "0,1", "--target", "0.5,0.25", "-n", "8"]
TABLES = ["--source", "train.json", "--target", "test.json", "-n", "16"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(application(), ["bounds", *arguments])


@pytest.fixture
def tables(call):
    """Statistics of training and test data, as `estimate` writes them, in every format."""
    rng = np.random.default_rng(0)
    found = {}
    for name, scale in (("train", 1.0), ("test", 1.4)):
        x = scale * rng.normal(rng.normal(size=5), 1.0, size=(64, 5))
        np.save(f"{name}.npy", x)
        found[name] = Statistics(x.mean(axis=0), x.var(axis=0))
        for ending in ("json", "csv", "npz"):
            done = CliRunner().invoke(application(), ["estimate", f"{name}.npy", "--output", f"{name}.{ending}"])
            assert done.exit_code == 0
    return found


def load(path):
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
    assert len(result.stderr) < 300
    for part in parts:
        assert part in result.stderr


def numbers(values):
    """With the infinity that JSON has no number for."""
    return np.array(values, dtype=float)


# What it computes and writes


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_numbers_are_those_of_the_library(call, alpha):
    text = works(call(*NUMBERS, "--alpha", str(alpha), "--output", "out.json"))
    source, target = Statistics(np.zeros(1), np.ones(1)), Statistics(np.array([0.5]), np.array([0.25]))
    written = load("out.json")
    assert (written["n"], written["alpha"], written["channel"]) == (8, alpha, ["0"])
    assert [written[k] for k in ("source_mean", "source_var", "target_mean", "target_var")] == [[0], [1], [0.5], [0.25]]
    assert numbers(written["strength"]).tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, np.inf]
    for i, strength in enumerate(numbers(written["strength"])):
        both = shrinkstats.wasserstein_bounds(source, target, n=8, strength=strength, alpha=alpha)
        np.testing.assert_allclose([written["lower"][i], written["upper"][i]], both, rtol=1e-12)
        assert f"{both[0][0]:.6g}" in text
        assert f"{both[1][0]:.6g}" in text
    for k, by in enumerate(("lower", "upper")):
        best = shrinkstats.best_strength(source, target, n=8, bound=by, alpha=alpha)
        assert written["best"][by]["strength"] == best.tolist()
        assert written["best"][by]["common_strength"] == best[0]
        reached = shrinkstats.wasserstein_bounds(source, target, n=8, strength=best, alpha=alpha)
        np.testing.assert_allclose(written["best"][by][by], reached[k], rtol=1e-12)
        assert f"by the {by} bound: {best[0]:.6g}, which makes it {reached[k][0]:.6g}" in text


def test_strengths_of_ones_own(call):
    text = works(call(*NUMBERS, "--strength", "16", "--strength", "inf", "--strength", "0.5", "--output", "out.json"))
    assert load("out.json")["strength"] == [0.5, 16, "inf"]
    assert [line.split()[:2] for line in text.splitlines()[2:5]] == [
        ["0.5", "0.0588235"], ["16", "0.666667"], ["inf", "1"],
    ]  # fmt: skip


def test_small_weights_keep_their_digits(call):
    text = works(call(*NUMBERS[:-1], str(10**18), "--strength", "1", "--strength", "0", "--strength", "inf"))
    assert [line.split()[1] for line in text.splitlines()[2:5]] == ["0", "1e-18", "1"]


@pytest.mark.parametrize("normalized", [[], ["--normalized"]])
def test_tables_of_statistics(call, tables, normalized):
    text = works(call(*TABLES, *normalized, "--output", "out.json"))
    written = load("out.json")
    source, target = tables["train"], tables["test"]
    unit = source.var if normalized else 1.0
    for i, strength in enumerate(numbers(written["strength"])):
        lower, upper = shrinkstats.wasserstein_bounds(source, target, n=16, strength=strength)
        np.testing.assert_allclose(written["lower"][i], lower / unit, rtol=1e-9)
        np.testing.assert_allclose(written["upper"][i], upper / unit, rtol=1e-9)
        assert f"{np.mean(upper / unit):.6g}" in text
    np.testing.assert_allclose(
        numbers(written["best"]["upper"]["strength"]), shrinkstats.best_strength(source, target, n=16), rtol=1e-6
    )
    for k, by in enumerate(("lower", "upper")):
        best = written["best"][by]["common_strength"]

        def mean(strength, k=k):
            return np.mean(shrinkstats.wasserstein_bounds(source, target, n=16, strength=strength)[k] / unit)

        least = min(mean(s) for s in (0, *np.geomspace(1e-3, 1e5, 4001), np.inf))
        assert mean(best) <= least * (1 + 1e-12)
        assert f"by the {by} bound: {best:.6g}, which makes its mean {mean(best):.6g}" in text


def test_every_format_holds_the_same(call, tables):
    with Path("plain.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("mean", "var"), *zip(*(v.tolist() for v in tables["train"]), strict=True)])
    np.savez("plain.npz", mean=tables["train"].mean, var=tables["train"].var)
    expected = works(call(*TABLES))
    for source, target in (("train.csv", "test.npz"), ("train.npz", "test.csv"), ("plain.csv", "test.json")):
        assert works(call("--source", source, "--target", target, "-n", "16")) == expected
    assert works(call("--source", "plain.npz", "--target", "test.json", "-n", "16")) == expected


def test_one_pair_of_numbers_goes_with_every_channel(call, tables):
    works(call("--source", "train.json", "--target", "-0.5,2", "-n", "4", "--output", "out.json"))
    assert load("out.json")["target_mean"] == [-0.5] * 5
    lower, _ = shrinkstats.wasserstein_bounds(
        tables["train"], Statistics(np.full(5, -0.5), np.full(5, 2.0)), n=4, strength=0
    )
    np.testing.assert_allclose(load("out.json")["lower"][0], lower, rtol=1e-9)


def test_nothing_moved_means_the_source_for_ever(call):
    text = works(call("--source", "1,2", "--target", "1,2", "-n", "4", "--output", "o.json", "--picture", "p.svg"))
    assert "Best strength by the upper bound: inf, which makes it 0" in text
    assert load("o.json")["best"]["upper"]["strength"] == ["inf"]
    assert "lowest at N = inf" in Path("p.svg").read_text()


def test_long_tables_are_cut(call):
    np.savez("wide.npz", mean=np.zeros(300), var=np.ones(300))
    arguments = ["--source", "wide.npz", "--target", "0.5,1", "-n", "4"]
    short, long = works(call(*arguments)), works(call(*arguments, "--all"))
    assert "280 of 300 channels are not shown: --all shows them." in short
    assert "\n150 " not in short
    assert "\n150 " in long
    assert long.isascii()


def test_names_cannot_steer_a_terminal(call, tmp_path):
    table = {"channel": ["a\x1b[31m", "b"], "mean": [0, 1], "var": [1, 1]}
    (tmp_path / "x.json").write_text(json.dumps(table))
    assert "\x1b" not in works(call("--source", "x.json", "--target", "0,1", "-n", "4"))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture(call, tables, ending):
    works(call(*NUMBERS, "--picture", f"one.{ending}"))
    works(call(*TABLES, "--normalized", "--picture", f"many.{ending}"))
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    for name in ("one", "many"):
        assert Path(f"{name}.{ending}").read_bytes().startswith(start)


def test_the_picture_names_the_strength_the_table_names(call, monkeypatch):
    drawn = []
    figure = pytest.importorskip("matplotlib.figure").Figure
    monkeypatch.setattr(figure, "savefig", lambda self, path, **_: drawn.append(self) or Path(path).touch())
    text = works(call(*NUMBERS, "--picture", "p.png"))
    (axes,) = drawn[0].axes
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels == [
        "upper bound, lowest at N = 1.445",
        "lower bound, lowest at N = 0.5402",
        "source statistics alone (N = inf)",
    ]
    assert "upper bound: 1.44484" in text
    upper = next(line for line in axes.lines if line.get_label() == labels[0])
    strength, values = upper.get_data()
    source, target = Statistics(np.zeros(1), np.ones(1)), Statistics(np.array([0.5]), np.array([0.25]))
    expected = [shrinkstats.wasserstein_bounds(source, target, n=8, strength=s)[1][0] for s in strength]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert axes.get_yscale() == "log"
    for axis, subs in ((axes.xaxis, [1]), (axes.yaxis, [1, 2, 5])):
        locator = axis.get_major_locator()
        assert (type(locator).__name__, list(locator._subs)) == ("LogLocator", subs)


def test_files_are_never_overwritten_unasked(call, tmp_path):
    (tmp_path / "out.json").write_text("precious")
    fails(call(*NUMBERS, "--output", "out.json"), 2, "out.json exists", "--force")
    (tmp_path / "p.png").write_text("precious")
    fails(call(*NUMBERS, "--picture", "p.png"), 2, "p.png exists", "--force")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out.json": "precious", "p.png": "precious"}
    works(call(*NUMBERS, "--output", "out.json", "--picture", "p.png", "--force"))
    assert load("out.json")["n"] == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "p.png"]


def test_without_matplotlib_it_says_what_to_install(call, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fails(call(*NUMBERS, "--picture", "p.png"), 2, "--picture needs matplotlib", 'pip install "shrinkstats[cli]"')
    assert not list(tmp_path.iterdir())


def test_help(call):
    text = works(call("--help"))
    assert "shrinkstats bounds --source" in text


# What it says about requests and files that are not as they should be


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"--source": "0"}, ["--source must be MEAN,VARIANCE", "'0'"]),
        ({"--target": "0,1,2"}, ["--target must be MEAN,VARIANCE", "'0,1,2'"]),
        ({"--target": "a,1"}, ["--target must be MEAN,VARIANCE or a file ending in .csv, .json, .npz"]),
        ({"--source": "missing.csv"}, ["missing.csv: no such file"]),
        ({"--source": "folder.csv"}, ["folder.csv: not a file"]),
        ({"--alpha": "0"}, ["--alpha must be between 0 and 1, got 0"]),
        ({"--alpha": "1"}, ["--alpha must be between 0 and 1, got 1"]),
        ({"--alpha": "nan"}, ["--alpha must be between 0 and 1, got nan"]),
        ({"--strength": "nan"}, ["--strength must be at least 0, got nan"]),
        ({"--strength": "-1"}, ["--strength must be at least 0, got -1"]),
        ({"--output": "out.csv"}, ["--output must end in .json"]),
        ({"--output": "nowhere/out.json"}, ["--output: there is no folder nowhere"]),
        ({"--picture": "p.gif"}, ["--picture must end in .png, .svg, .pdf"]),
        ({"--picture": "nowhere/p.png"}, ["--picture: there is no folder nowhere"]),
    ],
)
def test_requests_that_make_no_sense(call, tmp_path, arguments, parts):
    (tmp_path / "folder.csv").mkdir()
    given = {"--source": "0,1", "--target": "0.5,0.25", "-n": "8", **arguments}
    fails(call(*(word for pair in given.items() for word in pair)), 2, *parts)


@pytest.mark.parametrize("arguments", [["-n", "0"], ["-n", "2.5"], ["--strength", "many"]])
def test_values_out_of_range(call, arguments):
    result = call(*NUMBERS, *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.json", "{", ["damaged, or not a table of statistics"]),
        ("x.json", "[1, 2]", ["not a table of statistics"]),
        ("x.json", "[" * 100_000, ["not a table of statistics"]),
        ("x.json", b"\xff\xfe", ["damaged"]),
        ("x.json", '{"mean": [1]}', ["holds no sample_mean and sample_variance or mean and var"]),
        ("x.json", '{"mean": [1], "var": "one"}', ["var is not a list of numbers"]),
        ("x.json", '{"mean": 1, "var": [1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [[1]], "var": [1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [], "var": []}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [1e999], "var": [1]}', ["a mean is missing or infinite"]),
        ("x.json", '{"mean": [1, 2], "var": [1]}', ["mean has 2 channels, var 1"]),
        ("x.json", '{"mean": [1, null], "var": [1, 1]}', ["a mean is missing or infinite"]),
        ("x.json", '{"mean": [1, 2], "var": [1, -1]}', ["a variance must not be negative, got -1"]),
        ("x.json", '{"mean": [1, 2, 3], "var": [1, 1, 1], "channel": ["a", "b", "c"]}', ["different channels", "a, b"]),
        ("x.json", '{"mean": [true, false], "var": [1, 1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [1, 2], "var": {"1": 3, "2": 4}}', ["var is not a list of numbers"]),
        ("x.json", '{"mean": "01", "var": [1, 1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": ["1", "2"], "var": [1, 1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [""], "var": [1]}', ["mean is not a list of numbers"]),
        ("x.json", '{"mean": [1], "var": [1], "mean": [2]}', ["mean is there twice"]),
        ("x.json", '{"mean": [1, 2], "var": [1, 1], "channel": ["a"]}', ["channel has 1 names for 2 channels"]),
        ("x.json", '{"mean": [1, 2], "var": [1, 1], "channel": "ab"}', ["channel is not a list of names"]),
        ("x.json", '{"mean": [1, 2], "var": [1, 1], "channel": [["a"], ["b"]]}', ["channel is not a list of names"]),
        ("x.json", '{"mean": [1, 2], "var": [1, 1], "channel": [null, 1]}', ["channel is not a list of names"]),
        ("x.csv", "mean,var,mean\n1,2,3\n", ["mean is there twice"]),
        ("x.csv", "channel,mean,var,channel\na,1,2,b\n", ["channel is there twice"]),
        ("x.csv", "", ["holds no sample_mean"]),
        ("x.csv", "mean,var\n1,2\n3\n", ["a variance is missing"]),
        ("x.csv", "mean,var\n1,x\n", ["var is not a list of numbers"]),
        ("x.csv", b"mean,var\n\xff,1\n", ["damaged"]),
        ("x.npz", "", ["the file is empty"]),
        ("x.npz", "no archive", ["damaged, or not an archive"]),
    ],
)
def test_files_that_are_no_table_of_statistics(call, tables, tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    fails(call("--source", name, "--target", "train.json", "-n", "8"), 1, name, *parts)


@pytest.mark.parametrize(
    "mean", [np.ones(2) + 1j, np.ones(2, bool), np.array(["1", "2"]), np.array([b"1", b"2"]), np.ones(2, "m8[s]"),
             np.ones((2, 1)), np.array(1.0), np.zeros(2, [("a", float)])],
    ids=str,
)  # fmt: skip
def test_arrays_that_are_no_vector_of_numbers(call, mean):
    np.savez("x.npz", mean=mean, var=np.ones(2))
    fails(call("--source", "x.npz", "--target", "0,1", "-n", "8"), 1, "x.npz: mean is not a list of numbers")


def test_arrays_of_one_name(call):
    """An archive may hold both, and there is no saying which is meant."""
    np.savez("x.npz", mean=np.ones(2), var=np.ones(2))
    with zipfile.ZipFile("x.npz", "a") as archive:
        archive.writestr("mean", archive.read("mean.npy"))
    fails(call("--source", "x.npz", "--target", "0,1", "-n", "8"), 1, "x.npz", "two arrays called mean")


def test_names_in_an_archive_are_counted(call):
    np.savez("x.npz", mean=np.ones(2), var=np.ones(2), channel=np.array(["a", "b", "c"]))
    fails(call("--source", "x.npz", "--target", "0,1", "-n", "8"), 1, "x.npz: channel has 3 names for 2 channels")


def test_pickles_are_not_opened(call):
    np.savez("x.npz", mean=np.array([{}], dtype=object), var=np.ones(1))
    fails(call("--source", "x.npz", "--target", "0,1", "-n", "8"), 1, "damaged, or not an array of numbers")


def test_numbers_that_are_no_statistics(call):
    for text, part in (
        ("0,-1", "must not be negative"),
        ("nan,1", "mean is missing"),
        ("0,inf", "variance is missing"),
    ):
        fails(call("--source", text, "--target", "0,1", "-n", "8"), 1, text, part)
    fails(call("--source", "0,1", "--target", "1e200,1", "-n", "8"), 1, "overflows; use a larger unit")
    fails(call("--source", "0,0", "--target", "0,1", "-n", "8", "--normalized"), 1, "which is 0 in a channel")


def test_an_alpha_that_is_too_small_is_at_fault_itself(call):
    result = call("--source", "0,1", "--target", "0,1", "-n", "3", "--alpha", "1e-300")
    fails(result, 2, "--alpha 1e-300 is so small that the upper bound overflows")
