"""Verdicts: what is known comes out, what is not known stays open, and nothing depends on who does the work."""

import json
import math
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest

from shrinkstats import Statistics, gamma_stein, james_stein
from shrinkstats.estimators import BatchStatistics, MinMaxNorm, PriorBlend, RobustNorm, Stein, SteinBlend
from shrinkstats.theory import dominance
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.noise import Gaussian, Rademacher, Sparse, WorstCase
from shrinkstats.theory.question import ask
from shrinkstats.theory.report import Crossing, DominanceReport, Row, crossings, describe, judge
from shrinkstats.theory.risk import james_stein_risk
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein, SampleMean
from shrinkstats.theory.sequential import Tally, interval
from shrinkstats.theory.simulation import BLOCK, Point, simulate

PLAIN = JamesStein(positive_part=False)
RADII = [0, 1, 2, 4, 8]


def verify(estimator, **options):
    return verify_dominance(estimator, **{"dim": 8, "n": 16, "radii": RADII, "progress": False, **options})


def best_multiple(var, n):
    """The best multiple of a sample variance under scale-invariant loss."""
    return var * (n / (n + 1))


def ninety_percent(mean, noise):
    return 0.9 * mean


# What is known.


@pytest.mark.parametrize("dim", [3, 8, 64])
@pytest.mark.parametrize("rule", [JamesStein(), PLAIN, Stein()], ids=str)
def test_james_stein_dominates_from_three_dimensions_on(rule, dim):
    report = verify(rule, dim=dim)
    assert report.verdict == "proved"
    assert report.certificate["proved"]
    assert "for every true mean" in report.reason
    assert not any(row.sign > 0 for row in report.rows)


@pytest.mark.parametrize("dim", [8, 64])
@pytest.mark.parametrize("rule", [JamesStein(), PLAIN, Stein()], ids=str)
def test_and_is_seen_to(rule, dim):
    report = verify(rule, dim=dim, certificate=False)
    assert report.verdict == "dominates"
    assert "on the grid" in report.reason
    assert any("radii from 0 to 8, not between its points and not beyond" in c for c in report.caveats)
    for row in report.rows:
        if rule != Stein():
            exact = james_stein_risk(dim, row.radius, positive_part=rule.positive_part)
            slack = 0.02 * (dim - exact)  # the variance is estimated on 15 dim degrees of freedom
            assert row.lower - slack < exact - dim < row.upper + slack


@pytest.mark.parametrize("dim", [1, 2])
def test_below_three_dimensions_it_is_the_sample_mean(dim):
    report = verify(JamesStein(), dim=dim, budget=2 * BLOCK)
    assert report.verdict == "undecided"
    assert "the same in every replicate" in report.reason
    assert all(row.difference == 0 for row in report.rows)


@pytest.mark.parametrize("known", [1.0, None])
def test_twice_the_constant_ties_and_more_is_dominated(known):
    df = None if known else 8 * 15
    tie = replace(PLAIN, constant=2.0, df=df)
    assert verify(tie, known_variance=known, budget=2**18, refine=0).verdict == "undecided"
    assert verify(replace(tie, constant=2.5), known_variance=known).verdict == "dominated"


def test_an_estimator_ties_with_itself():
    for rule in (JamesStein(), Stein(), ninety_percent):
        report = verify(rule, baseline=rule, budget=2 * BLOCK)
        assert report.verdict == "undecided"
        assert "the same in every replicate" in report.reason


def test_the_same_formula_computed_otherwise_ties_too():
    def other(mean, noise):
        return mean - np.minimum(6 * noise / np.sum(mean**2, axis=1, keepdims=True), 1) * mean

    assert verify(other, baseline=JamesStein(), budget=2**16, refine=0).verdict == "undecided"


def test_the_positive_part_dominates_plain_james_stein():
    assert verify(JamesStein(), baseline=PLAIN, known_variance=1.0).verdict == "proved"
    seen = verify(JamesStein(), baseline=PLAIN, known_variance=1.0, certificate=False, radii=[0, 1, 2])
    assert seen.verdict == "dominates"
    far = verify(JamesStein(), baseline=PLAIN, known_variance=1.0, certificate=False, radii=[0, 9], budget=2**16)
    assert far.verdict == "undecided"  # at radius 9 they never differ: that proves nothing
    assert "rarely differ" in far.reason or "the same in every" in far.reason


def test_the_published_noise_term_dominates_nothing_and_is_worse_for_larger_samples():
    """The true means kept, a larger sample makes them more standard errors long."""
    losses = []
    for n in (4, 16, 64):
        report = verify(ChannelJamesStein(), n=n, radii=[0.0, 4 * math.sqrt(n)], directions=["random"])
        assert report.verdict == "crosses"
        losses.append(report.rows[-1].tally.estimator / 8)
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] > 5


def test_a_crossing_is_where_the_risks_cross():
    """0.9 times the mean: 0.81 c + 0.01 r^2 against c."""
    report = verify(ninety_percent, radii=range(0, 21, 4), known_variance=1.0)
    assert report.verdict == "crosses"
    for crossing in report.crossings:
        assert crossing.low < math.sqrt(0.19 * 8 / 0.01) < crossing.high
        assert crossing.high - crossing.low <= 2
        assert crossing.better_below
    for row in report.rows:
        assert row.lower <= 0.01 * row.radius**2 - 0.19 * 8 <= row.upper
    assert "better up to radius" in report.reason


def test_the_degrees_of_freedom_factor():
    """At twice the constant the factor df/(df+2) decides between a tie and being dominated."""
    without = replace(PLAIN, constant=2.0)
    assert verify(without, n=2, certificate=False).verdict == "dominated"
    assert verify(replace(without, df=8.0), n=2, budget=2**18, refine=0).verdict == "undecided"


def test_variances():
    """gamma_stein helps where the variances are alike and hurts where they are not."""
    report = verify(
        Stein(var="gamma"),
        n=6,
        statistic="var",
        loss="scale-invariant",
        radii=[0, 1, 6],
        directions=["diagonal"],
        refine=0,
    )
    assert report.verdict == "crosses"
    assert report.rows[0].sign == -1
    assert report.rows[-1].sign == 1
    same = verify(
        gamma_stein,
        baseline=best_multiple,
        n=6,
        statistic="var",
        loss="scale-invariant",
        radii=[0],
        directions=["axis"],
    )
    assert same.verdict == "dominates"
    assert same.rows[0].tally.baseline == pytest.approx(8 * 2 / 7, rel=0.05)
    hit = verify(Stein(), statistic="var", loss="entropy", attack=Sparse(2.0, probability=0.05), radii=[0], refine=0)
    assert hit.verdict == "dominated"


def test_stein_blend_against_both_of_its_ends():
    """Never far from the better one: the prior near it, the batch far from it."""
    options = {"radii": [0, 8], "directions": ["random"], "refine": 0}
    batch = verify(SteinBlend(), baseline=BatchStatistics(), **options)
    assert batch.verdict == "dominates"
    prior = verify(SteinBlend(), baseline=PriorBlend(math.inf), **options)
    assert prior.verdict == "crosses"
    assert [row.sign for row in prior.rows] == [1, -1]
    shifted = Statistics(np.arange(8.0), np.full(8, 1.0))
    moved = verify(SteinBlend(), baseline=BatchStatistics(), prior=shifted, **options)
    assert moved.rows[0].difference == pytest.approx(batch.rows[0].difference, rel=1e-6)


def test_weights_can_undo_dominance():
    assert verify(JamesStein(), loss=[8] + [1] * 7, radii=[2, 3], refine=0).verdict == "crosses"
    assert verify(JamesStein(), loss=[1] * 8, radii=[2, 3], refine=0).verdict == "dominates"


def test_worst_cases():
    attack = WorstCase(0.25)
    options = {"attack": attack, "known_variance": 1.0, "radii": [0, 2], "refine": 0, "budget": 2 * BLOCK}
    assert verify(JamesStein(), **options).verdict == "dominates"
    plain = verify(PLAIN, **options)
    assert plain.verdict == "dominated"
    assert plain.rows[0].tally.estimator == math.inf
    assert "[inf, inf]" in str(plain)


def test_a_searched_adversary_never_makes_a_rule_dominate():
    options = {
        "attack": WorstCase(0.25),
        "known_variance": 1.0,
        "radii": [0],
        "directions": ["axis"],
        "budget": 2 * BLOCK,
    }
    report = verify(ChannelJamesStein(), **options)
    assert report.rows[0].difference < -1
    assert report.verdict == "undecided"
    assert "a stronger one may turn the sign" in report.reason
    assert any("estimator's adversary is the best of a search" in c for c in report.caveats)
    turned = verify(SampleMean(), baseline=ChannelJamesStein(), **options)
    assert turned.verdict == "undecided"


@pytest.mark.parametrize("attack", [Sparse(1.0), Rademacher(1.0, common=True), Gaussian(0.5)], ids=str)
def test_no_proof_beyond_what_theorems_cover(attack):
    report = verify(JamesStein(), attack=attack, radii=[0, 1], refine=0, directions=["axis"])
    assert report.certificate is None
    assert report.verdict == "dominates"
    assert verify(JamesStein(), noise=Rademacher(), radii=[0], refine=0).certificate is None
    assert verify(JamesStein(), known_variance=3.0, radii=[0], refine=0).certificate is None


# Not to be fooled.


def test_heavy_tails_stay_open():
    """Plain James-Stein in 3 dimensions: the loss at the target has no variance, and a tie looks like a gain."""
    for seed in range(5):
        for rule in (PLAIN, replace(PLAIN, constant=2.0)):
            report = verify(rule, dim=3, known_variance=1.0, certificate=False, radii=[0, 0.5], seed=seed, budget=2**17)
            assert report.verdict == "undecided"
            assert "heavy tails" in report.reason


def test_ties_are_hardly_ever_decided():
    """60 seeds at confidence 0.8: at most 20% may be wrong, plus 3 standard deviations."""
    tie = replace(PLAIN, constant=2.0)
    options = {"known_variance": 1.0, "confidence": 0.8, "radii": [0, 2, 5], "refine": 0, "budget": 2**16}
    wrong = sum(verify(tie, seed=seed, **options).verdict != "undecided" for seed in range(60))
    assert wrong <= 60 * 0.2 + 3 * math.sqrt(60 * 0.16)


def row(radius, difference, half=0.1, direction="axis"):
    tally = Tally(10_000, 1.0 + difference, 1.0, difference, 1.0, 1.0, 1.0, -1e-3, 1e-3)
    return Row(radius, direction, difference - half, difference + half, tally)


def test_a_proof_that_is_contradicted_is_not_believed():
    proof = {"proved": True, "reason": "a theorem", "source": "somebody (1900)"}
    assert judge((row(0, -1.0), row(1, 0.0)), proof)[0] == "proved"
    verdict, reason = judge((row(0, -1.0), row(1, 1.0)), proof)
    assert verdict == "undecided"
    assert "contradict" in reason


def test_verdicts_from_rows():
    better, worse, still = row(0, -1.0), row(1, 1.0), row(2, 0.01)
    assert judge((better,), None)[0] == "dominates"
    assert judge((worse,), None)[0] == "dominated"
    assert judge((better, still), None)[0] == "undecided"
    assert judge((worse, still), None)[0] == "undecided"
    assert judge((better, worse, still), None)[0] == "crosses"
    rows = (better, still, row(3, 1.0), row(0, -1.0, direction="diagonal"))
    assert crossings(rows) == (Crossing("axis", 0, 3, True),)
    assert judge(rows, None)[1] == "better up to radius 0, worse from 3 on (axis); better throughout (diagonal)"


def test_dips_are_looked_into():
    """Close to the sample mean around radius 6 alone."""

    def rule(mean, noise):
        size = np.sqrt(np.sum(mean**2, axis=1, keepdims=True) / noise)
        return mean * np.where((size > 5.5) & (size < 7.5), 0.99, 0.9)

    report = verify(rule, radii=[0, 3, 6, 9], known_variance=1.0, directions=["axis"])
    assert [row.radius for row in report.rows] == [0, 3, 4.5, 6, 7.5, 9]
    assert not verify(rule, radii=[0, 3, 6, 9], directions=["axis"], refine=0).settings["refine"]


def test_bounds_are_shared_out_over_all_points_there_may_be():
    report = verify(Stein(mean="channel"), radii=[0, 2], directions=["axis", "random"], refine=6, confidence=0.9)
    for found in report.rows:
        assert (found.lower, found.upper) == interval(found.tally, 0.1 / 10)


def test_every_block_counts_once():
    report = verify(replace(PLAIN, constant=2.0), known_variance=1.0, radii=[1], budget=8 * BLOCK, refine=0)
    problem = ask(replace(PLAIN, constant=2.0), None, 8, 16, None, None, "mean", "squared", 1.0, None, 0)
    blocks = simulate(problem, [Point(1.0, "axis")], 0, 8)
    assert report.rows[0].tally == reduce(add, [block[0] for block in blocks])


# The same numbers, whoever does the work, and after an interruption.


QUESTION = {"radii": [0, 3, 6], "directions": ["axis", "random"], "seed": 5, "refine": 3, "budget": 2**15}


@pytest.fixture(scope="module")
def expected():
    return verify(Stein(mean="channel"), **QUESTION)


def test_threads_do_not_matter(expected):
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as executor:
            assert verify(Stein(mean="channel"), executor=executor, **QUESTION) == expected


def test_processes_do_not_matter(expected):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert verify(Stein(mean="channel"), executor=executor, **QUESTION) == expected
        with pytest.raises(ValueError, match="top level of a module"):
            verify(lambda mean, noise: mean, executor=executor, **QUESTION)


def test_dask_does_not_matter(expected):
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client, client.get_executor() as executor:
        assert verify(Stein(mean="channel"), executor=executor, **QUESTION) == expected


def test_tasks_do_not_matter(expected, monkeypatch):
    monkeypatch.setattr(dominance, "TASK", 1)
    assert verify(Stein(mean="channel"), **QUESTION) == expected


def interrupt(monkeypatch, looks):
    """Ctrl-C while the look after so many is at work."""
    original, calls = dominance._Search.look, []

    def look(self, *arguments):
        calls.append(1)
        if len(calls) > looks:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(dominance._Search, "look", look)


@pytest.mark.parametrize("looks", [1, 2])
def test_an_interrupted_run_keeps_what_is_done_and_goes_on(looks, expected, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        interrupt(patch, looks)
        report = verify(Stein(mean="channel"), path=path, **QUESTION)
    assert report.interrupted
    assert "interrupted before all was drawn" in str(report)
    assert report.rows
    assert DominanceReport.load(path) == report
    drawn = sum(r.replicates for r in report.rows)
    resumed = verify(Stein(mean="channel"), path=path, **QUESTION)
    assert not resumed.interrupted
    assert drawn < sum(r.replicates for r in resumed.rows)
    assert resumed.rows == expected.rows
    assert (resumed.verdict, resumed.reason) == (expected.verdict, expected.reason)
    assert DominanceReport.load(path) == resumed
    with monkeypatch.context() as patch:
        interrupt(patch, 0)  # nothing is left to be drawn
        assert verify(Stein(mean="channel"), path=path, **QUESTION) == resumed
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_interrupted_before_anything_was_drawn(monkeypatch, tmp_path):
    interrupt(monkeypatch, 0)
    report = verify(JamesStein(), path=tmp_path / "run.json")
    assert (report.verdict, report.rows) == ("undecided", ())
    assert "nothing was drawn" in str(report)


def test_an_interruption_never_turns_points_left_out_into_dominance(monkeypatch):
    original = dominance._Search.look

    def look(self, active, workers):
        if self.known:
            raise KeyboardInterrupt
        original(self, active[:2], workers)

    monkeypatch.setattr(dominance._Search, "look", look)
    report = verify(JamesStein(), certificate=False)
    assert report.verdict == "undecided"
    assert "3 points were not looked at" in report.reason


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(tmp_path):
    tie, path = replace(PLAIN, constant=2.0), tmp_path / "tie.json"
    options = {"known_variance": 1.0, "radii": [1, 3]}
    verify(tie, path=path, budget=2**14, **options)
    assert verify(tie, path=path, budget=2**16, **options) == verify(tie, budget=2**16, **options)


def test_files_of_other_settings_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "run.json"
    verify(ninety_percent, path=path, radii=[0], budget=2 * BLOCK)
    for options in ({"seed": 1}, {"n": 5}, {"confidence": 0.9}):
        with pytest.raises(ValueError, match="holds a report of other settings"):
            verify(ninety_percent, path=path, radii=[0], **options)
    with pytest.raises(ValueError, match=r"other settings \(estimator\)"):
        verify(best_multiple, path=path, radii=[0])
    for damage in ("", "{}", "[1]", path.read_text()[:-50], path.read_text().replace("report 1", "report 9")):
        path.write_text(damage)
        with pytest.raises(ValueError, match="not a dominance report"):
            verify(ninety_percent, path=path, radii=[0])


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("replicates", 7, "no run has drawn"),
        ("direction", "north", "no run has drawn"),
        ("replicates", 0, "no simulation has such a row"),
        ("replicates", math.inf, "not a dominance report"),
        ("difference_m2", -1.0, "no simulation has such a row"),
        ("radius", -1.0, "no simulation has such a row"),
        ("replicates", 2**32, "no run has drawn"),
        ("replicates", 8192.0, "number of replicates is 8192.0"),
        ("replicates", True, "number of replicates is True"),
        ("radius", 1.0, "no run has drawn"),
        ("estimator", math.nan, "no simulation has such a row"),
        ("estimator", 1e9, "no simulation has such a row"),
        ("difference", math.nan, "no simulation has such a row"),
        ("difference_m2", math.nan, "no simulation has such a row"),
        ("largest", -1e9, "no simulation has such a row"),
        ("lower", math.inf, "no simulation has such a row"),
        ("estimator", "x", "not a dominance report"),
        ("estimator", None, "not a dominance report"),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_file_that_was_changed_is_refused(field, value, match, older, tmp_path):
    path = tmp_path / "run.json"
    verify(ninety_percent, path=path, radii=[0], budget=2 * BLOCK)
    content = json.loads(path.read_text())
    row = content["rows"][0]
    (row["tally"] if field in row["tally"] else row)[field] = value
    if older:  # without the checksum, which finds all of them
        del content["checksum"]
    path.write_text(json.dumps(content))
    before = path.read_text()
    with pytest.raises(ValueError, match=f"run.json.*{match if older else 'checksum does not fit'}"):
        verify(ninety_percent, path=path, radii=[0])
    assert path.read_text() == before


def test_a_file_of_an_older_run_is_taken_up(tmp_path):
    path = tmp_path / "run.json"
    first = verify(ninety_percent, path=path, radii=[0], budget=2 * BLOCK)
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert verify(ninety_percent, path=path, radii=[0], budget=2 * BLOCK).rows == first.rows
    content["rows"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no run has drawn"):
        verify(ninety_percent, path=path, radii=[0])


def test_rules_that_a_file_cannot_tell_apart_are_refused(tmp_path):
    lock = threading.Lock()
    with pytest.raises(ValueError, match="no name"):
        verify(lambda mean, noise: mean if lock.locked() else 0 * mean, path=tmp_path / "x.json")
    with pytest.raises(ValueError, match="no name"):
        verify(np.frompyfunc(lambda a, b: a, 2, 1).__call__, path=tmp_path / "x.json")
    first, second = (describe(f, exactly=True) for f in (lambda m, v: m, lambda m, v: m * 2))
    assert first != second


def test_describe():
    assert describe(JamesStein(constant=2.0)) == "JamesStein(constant=2.0)"
    assert describe(ninety_percent) == "ninety_percent"
    assert describe(PriorBlend(3)) == "PriorBlend(strength=3)"


# The report.


def test_json_keeps_everything(expected, tmp_path):
    assert DominanceReport.from_json(expected.to_json()) == expected
    json.loads(expected.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    infinite = verify(PLAIN, attack=WorstCase(0.5), known_variance=1.0, radii=[0], budget=2 * BLOCK)
    again = DominanceReport.from_json(infinite.to_json())
    assert again.rows[0].tally.estimator == math.inf
    assert str(again) == str(infinite)


def test_summary_reads_well(expected):
    text = str(expected)
    assert text.startswith("Stein(mean='channel') against SampleMean(): CROSSES\nbetter up to radius")
    assert "0.99 bounds" in text
    assert max(map(len, text.splitlines()[4:-6])) <= 110


def test_the_picture(expected, tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = expected.plot(tmp_path / "picture.png")
    assert len(figure.axes) == 2
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    (label,) = [name for name in lines if name.startswith("Stein") and name.endswith("axis")]
    rows = [r for r in expected.rows if r.direction == "axis"]
    np.testing.assert_allclose(lines[label].get_ydata(), [r.tally.estimator for r in rows])
    assert "minimax risk, 8" in lines
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert pixels.shape[0] > 700
    assert pixels[..., :3].std() > 0.05
    axes = matplotlib.figure.Figure().subplots(2, 1)
    assert expected.plot(tuple(axes)) is axes[0].figure
    assert axes[1].get_lines()
    verify(PLAIN, attack=WorstCase(0.5), known_variance=1.0, radii=[0, 1], budget=2 * BLOCK).plot()


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich is not installed")
    verify(JamesStein(), radii=[0], progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    verify(JamesStein(), radii=[0], progress=True)
    assert "points settled" in capsys.readouterr().err
    verify(JamesStein(), radii=[0], progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": Stein}, "must be a rule such as"),
        ({"estimator": "stein"}, "must be a rule such as"),
        ({"baseline": 3}, "baseline must be a rule"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"n": 0, "known_variance": 1.0}, "n must be at least 1"),
        ({"n": 1}, "n must be at least 2"),
        ({"estimator": Stein(), "n": 1, "known_variance": 1.0}, "n must be at least 2"),
        ({"radii": []}, "radii"),
        ({"radii": [-1.0]}, "radii"),
        ({"radii": [math.nan]}, "radii"),
        ({"confidence": 1.0}, "confidence"),
        ({"budget": 10}, "budget"),
        ({"refine": -1}, "refine"),
        ({"seed": -1}, "seed"),
        ({"statistic": "median"}, "statistic"),
        ({"loss": "absolute"}, "loss must be one of"),
        ({"loss": "entropy"}, "entropy is for variances"),
        ({"loss": [1, 2]}, "must be 8 finite numbers"),
        ({"executor": 1}, "executor must have a method submit, .*, got 1"),
        ({"noise": WorstCase(1.0)}, "noise must be a noise model"),
        ({"attack": 0.1}, "attack must be"),
        ({"known_variance": 0.0}, "known_variance"),
        ({"n": 10**6, "noise": Rademacher()}, "too large to be drawn"),
        ({"directions": ["up"]}, "directions must be some of"),
        ({"statistic": "var", "estimator": RobustNorm()}, "RobustNorm is a range, not a variance"),
        ({"statistic": "var", "estimator": MinMaxNorm()}, "MinMaxNorm is a range, not a variance"),
        ({"statistic": "var", "estimator": SampleMean()}, "estimates means"),
        ({"statistic": "var", "estimator": Stein(), "dim": 1}, "dim must be at least 2"),
        ({"statistic": "var", "estimator": Stein(), "attack": WorstCase(1.0)}, "leaves its variances alone"),
    ],
)
def test_bad_questions(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        verify_dominance(**{"estimator": JamesStein(), "dim": 8, "n": 4, "radii": [0.0], **options})


def test_a_library_function_serves_as_a_rule():
    def grand_mean(mean, noise):
        return james_stein(mean, noise, target="mean").estimate

    report = verify(grand_mean, radii=[0, 2], refine=0)
    assert report.verdict == "dominates"


@pytest.mark.parametrize("lost", ["estimator", "baseline"])
def test_estimates_that_are_missing_are_called_that(lost):
    rules = {"estimator": JamesStein(), "baseline": SampleMean(), lost: missing}
    report = verify_dominance(**rules, dim=3, n=5, radii=[0, 1], budget=2 * BLOCK, progress=False)
    assert report.verdict == "undecided"
    assert report.reason.endswith("an estimate is NaN there, and has no risk")


def missing(mean, noise):
    return mean * math.nan
