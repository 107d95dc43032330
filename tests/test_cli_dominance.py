"""`shrinkstats dominance`: its verdicts are the library's, nothing drawn is lost, and its errors are one line."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip("typer", reason="the command line needs the extra cli")
from typer.main import get_command
from typer.testing import CliRunner

from shrinkstats.adapters.commands import question
from shrinkstats.adapters.commands.application import application
from shrinkstats.adapters.commands.errors import INTERRUPTED
from shrinkstats.estimators import BatchStatistics, Lasso, PriorBlend, Ridge, RobustNorm, Stein, SteinBlend
from shrinkstats.theory import verify_dominance
from shrinkstats.theory.noise import (
    ClippedCauchy,
    Gaussian,
    Rademacher,
    Sparse,
    TruncatedGaussian,
    Uniform,
    WorstCase,
)
from shrinkstats.theory.report import DominanceReport
from shrinkstats.theory.rules import JamesStein, SampleMean, SymmetricRule

SMALL = ["--dim", "8", "-n", "4", "--radii", "0,3", "--budget", "8192"]
ENDLESS = ["james-stein-plain", "--constant", "2", "--known-variance", "1", "--dim", "5", "-n", "4", "--radii", "1,2"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(application(), ["dominance", *arguments])


def works(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(result, code, *parts):
    """One line that says what is wrong, no traceback and nothing on standard output."""
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


# What it asks


def test_the_report_is_the_library_s_and_so_is_the_table(call):
    text = works(call("stein", "--dim", "6", "-n", "8", "--radii", "0:4:2", "--attack", "rademacher", "--strength",
                      "0.5", "--seed", "3", "--confidence", "0.95", "--output", "out.json"))  # fmt: skip
    report = verify_dominance(
        Stein(), baseline=SampleMean(), dim=6, n=8, radii=[0, 2, 4], attack=Rademacher(0.5), seed=3, confidence=0.95
    )
    found = DominanceReport.load("out.json")
    assert found == report
    assert found.to_json() == report.to_json()
    lines = text.splitlines()
    assert lines[0] == f"Stein() against SampleMean(): {report.verdict.upper()}"
    assert lines[1] == f"{report.reason}."
    assert "attack Rademacher(scale=0.5)" in lines[2]
    for row, line in zip(report.rows, lines[4:], strict=False):
        assert line.split() == [
            f"{row.radius:.6g}", row.direction, f"{row.tally.estimator:.6g}", f"{row.tally.baseline:.6g}",
            f"{row.difference:.6g}", f"{row.lower:.6g}", f"{row.upper:.6g}", f"{row.replicates:,}",
            ("open", "worse", "better")[row.sign],
        ]  # fmt: skip
    after = lines[4 + len(report.rows) :]
    assert after == ["What this rests on and what it does not cover:", *(f"- {caveat}." for caveat in report.caveats)]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["james-stein", *SMALL], "proved"),
        (["stein", *SMALL, "--noise", "uniform"], "dominates"),
        (["james-stein-plain", "--constant", "2.5", "--known-variance", "1", *SMALL], "dominated"),
        (["published", *SMALL, "--radii", "0,4,8"], "crosses"),
        (["stein", "--against", "stein", *SMALL], "undecided"),
        (["gamma-stein", "--statistic", "var", "--loss", "entropy", *SMALL, "--radii", "0"], "dominates"),
    ],
)
def test_every_verdict_and_all_of_them_succeed(call, arguments, word):
    assert works(call(*arguments, "--quiet")) == f"{word}\n"


@pytest.mark.parametrize(
    ("name", "constant", "statistic", "expected"),
    [
        ("stein", None, "mean", Stein()),
        ("stein", None, "var", Stein()),
        ("published", None, "mean", Stein.published()),
        ("james-stein", None, "mean", JamesStein()),
        ("james-stein", 1.5, "mean", JamesStein(1.5)),
        ("james-stein-plain", 2.0, "mean", JamesStein(2.0, positive_part=False)),
        ("gamma-stein", None, "var", Stein(mean=None, var="gamma")),
        ("sample-mean", None, "mean", SampleMean()),
        ("sample-variance", None, "var", BatchStatistics()),
        ("ridge", 0.5, "mean", Ridge(0.5)),
        ("lasso", 0.5, "var", Lasso(0.5)),
        ("prior-blend", 16.0, "mean", PriorBlend(16.0)),
        ("stein-blend", None, "mean", SteinBlend()),
        ("stein-blend", 0.5, "var", SteinBlend(0.5)),
        ("robust_norm_0.5", None, "mean", RobustNorm(0.5)),
    ],
)
def test_rules_by_name(name, constant, statistic, expected):
    assert question.rule("ESTIMATOR", name, constant, statistic) == expected


def test_every_name_is_in_the_help_and_can_be_asked_for(call):
    declared = get_command(application()).commands["dominance"]
    told = {option.name: re.findall(r"[a-z-]+", option.help) for option in declared.params if option.help}
    assert set(told["noise"]) >= set(question.NOISES)
    for name, rule in question.RULES.items():
        assert name in told["estimator"]
        constant = [] if rule.default else ["--constant", "4"]
        works(call(name, *constant, "--statistic", rule.statistics[-1], *SMALL, "--radii", "1"))


def test_the_help_says_what_the_exit_status_means(call):
    assert "130 after Ctrl-C" in " ".join(works(call("--help")).split())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaussian", Gaussian),
        ("rademacher", Rademacher),
        ("uniform", Uniform),
        ("truncated-gaussian", TruncatedGaussian),
        ("clipped-cauchy", ClippedCauchy),
        ("sparse", Sparse),
    ],
)
def test_noise_by_name(name, expected):
    assert question.noise(name) == expected(1.0)
    assert question.attack(name, 0.5, True, None) == expected(0.5, common=True)
    assert set(question.NOISES.values()) >= {expected}


def test_the_worst_case(call):
    assert question.attack(None, None, False, 0.25) == WorstCase(0.25)
    assert "attack WorstCase(budget=0.25)" in works(call("stein", *SMALL, "--worst-case", "0.25"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:10:2.5", [0, 2.5, 5, 7.5, 10]),
        ("0:0.3:0.1", [0, 0.1, 0.2, 0.3]),
        ("0:1:0.4", [0, 0.4, 0.8]),
        ("3:3:1", [3]),
        ("4", [4]),
        ("0, 2,8", [0, 2, 8]),
    ],
)
def test_radii(text, expected):
    np.testing.assert_allclose(question.radii(text), expected, rtol=1e-12)


def test_weights_of_the_loss(call):
    works(call("james-stein", *SMALL, "--dim", "3", "--loss", "1,1,4", "--output", "out.json"))
    assert json.loads(Path("out.json").read_text())["settings"]["loss"] == "weighted (1.0, 1.0, 4.0)"


# Files


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture(call, tmp_path, ending):
    pytest.importorskip("matplotlib")
    works(call("stein", *SMALL, "--picture", f"p.{ending}"))
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert Path(f"p.{ending}").read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [f"p.{ending}"]


def test_a_larger_budget_goes_on_from_the_file(call):
    first = works(call(*ENDLESS, "--budget", "8192", "--resume", "run.json"))
    assert "8,192" in first
    assert "16,384" in works(call(*ENDLESS, "--budget", "16384", "--resume", "run.json", "--output", "on.json"))
    works(call(*ENDLESS, "--budget", "16384", "--output", "once.json"))
    assert DominanceReport.load("on.json") == DominanceReport.load("once.json")
    fails(call(*ENDLESS, "--seed", "1", "--resume", "run.json"), 2, "run.json holds a report of other settings (seed)")


def test_processes_give_the_same_numbers(call, monkeypatch):
    used = []

    def watched(*arguments, executor, **options):
        used.append(type(executor).__name__)
        return verify_dominance(*arguments, executor=executor, **options)

    monkeypatch.setattr(question, "verify_dominance", watched)
    works(call("stein", *SMALL, "--workers", "1", "--output", "processes.json"))
    works(call("stein", *SMALL, "--output", "threads.json"))
    assert DominanceReport.load("processes.json") == DominanceReport.load("threads.json")
    assert used == ["ProcessPoolExecutor", "NoneType"]


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C cannot be sent to one process")
def test_ctrl_c_keeps_the_report_and_a_second_run_goes_on(call, tmp_path):
    # Whoever runs the tests may ignore the signal, and what it starts would inherit that.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import shrinkstats.cli as c; "
    command = [sys.executable, "-c", code + "c.main()", "dominance", *ENDLESS, "--resume", "run.json"]
    run = subprocess.Popen(
        [*command, "--budget", str(2**40), "--output", "out.json", "--picture", "p.png"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (tmp_path / "run.json").exists() and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=PATIENCE)
    finally:
        run.kill()
    assert run.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    assert "UNDECIDED" in out
    assert "Interrupted before all was drawn: the bounds hold nevertheless." in out
    kept = DominanceReport.load(tmp_path / "run.json")
    assert kept == DominanceReport.load(tmp_path / "out.json")
    assert kept.interrupted
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    drawn = kept.rows[0].replicates
    budget = str(2 * drawn)
    works(call(*ENDLESS, "--budget", budget, "--resume", "run.json"))
    works(call(*ENDLESS, "--budget", budget, "--resume", "once.json"))
    on, once = DominanceReport.load("run.json"), DominanceReport.load("once.json")
    assert not on.interrupted
    assert [row.replicates for row in on.rows] == [2 * drawn] * len(on.rows)
    assert on == once


def test_files_are_never_overwritten_unasked(call, tmp_path):
    (tmp_path / "out.json").write_text("precious")
    fails(call("stein", *SMALL, "--output", "out.json"), 2, "out.json exists", "--force")
    assert (tmp_path / "out.json").read_text() == "precious"
    works(call("stein", *SMALL, "--output", "out.json", "--force"))
    assert DominanceReport.load("out.json").verdict == "proved"


def test_without_matplotlib_it_says_what_to_install(call, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fails(
        call("stein", *SMALL, "--picture", "p.png"), 2, "--picture needs matplotlib", 'pip install "shrinkstats[cli]"'
    )
    assert not list(tmp_path.iterdir())


# What it says about requests that are not as they should be


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["steiner"], ["ESTIMATOR must be one of stein, published", "'steiner'"]),
        (["stein", "--against", "x"], ["--against must be one of", "'x'"]),
        (["stein", "--constant", "2"], ["stein has no constant for --constant to set"]),
        (["stein", "--against-constant", "2"], ["--against-constant needs --against"]),
        (["stein", "--against", "stein", "--against-constant", "2"], ["for --against-constant to set"]),
        (["prior-blend"], ["prior-blend needs --constant: the samples that the prior counts for"]),
        (["james-stein", "--constant", "-1"], ["--constant: constant must be a finite number, at least 0"]),
        (["gamma-stein"], ["gamma-stein estimates variances: it goes with --statistic var"]),
        (["james-stein", "--statistic", "var"], ["james-stein estimates means: it goes with --statistic mean"]),
        (["stein", "--statistic", "median"], ["--statistic must be mean or var, got 'median'"]),
        (["stein", "--noise", "white"], ["--noise must be one of gaussian", "'white'"]),
        (["stein", "--attack", "white", "--strength", "1"], ["--attack must be one of gaussian"]),
        (["stein", "--attack", "uniform"], ["--attack needs --strength"]),
        (["stein", "--strength", "1"], ["--strength needs --attack"]),
        (["stein", "--common"], ["--common needs --attack"]),
        (["stein", "--attack", "uniform", "--strength", "-1"], ["--strength: scale must be"]),
        (["stein", "--attack", "uniform", "--worst-case", "1"], ["--attack and --worst-case exclude each other"]),
        (["stein", "--attack", "gaussian", "--strength", "1e308"], ["overflow; use a larger unit"]),
        (["stein", "--worst-case", "0"], ["--worst-case: budget must be"]),
        (["gamma-stein", "--statistic", "var", "--worst-case", "1"], ["WorstCase moves the means"]),
        (["gamma-stein", "--statistic", "var", "--radii", "0,1e4"], ["radii are too large: at 10000"]),
        (["stein", "--radii", "a"], ["--radii must be START:STOP:STEP or numbers like 0,2,4, got 'a'"]),
        (["stein", "--radii", "0:1"], ["--radii must be"]),
        (["stein", "--radii", "0:1:0"], ["--radii must be"]),
        (["stein", "--radii", "1:0:-1"], ["--radii must be"]),
        (["stein", "--radii", "0:nan:1"], ["--radii must be"]),
        (["stein", "--radii", "0:1e9:1"], ["are more than 1000 points"]),
        (["stein", "--radii", "-1,2"], ["radii must be finite numbers"]),
        (["stein", "--radii", "inf"], ["radii must be finite numbers"]),
        (["stein", "--loss", "absolute"], ["loss must be one of", "'absolute'"]),
        (["stein", "--loss", "1,2"], ["weights of the loss must be 8 finite numbers"]),
        (["stein", "--confidence", "1"], ["confidence must lie between 0 and 1, got 1.0"]),
        (["stein", "--known-variance", "0"], ["known_variance must be positive"]),
        (["stein", "--budget", "10"], ["budget must be at least 8192"]),
        (["stein", "-n", "1"], ["n must be at least 2", "a variance is estimated"]),
        (["stein", "--output", "out.csv"], ["--output must end in .json"]),
        (["stein", "--picture", "p.gif"], ["--picture must end in .png, .svg, .pdf"]),
        (["stein", "--resume", "nowhere/run.json"], ["--resume: there is no folder nowhere"]),
    ],
)
def test_requests_that_make_no_sense(call, tmp_path, arguments, parts):
    name, *others = arguments
    fails(call(name, *SMALL, *others), 2, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--dim", "0"], ["--dim", "x"], ["--seed", "-1"], ["--workers", "0"]])
def test_values_out_of_range(call, arguments):
    result = call("stein", *SMALL, *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"{", "it is cut short or damaged at line 1"),
        (b"[" * 100_000, "it is JSON of another structure"),
        (b"\xff\xfe", "it is not text"),
        (b"[1]", "it is JSON of another structure"),
        (b"{}", "it has no format"),
        (b'{"format": "another"}', "another format"),
    ],
)
def test_files_that_hold_no_report(call, content, why):
    Path("run.json").write_bytes(content)
    result = call("stein", *SMALL, "--resume", "run.json")
    fails(result, 1, f"run.json: not a dominance report as DominanceReport.save writes it: {why}\n")
    assert result.stderr.count("run.json") == 1
    assert Path("run.json").read_bytes() == content


def test_a_report_with_impossible_numbers(call):
    works(call("stein", *SMALL, "--resume", "run.json"))
    content = json.loads(Path("run.json").read_text())
    del content["checksum"]  # which older files do not have
    tally = content["rows"][0]["tally"]
    for part, impossible in (("replicates", float("inf")), ("replicates", "many"), ("replicates", None),
                             ("smallest", "many"), ("smallest", None)):  # fmt: skip
        content["rows"][0]["tally"] = tally | {part: impossible}
        Path("run.json").write_text(json.dumps(content))
        result = call("stein", *SMALL, "--resume", "run.json")
        fails(result, 1, "run.json: ")
        assert "float" not in result.stderr


# What theory needed for it


@pytest.mark.parametrize("certified", [True, False])
def test_a_proof_that_the_rival_is_better_is_said(certified):
    rule = JamesStein(2.5, positive_part=False)
    report = verify_dominance(
        rule, dim=8, n=4, radii=[0, 2], known_variance=1.0, certificate=certified, progress=False, budget=2**16
    )
    assert report.verdict == "dominated"
    assert ("for every true mean" in report.reason) == certified
    assert any("seen on a grid" in caveat for caveat in report.caveats) != certified
    if certified:
        assert not report.certificate["proved"]
        assert report.certificate["reverse"]["proved"]
        assert "Stein (1981)" in report.reason
    assert DominanceReport.from_json(report.to_json()) == report


def test_of_two_rules_the_proof_takes_the_side_of_the_better():
    plain = JamesStein(positive_part=False)
    options = {"dim": 8, "n": 4, "radii": [0, 1], "budget": 8192, "progress": False}
    assert verify_dominance(JamesStein(), baseline=plain, **options).verdict == "proved"
    assert verify_dominance(plain, baseline=JamesStein(), **options).verdict == "dominated"
    for tie in (JamesStein(2.0, positive_part=False), SampleMean()):
        report = verify_dominance(tie, known_variance=1.0, **options)
        assert report.verdict == "undecided"
        assert "reverse" not in report.certificate


def test_a_proof_that_the_draws_contradict_decides_nothing(monkeypatch):
    from shrinkstats.theory import dominance
    from shrinkstats.theory.certificate import Certificate

    def wrong(estimator, baseline, **_):
        return Certificate(estimator == SampleMean(), "so it is said", "an error")

    monkeypatch.setattr(dominance, "certify", wrong)
    report = verify_dominance(JamesStein(), dim=8, n=4, radii=[0], budget=8192, progress=False)
    assert report.verdict == "undecided"
    assert "contradict each other" in report.reason


def test_a_symmetric_rule_leaves_means_without_noise_alone():
    rule = SymmetricRule(lambda w: np.minimum(w, 4.0), target=1.0)
    means = np.random.default_rng(0).normal(size=(3, 6))
    means[2] = 1.0
    noise = np.array([[0.0], [0.5], [0.0]])
    found = rule(means, noise)
    np.testing.assert_array_equal(found[[0, 2]], means[[0, 2]])
    np.testing.assert_allclose(found[1], JamesStein(target=1.0)(means[1], 0.5), rtol=1e-12)
    np.testing.assert_array_equal(rule(means[0], 0.0), means[0])
    np.testing.assert_array_equal(rule(means[2], 0.5), means[2])
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="noise must not be negative"):
            rule(means, bad)


def test_samples_whose_values_coincide_show_no_noise():
    """Two signs agree in half of all samples: the estimated noise is then 0, and theirs is the sample mean."""
    rule = SymmetricRule(lambda w: np.minimum(w, 1.0))
    options = {"dim": 3, "n": 2, "radii": [0, 2], "noise": Rademacher(), "budget": 8192, "progress": False}
    by_sums, by_estimates = (verify_dominance(r, loss=loss, **options)
                             for r, loss in ((rule, "squared"), (rule, [1, 1, 1])))  # fmt: skip
    for a, b in zip(by_sums.rows, by_estimates.rows, strict=True):
        np.testing.assert_allclose(a.tally.estimator, b.tally.estimator, rtol=1e-9)
