"""The command line: what it prints, what it writes, and what it says about files that are not as they should be."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

import shrinkstats

pytest.importorskip("typer", reason="the command line needs the extra cli")
from typer.testing import CliRunner

from shrinkstats.adapters.commands.application import application


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(application(), list(arguments))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(0.3, 1.0, (8, 5, 4, 4)).astype(np.float32)


def fails(result, code, *parts):
    """One line that says what is wrong, no traceback and nothing on standard output."""
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def works(result):
    assert result.exit_code == 0, result.output
    return result


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def load(path):
    return json.loads(Path(path).read_text())


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


def shrinkstats_command(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE} | options
    return subprocess.run([sys.executable, "-m", "shrinkstats.cli", *arguments], check=False, **options)


# What it computes and writes


def test_numbers_are_those_of_the_library(call, images):
    np.save("images.npy", images)
    result = call("estimate", "images.npy", "--target", "0.25", "--output", "out.json")
    assert result.exit_code == 0, result.output
    written = load("out.json")
    moments = shrinkstats.moments(images)
    shrunk = shrinkstats.james_stein(moments.mean, moments.noise, target=0.25)
    assert written["factor"] == float(shrunk.factor)
    assert 0 < written["factor"] < 1
    assert written["sample_mean"] == moments.mean.tolist()
    assert written["shrunken_mean"] == shrunk.estimate.tolist()
    assert written["sample_variance"] == moments.var().tolist()
    assert written["shrunken_variance"] == shrinkstats.gamma_stein(moments.var(), n=moments.count).tolist()
    assert (written["count"], written["samples"], written["target"]) == (128, 8, 0.25)
    assert f"{moments.mean[2]:.6g}" in result.stdout
    assert f"{written['factor']:.6g}" in result.stdout


def test_every_format_holds_the_same(call, images):
    np.savez("images.npz", first=images, second=images + 1)
    for ending in ("csv", "json", "npz"):
        result = call("estimate", "images.npz", "--key", "second", "--target", "mean", "--output", f"out.{ending}")
        assert result.exit_code == 0, result.output
    from_json = load("out.json")
    from_csv = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    with np.load("out.npz") as archive:
        from_npz = dict(archive)
    for name in ("sample_mean", "shrunken_mean", "sample_variance", "shrunken_variance"):
        assert [float(row[name]) for row in from_csv] == from_json[name] == from_npz[name].tolist()
    assert float(from_csv[0]["factor"]) == from_json["factor"] == float(from_npz["factor"])


def test_output_is_never_overwritten_unasked(call, images, tmp_path):
    np.save("images.npy", images)
    write(tmp_path / "out.csv", "precious")
    fails(call("estimate", "images.npy", "--output", "out.csv"), 2, "out.csv exists", "--force")
    assert (tmp_path / "out.csv").read_text() == "precious"
    assert call("estimate", "images.npy", "--output", "out.csv", "--force").exit_code == 0
    assert (tmp_path / "out.csv").read_text().startswith("channel,")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npy", "out.csv"]


def test_a_failed_write_leaves_no_trace(call, images, tmp_path, monkeypatch):
    np.save("images.npy", images)
    write(tmp_path / "out.npz", "precious")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = call("estimate", "images.npy", "--output", "out.npz", "--force")
    assert result.exit_code == 1
    assert "no space left" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npy", "out.npz"]
    assert (tmp_path / "out.npz").read_text() == "precious"


def test_axes(call, images):
    np.save("last.npy", np.moveaxis(images, 1, -1))
    np.save("first.npy", np.moveaxis(images, 1, 0))
    expected = shrinkstats.james_stein(*((m := shrinkstats.moments(images)).mean, m.noise)).factor
    alone = shrinkstats.james_stein(*((m := shrinkstats.moments(images, sample_axis=None)).mean, m.noise)).factor
    for file, options, factor in (
        ("last.npy", ["--axis", "-1"], expected),
        ("first.npy", ["--axis", "0"], expected),
        ("first.npy", ["--axis", "0", "--sample-axis", "1"], expected),
        ("last.npy", ["--axis", "3", "--sample-axis", "none"], alone),
    ):
        result = call("estimate", file, *options)
        assert f"factor {factor:.6g} " in result.stdout, result.output


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_with_and_without_header(call, tmp_path, mark):
    rows = np.random.default_rng(1).normal(5, 1, (6, 3))
    body = "\n".join(mark.join(map(repr, row.tolist())) for row in rows) + "\n\n"
    write(tmp_path / "plain.csv", body)
    write(tmp_path / "named.csv", "\ufeff" + mark.join(["height", f'"a{mark}b"', "x [red]"]) + "\n" + body)
    for file, names in (("plain.csv", ["0", "1", "2"]), ("named.csv", ["height", f"a{mark}b", "x [red]"])):
        result = call("estimate", file, "--output", "out.json", "--force")
        assert result.exit_code == 0, result.output
        written = load("out.json")
        assert written["channel"] == [name.replace("\t", " ") for name in names]
        np.testing.assert_allclose(written["sample_mean"], rows.mean(0), rtol=1e-12)
        assert written["samples"] == 6
        assert written["channel"][2] in result.stdout


def test_names_cannot_steer_a_terminal(call, tmp_path):
    write(tmp_path / "x.csv", "a\x1b[31m,b,c\n1,2,3\n4,5,7\n")
    write(tmp_path / "y.csv", "g\x1b[31m,a,a\ng1,2,3\ng2,5,7\n")
    for file in ("x.csv", "y.csv"):
        assert "\x1b" not in works(call("estimate", file)).stdout


def test_long_tables_are_cut_and_piped_ones_are_plain(call):
    np.save("wide.npy", np.random.default_rng(0).normal(size=(4, 300)))
    short, long = (call("estimate", "wide.npy", *options).stdout for options in ([], ["--all"]))
    assert len(short.splitlines()) < 30
    assert "280 of 300 channels are not shown: --all shows them." in short
    for text in (short, long):
        assert text.isascii()
        for channel in (0, 9, 290, 299):
            assert f"\n{channel} " in text
    assert "\n150 " in long
    assert "not shown" not in long


def test_missing_values_are_shown_and_reported(call, tmp_path):
    write(tmp_path / "x.csv", "a,b,c,d\n1,2,3,4\n4,,7,inf\n1,1,1,8\n")
    result = call("estimate", "x.csv", "--output", "out.json")
    assert result.exit_code == 0
    assert "nan" in result.stdout
    assert "2 of 4 channels hold NaN or infinity (b, d)" in result.stdout
    written = load("out.json")
    assert written["sample_mean"] == [2, None, 11 / 3, None]
    assert written["factor"] is None


def test_numbers_too_large_to_be_squared_are_reported(call):
    x = np.random.default_rng(0).normal(size=(20, 4))
    x[:, 1] *= 1e200
    np.save("x.npy", x)
    result = call("estimate", "x.npy")
    assert result.exit_code == 0
    assert "1 of 4 channels hold numbers too large to be squared (1). Shrinkage pools the channels" in result.stdout
    assert "nan" not in result.stdout.lower()
    assert "inf" in result.stdout


def test_what_cannot_be_shrunk_is_explained(call):
    np.save("one.npy", np.arange(5.0)[None])
    assert "one observation a channel shows no noise" in call("estimate", "one.npy").stdout
    np.save("two.npy", np.random.default_rng(0).normal(size=(6, 2)))
    assert "needs at least 3 channels" in call("estimate", "two.npy").stdout


# What it says about files that are not as they should be


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["the file is empty"]),
        ("\n\n", ["no rows of numbers"]),
        ("a,b\n", ["no rows of numbers below the header"]),
        ("a,b\n1,2\n3,x\n", ["row 3, column 2 (b)", "'x'"]),
        ("1,2\nx,3\n", ["row 2, column 1:", "'x'"]),
        ("1,x\n1,2\n", ["row 1, column 2", "'x'"]),
        ("1,2\n1_0,3\n", ["row 2, column 1", "'1_0'"]),
        ("a;b\n1;2,5\n", ["row 2, column 2 (b)", "decimals take a point"]),
        ("1,2\n3,4,5\n", ["row 2: 3 columns, expected 2"]),
        ("1,2\n3\n", ["row 2: 1 columns, expected 2"]),
        (b"\xff\xfe1\x00,\x002\x00", ["not UTF-8 text"]),
        ('1,"' + "9" * 200_000 + '"\n', ["not a CSV file"]),
        ("a,b\n1," + "\x1b]x" * 99 + "\n", ["row 2, column 2 (b)"]),
    ],
)
def test_csv_that_is_no_table_of_numbers(call, tmp_path, text, parts):
    write(tmp_path / "x.csv", text)
    result = call("estimate", "x.csv")
    fails(result, 1, "x.csv", *parts)
    assert "\x1b" not in result.stderr
    assert len(result.stderr) < 300


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("length", [1, 5, 12, 60, 150, -1])
def test_damaged_arrays(call, tmp_path, images, ending, length):
    path = tmp_path / f"x.{ending}"
    (np.save if ending == "npy" else np.savez)(path, images)
    write(path, path.read_bytes()[:length])
    fails(call("estimate", path.name), 1, path.name, "damaged")


def test_a_header_cannot_ask_for_memory(call, tmp_path):
    np.save("x.npy", np.ones((9, 9)))
    path = tmp_path / "x.npy"
    path.write_bytes(path.read_bytes().replace(b"(9, 9), }          ", b"(9, 999999999999), }"[:19].ljust(19)))
    fails(call("estimate", "x.npy"), 1, "damaged")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickles_are_not_opened(call, ending):
    file = f"x.{ending}"
    (np.save if ending == "npy" else np.savez)(file, np.array([{}, 1], dtype=object))
    fails(call("estimate", file), 1, "damaged, or not an array of numbers")


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.ones((3, 4)) * 1j, "complex128"),
        (np.array([["a", "b"]]), "real numbers"),
        (np.ones((0, 5)), "no observations in an array of shape (0, 5)"),
        (np.zeros((3, 4), dtype=[("a", "f4")]), "a structured array; pass one of its fields"),
    ],
)
def test_arrays_that_hold_no_numbers(call, array, part):
    np.save("x.npy", array)
    fails(call("estimate", "x.npy"), 1, "x.npy", part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["missing.npy"], ["missing.npy: no such file"]),
        (["folder.npy"], ["not a file"]),
        (["notes.txt"], ["ending in .npy, .npz or .csv"]),
        (["x.npy", "--axis", "4"], ["axis=4 is out of bounds", "(6, 3)"]),
        (["x.npy", "--sample-axis", "1"], ["both 1; pass --sample-axis none if there are no samples"]),
        (["x.npy", "--sample-axis", "first"], ["'first'"]),
        (["vector.npy"], ["axis=1 is out of bounds", "(4,)"]),
        (["x.npy", "--target", "median"], ["--target must be a number or 'mean'", "'median'"]),
        (["x.npy", "--target", "nan"], ["must be finite"]),
        (["x.npy", "--key", "a"], ["--key names an array in a .npz file"]),
        (["x.npz"], ["several arrays", "--key a|b"]),
        (["x.npz", "--key", "c"], ["no array 'c'", "a, b"]),
        (["x.npy", "--output", "out.txt"], [".csv, .json, .npz"]),
        (["x.npy", "--output", "nowhere/out.csv"], ["no folder nowhere"]),
    ],
)
def test_requests_that_make_no_sense(call, tmp_path, arguments, parts):
    x = np.random.default_rng(0).normal(size=(6, 3))
    np.save("x.npy", x)
    np.save("vector.npy", np.ones(4))
    np.savez("x.npz", a=x, b=x)
    (tmp_path / "folder.npy").mkdir()
    fails(call("estimate", *arguments), 2, *parts)


# The command itself


def test_version_and_help(call):
    assert call("--version").stdout == f"shrinkstats {shrinkstats.__version__}\n"
    assert "estimate measurements.csv" in call("--help").stdout
    for command in ("estimate", "demo"):
        assert f"shrinkstats {command}" in call(command, "--help").stdout
    assert call("estimate", "x.npy", "--axis", "one").exit_code == 2


def test_as_a_process(tmp_path):
    write(tmp_path / "x.csv", "a,b,c,d\n1,2,3,4\n2,3,4,6\n0,1,2,2\n")
    code = (
        "import sys; from shrinkstats.cli import main; sys.argv = ['shrinkstats', 'estimate', 'x.csv']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.splitlines()[1].split()).startswith("channel sample mean shrunken mean sample var")
    assert not done.stderr


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from shrinkstats.cli import main; sys.argv = ['shrinkstats', '--help']\n"
        "try: main()\nfinally: print('loaded', *{'torch', 'numba', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"


def test_without_its_libraries_it_says_what_to_install():
    for missing in ("typer", "rich"):
        done = python(f"import sys; sys.modules[{missing!r}] = None; from shrinkstats.cli import main; main()")
        assert done.returncode == 1
        assert done.stderr == f'The command line needs {missing}: pip install "shrinkstats[cli]"\n'


@pytest.mark.parametrize("missing", ["torch", "sklearn", "matplotlib"])
def test_the_demo_says_what_to_install(call, monkeypatch, missing):
    pytest.importorskip("torch", reason="without it, torch is what is missing")
    for module in [name for name in sys.modules if name.startswith("shrinkstats.adapters.commands.digits")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, missing, None)
    fails(call("demo"), 2, f"the demo needs {missing}", 'pip install "shrinkstats[demo]"')


# Names of rows.


@pytest.mark.parametrize("title", ["", "Unnamed: 0", "index", "gene"])
def test_names_of_rows_are_no_channel(call, tmp_path, title):
    values = np.random.default_rng(0).normal(size=(6, 4)).round(3)
    names = [f"g{i}" for i in range(6)] if title == "gene" else [str(i) for i in range(6)]
    plain = "\n".join(["a,b,c,d", *(",".join(map(str, row)) for row in values)])
    named = "\n".join(
        [f"{title},a,b,c,d", *(",".join([n, *map(str, row)]) for n, row in zip(names, values, strict=True))]
    )
    Path("plain.csv").write_text(plain + "\n")
    Path("named.csv").write_text(named + "\n")
    expected = works(call("estimate", "plain.csv", "--output", "plain.json"))
    found = works(call("estimate", "named.csv", "--output", "named.json"))
    assert Path("named.json").read_text() == Path("plain.json").read_text()
    called = f" ({title})" if title else ""
    assert f"Note: the first column{called} names the rows; it is not among the channels." in found.stdout
    assert "first column" not in expected.stdout
    works(call("estimate", "named.csv", "--axis", "0", "--output", "rows.json"))
    assert json.loads(Path("rows.json").read_text())["channel"] == names


def test_what_pandas_writes(call, tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(6, 3)), columns=["a", "b", "c"])
    deep = frame.set_index(pandas.MultiIndex.from_product([[0, 1], [0, 1, 2]]))
    for names in (["a", "b", "c"], range(3)):
        for i, (written, index) in enumerate([(frame, False), (frame, True), (frame[::-1], True), (deep, True)]):
            written.set_axis(names, axis=1).to_csv("x.csv", index=index)
            text = works(call("estimate", "x.csv", "--output", f"{i}.json", "--force")).stdout
            assert ("name the rows" in text or "names the rows" in text) == index
            assert ("the first row (" in text) == (names == range(3))
            found, first = load(f"{i}.json"), load("0.json")
            assert found["channel"] == [str(name) for name in names]
            assert found["count"] == 6
            np.testing.assert_allclose(found["shrunken_mean"], first["shrunken_mean"], rtol=1e-12)


def test_a_column_of_data_that_happens_to_count(call, tmp_path):
    """Only a header tells it from the names of rows."""
    Path("x.csv").write_text("time,b\n0,1.5\n1,2.5\n2,0.5\n")
    works(call("estimate", "x.csv", "--output", "x.json"))
    assert json.loads(Path("x.json").read_text())["channel"] == ["time", "b"]


def test_a_vector_is_told_of_in_options(call):
    np.save("v.npy", np.arange(4.0))
    fails(call("estimate", "v.npy"), 2, "axis=1 is out of bounds", "say --axis 0 if every entry is a channel")
    assert "None" not in call("estimate", "v.npy").stderr


# Where it is run


FULL = Path("/dev/full")
WRITING = {
    "estimate": ["estimate", "x.csv", "--output", "out.json"],
    "bounds": ["bounds", "--source", "0,1", "--target", "1,2", "-n", "8", "--output", "out.json"],
    "dominance": ["dominance", "stein", "--dim", "8", "-n", "4", "--radii", "0", "--output", "out.json"],
}


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is full")
@pytest.mark.parametrize("stream", ["stdout", pytest.param("stderr", marks=pytest.mark.long)])
@pytest.mark.parametrize("command", WRITING)
def test_files_are_written_though_nobody_can_read_the_table(command, stream, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    (tmp_path / "x.csv").write_text("a,b,c\n1,2,3\n2,3,5\n4,1,7\n")
    pictures = [] if command == "estimate" else ["--picture", "p.svg"]
    with FULL.open("w") as full:
        result = shrinkstats_command(*WRITING[command], *pictures, cwd=tmp_path, **{stream: full})
    assert result.returncode != 0
    assert load(tmp_path / "out.json")
    assert all((tmp_path / name).exists() for name in pictures[1:])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_lacks_are_no_reason_to_fail(encoding, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    (tmp_path / "x.csv").write_text("\u03b1,\u03b2\n1,2\n2,3\n4,1\n", encoding="utf-8")
    for arguments, part in ((["--help"], b"Usage"), (["estimate", "x.csv", "--output", "out.csv"], rb"\u03b1")):
        result = shrinkstats_command(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert part in result.stdout
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("\u03b1,")


def test_an_array_of_records_is_called_that(call, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(5, dtype=[("a", float), ("b", float)]))
    fails(call("estimate", "x.npy"), 1, "x.npy: the array is a structured array")
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    fails(call("estimate", "x.npy"), 1, "must hold real numbers")
