"""Losses of simulated estimates: against exact risks, against plain recomputation, and the same however dealt out."""

import math
import pickle
import tracemalloc
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from scipy import stats

import shrinkstats
from shrinkstats import Prior, estimators
from shrinkstats.theory import simulation
from shrinkstats.theory.attack import searched_loss, worst_symmetric_loss
from shrinkstats.theory.noise import ClippedCauchy, Gaussian, Rademacher, Sparse, Uniform, WorstCase
from shrinkstats.theory.risk import james_stein_risk
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein, SampleMean, SymmetricRule
from shrinkstats.theory.simulation import Point, Problem, simulate

PLAIN = JamesStein(positive_part=False)
POINTS = [Point(r, name) for r in (0.0, 1.0, 3.0, 9.0) for name in ("axis", "diagonal", "random")]


def problem(estimator, baseline=None, **options):
    defaults = {
        "dim": 6,
        "n": 5,
        "noise": Gaussian(),
        "attack": None,
        "statistic": "mean",
        "loss": "squared",
        "known_variance": None,
        "prior": None,
        "seed": 11,
    }
    return Problem(estimator, SampleMean() if baseline is None else baseline, **{**defaults, **options})


def total(question, points, blocks=2):
    return [reduce(add, tallies) for tallies in zip(*simulate(question, points, 0, blocks), strict=True)]


def standard_error(tally, which):
    return math.sqrt(getattr(tally, f"{which}_m2") / tally.replicates**2)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rule", [JamesStein(), PLAIN], ids=["positive part", "plain"])
@pytest.mark.parametrize("dim", [8, 64])
def test_two_numbers_give_the_exact_risk(dim, rule, known):
    df = None if known else dim * 4
    rule = replace(rule, df=df)
    points = [Point(r, "axis") for r in (0.0, 1.0, 4.0, 15.0)]
    question = problem(rule, dim=dim, known_variance=1.0 if known else None)
    assert simulation.symmetric(question)
    for point, tally in zip(points, total(question, points, 6), strict=True):
        exact = james_stein_risk(dim, point.radius, df=df, positive_part=rule.positive_part)
        assert abs(tally.estimator - exact) < 4.5 * standard_error(tally, "estimator")
        assert abs(tally.difference - (exact - dim)) < 4.5 * standard_error(tally, "difference")
        assert abs(tally.baseline - dim) < 4.5 * standard_error(tally, "baseline")


@pytest.mark.parametrize("positive_part", [True, False])
def test_vectors_give_the_exact_risk(positive_part, monkeypatch):
    monkeypatch.setattr(simulation, "symmetric", lambda _: False)
    rule = JamesStein(positive_part=positive_part, df=32)
    for point, tally in zip(POINTS, total(problem(rule, dim=8), POINTS, 4), strict=True):
        exact = james_stein_risk(8, point.radius, df=32, positive_part=positive_part)
        assert abs(tally.estimator - exact) < 4.5 * standard_error(tally, "estimator")


RULES = [
    JamesStein(),
    JamesStein(constant=1.7, positive_part=False),
    JamesStein(df=3.0),
    ChannelJamesStein(),
    SymmetricRule(lambda w: 8 * (1 - np.exp(-w / 8))),
    estimators.Stein(),
    estimators.Stein(mean="channel"),
    estimators.Stein(mean=None),
    estimators.BatchStatistics(),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule).partition("<")[0])
@pytest.mark.parametrize(
    "law",
    [
        {"noise": Uniform(2.0)},
        {"noise": Rademacher(), "n": 2},  # variances and deviations of exactly zero occur
        {"attack": Sparse(1.5, probability=0.3, common=True), "known_variance": 1.0},
        {"attack": Gaussian(0.7)},
        {"dim": 2},
    ],
    ids=str,
)
def test_a_few_sums_stand_for_the_estimates(rule, law, monkeypatch):
    """The same draws, with each rule's own function on whole vectors."""
    monkeypatch.setattr(simulation, "BLOCK", 300)
    monkeypatch.setattr(simulation, "symmetric", lambda _: False)
    question = problem(rule, SampleMean(), **law)
    assert simulation.by_sums(question)
    fast = total(question, POINTS)
    monkeypatch.setattr(simulation, "by_sums", lambda _: False)
    for a, b in zip(fast, total(question, POINTS), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_estimates_from_observations_written_out():
    """One block, every step in plain NumPy."""
    noise, attack = Uniform(0.5), Sparse(2.0, probability=0.2)
    question = problem(estimators.Stein(), noise=noise, attack=attack, loss=(1.0, 2.0, 0.0, 1.0, 1.0, 3.0))
    point = Point(3.0, "random")
    u = simulation.direction(question, "random")
    true = 3.0 * 0.5 / math.sqrt(5) * u
    losses = []
    rng, other = simulation.generator(11, 0), simulation.generator(11, 0, 1)
    size = simulation.CHUNK // 30
    for begin in range(0, simulation.BLOCK, size):
        count = min(size, simulation.BLOCK - begin)
        hit = attack.draw(other, (count, 5, 6))
        x = true + noise.draw(rng, (count, 5, 6)) + hit
        for batch in x:
            own = batch.var(axis=0, ddof=1) / 5
            found = shrinkstats.james_stein(batch.mean(axis=0), own).estimate
            losses.append(np.sum(np.array(question.loss) * (found - true) ** 2) * 5 / 0.25)
    (tally,) = simulate(question, [point], 0, 1)[0]
    assert tally.estimator == pytest.approx(np.mean(losses), rel=1e-12)
    assert tally.estimator_m2 == pytest.approx(np.var(losses) * len(losses), rel=1e-9)


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("model", [Gaussian, Sparse, Rademacher])
def test_an_attack_adds_its_variance(model, common):
    """Once for the batch, or washed out by averaging; the sample mean's risk says which."""
    question = problem(JamesStein(), attack=model(0.8, common=common), n=4)
    (tally,) = total(question, [Point(2.0, "axis")], 4)
    expected = 6 * (1 + 0.64 * (4 if common else 1))
    assert abs(tally.baseline - expected) < 4.5 * standard_error(tally, "baseline")


@pytest.mark.parametrize("common", [False, True])
def test_gaussian_attack_by_its_law_and_by_observations(common, monkeypatch):
    attack = Gaussian(0.8, common=common)
    exact = problem(JamesStein(), attack=attack)
    by_law = total(exact, [Point(2.0, "axis")], 6)[0]
    monkeypatch.setattr(simulation, "_gaussian", lambda _: False)
    drawn = total(exact, [Point(2.0, "axis")], 6)[0]
    for which in ("estimator", "baseline", "difference"):
        error = math.hypot(standard_error(by_law, which), standard_error(drawn, which))
        assert abs(getattr(by_law, which) - getattr(drawn, which)) < 4.5 * error


def test_clipped_cauchy_sees_the_data():
    question = problem(
        JamesStein(target=0.5), noise=Gaussian(0.05), attack=ClippedCauchy(0.3), n=3, dim=4, known_variance=0.0025
    )
    point = Point(8.0, "diagonal")
    true = 0.5 + 8 * 0.05 / math.sqrt(3) * np.full(4, 0.5)
    rng, other, losses = simulation.generator(11, 0), simulation.generator(11, 0, 1), []
    for begin in range(0, simulation.BLOCK, simulation.CHUNK // 12):
        count = min(simulation.CHUNK // 12, simulation.BLOCK - begin)
        hit = question.attack.raw(other, (count, 3, 4))
        x = np.clip(true + question.noise.draw(rng, (count, 3, 4)) + hit, 0, 1).mean(axis=1)
        losses.append(np.sum((x - true) ** 2, axis=1) * 3 / 0.0025)
    assert simulate(question, [point], 0, 1)[0][0].baseline == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)


@pytest.mark.parametrize("loss", ["squared", "scale-invariant", "entropy", (1.0, 0.0, 2.0, 1.0, 1.0, 1.0)])
def test_losses_of_variances(loss):
    """gamma_stein and the sample variance on chi-square variances, written out."""
    question = problem(
        shrinkstats.gamma_stein, estimators.BatchStatistics(), statistic="var", loss=loss, noise=Gaussian(1.5)
    )
    point = Point(2.0, "diagonal")
    tally = simulate(question, [point], 0, 1)[0][0]
    true = 2.25 * np.exp(2.0 * math.sqrt(2 / 4) * np.array([1, 1, 1, -1, -1, -1]) / math.sqrt(6))
    np.testing.assert_allclose(simulation.true_variances(question, point), true)
    draws = np.concatenate([d.variances for d in simulation._draws(question, 0)])
    assert stats.kstest(draws.ravel()[:5000] * 4, stats.chi2(4).cdf).pvalue > 1e-4
    var = draws * true * 4 / 5
    for found, value in ((shrinkstats.gamma_stein(var, 5), tally.estimator), (var, tally.baseline)):
        ratio = found / true
        expected = {
            "squared": (found - true) ** 2,
            "scale-invariant": (ratio - 1) ** 2,
            "entropy": ratio - np.log(ratio) - 1,
        }.get(
            loss if isinstance(loss, str) else "",
            np.asarray(loss if not isinstance(loss, str) else 0) * (found - true) ** 2,
        )
        assert value == pytest.approx(expected.sum(axis=1).mean(), rel=1e-12)


def test_the_sample_variance_has_its_risk():
    question = problem(estimators.Stein(), estimators.BatchStatistics(), statistic="var", loss="scale-invariant", n=9)
    for tally in total(question, POINTS, 4):
        exact = 6 * (2 * 8 + 1) / 81  # (n-1)/n of the truth on average, with variance 2(n-1)/n^2
        assert abs(tally.baseline - exact) < 4.5 * standard_error(tally, "baseline")


def test_contaminated_variances_refer_to_the_clean_truth():
    question = problem(estimators.Stein(var=None), attack=Sparse(1.0), statistic="var", loss="squared", n=4)
    question = replace(question, baseline=estimators.BatchStatistics())
    ((tally,),) = simulate(question, [Point(0.0, "axis")], 0, 1)
    assert tally.baseline > 6 * 2 * (2 * 3) / 16  # far beyond the clean risk
    assert tally.difference == 0


def test_blends_take_their_prior():
    prior = Prior(np.arange(6.0), np.full(6, 4.0))
    question = problem(estimators.PriorBlend(5), estimators.PriorBlend(math.inf), prior=prior)
    for point, tally in zip(POINTS, total(question, POINTS), strict=True):
        assert tally.baseline == pytest.approx(point.radius**2)  # the prior itself, at its distance from the truth
        exact = 6 / 4 + point.radius**2 / 4  # half and half
        assert abs(tally.estimator - exact) < 4.5 * standard_error(tally, "estimator") + 1e-9


def in_a_ball(rng, center, budget, count):
    step = rng.normal(size=(count, len(center)))
    step *= budget * rng.random((count, 1)) ** 0.3 / np.linalg.norm(step, axis=1, keepdims=True)
    edge = step / np.linalg.norm(step, axis=1, keepdims=True) * budget
    return center + np.concatenate([step, edge])


@pytest.mark.parametrize("positive_part", [True, False])
@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_the_worst_case_is_the_largest_loss_in_the_ball(rate, positive_part):
    """Against 200,000 moves in three dimensions."""
    rng = np.random.default_rng(5)
    for _ in range(6):
        truth, d = np.array([2.0, 0, 0]) * rng.random(), rng.normal(size=3) * 2
        budget = 0.9 * np.linalg.norm(d) if not positive_part else rate * rng.random()
        amount = 1.0

        def removed(squares, amount=amount):
            share = amount / np.where(squares > 0, squares, 1e-300)
            return np.minimum(share, 1.0) if positive_part else share

        radius = float(np.linalg.norm(truth))
        found = worst_symmetric_loss(removed, np.array([d @ d]), np.array([d[0]]), radius, budget)[0]
        moved = in_a_ball(rng, d, budget, 100_000)
        losses = np.sum(((1 - removed(np.sum(moved**2, axis=1)))[:, None] * moved - truth) ** 2, axis=1)
        assert losses.max() <= found * (1 + 1e-5)
        assert losses.max() >= found * 0.97


def test_a_ball_around_the_target_sends_plain_james_stein_anywhere():
    def removed(squares):
        return 6 / squares

    squares, along = np.array([1.0, 4.0]), np.array([0.3, 0.3])
    assert worst_symmetric_loss(removed, squares, along, 2.0, 1.5).tolist()[0] == math.inf
    assert math.isfinite(worst_symmetric_loss(removed, squares, along, 2.0, 1.5)[1])


def test_the_worst_case_of_the_sample_mean_in_closed_form():
    rng = np.random.default_rng(6)
    d, truth = rng.normal(size=(1000, 5)) * 3, np.array([2.0, 0, 0, 0, 0])
    found = worst_symmetric_loss(np.zeros_like, np.sum(d * d, axis=1), d[:, 0], 2.0, 1.5)
    np.testing.assert_allclose(found, (np.linalg.norm(d - truth, axis=1) + 1.5) ** 2, rtol=1e-5)
    question = problem(ChannelJamesStein(), attack=WorstCase(1.5), known_variance=1.0)
    assert simulation.adversary_is_exact(question, SampleMean())
    assert not simulation.adversary_is_exact(question, ChannelJamesStein())
    assert not simulation.adversary_is_exact(question, JamesStein())  # beside a rule that needs the vectors
    assert not simulation.adversary_is_exact(replace(question, loss=(1.0,) * 6), SampleMean())


def test_the_search_finds_no_more_than_the_worst_case():
    rng = np.random.default_rng(7)
    mean, truth = rng.normal(size=(400, 4)) * 2, np.array([1.0, 0, 0, 0])

    def loss(m):
        return np.sum((JamesStein()(m, 1.0) - truth) ** 2, axis=1)

    found = searched_loss(loss, mean, truth, 0.8, "l2", rng)
    squares = np.sum(mean * mean, axis=1)
    worst = worst_symmetric_loss(lambda s: np.minimum(2 / s, 1), squares, mean[:, 0], 1.0, 0.8)
    assert np.all(found <= worst * (1 + 1e-4))
    assert np.all(found >= loss(mean))
    assert np.mean(found) > 0.9 * np.mean(worst)
    cube = searched_loss(loss, mean, truth, 0.8, "linf", rng)
    assert np.all(cube >= loss(mean))


def test_plain_james_stein_has_infinite_risk_in_the_worst_case():
    question = problem(PLAIN, attack=WorstCase(0.3), known_variance=1.0)
    for tally in simulate(question, [Point(0.0, "axis"), Point(20.0, "axis")], 0, 1)[0]:
        assert tally.estimator == math.inf  # though no sample at radius 20 came near the target
        assert math.isfinite(tally.baseline)


@pytest.mark.parametrize(
    "question",
    [problem(JamesStein()), problem(estimators.Stein(), noise=Uniform()), problem(lambda m, v: 0.9 * m)],
    ids=["two numbers", "vectors", "estimates"],
)
def test_points_and_blocks_do_not_influence_each_other(question):
    together = simulate(question, POINTS, 0, 3)
    alone = [simulate(question, [p], b, b + 1)[0][0] for b in range(3) for p in POINTS]
    assert [t for block in together for t in block] == alone
    other = simulate(replace(question, seed=12), POINTS, 0, 1)[0]
    assert other[0] != together[0][0]
    assert together[0] != together[1]


def test_problems_are_picklable():
    question = problem(estimators.SteinBlend(), prior=Prior(np.zeros(6), np.ones(6)), attack=WorstCase(1.0))
    copy = pickle.loads(pickle.dumps(question))
    assert copy.attack == question.attack
    assert copy.estimator == question.estimator


def test_memory_stays_bounded():
    question = problem(estimators.SteinBlend(), noise=Uniform(), dim=512, n=16)
    simulation.simulate(replace(question, n=2, dim=3), POINTS[:1], 0, 1)
    tracemalloc.start()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(simulation, "BLOCK", 64)
    simulate(question, POINTS, 0, 2)
    monkey.undo()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_directions():
    question = problem(JamesStein())
    for name in ("axis", "diagonal", "random"):
        assert np.linalg.norm(simulation.direction(question, name)) == pytest.approx(1)
        centered = simulation.direction(replace(question, statistic="var"), name)
        assert np.linalg.norm(centered) == pytest.approx(1)
        assert centered.sum() == pytest.approx(0)


def test_a_callable_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"shape \(4096,\), expected \(4096, 6\)"):
        simulate(problem(lambda m, v: m[:, 0]), POINTS, 0, 1)


# Rules that look at the ends of a sample.


class Midrange(estimators.Estimator):
    """Says nothing of what it looks at, as most rules that users write."""

    def statistics(self, moments, prior):
        return shrinkstats.Statistics((moments.minimum + moments.maximum) / 2, moments.var())


class Liar(Midrange):
    uses_extremes = False


class Shifted(estimators.Stein):
    """Derived from a rule that has a short cut."""

    def statistics(self, moments, prior):
        return shrinkstats.Statistics(moments.mean + 1, moments.var())


def second_moment_of_the_minimum(n):
    """Of n standard normal numbers: by its density."""
    x = np.linspace(-9, 9, 200_001)
    return np.trapezoid(x**2 * n * stats.norm.pdf(x) * stats.norm.sf(x) ** (n - 1), x)


def variance_of_the_midrange(n):
    """By the joint density of the two ends."""
    x = np.linspace(-7, 7, 1401)
    low, high = x[:, None], x[None]
    inside = np.clip(stats.norm.cdf(high) - stats.norm.cdf(low), 0, None) ** (n - 2)
    density = np.where(high > low, n * (n - 1) * inside * stats.norm.pdf(low) * stats.norm.pdf(high), 0)
    return np.sum(density * ((low + high) / 2) ** 2) * (x[1] - x[0]) ** 2


@pytest.mark.parametrize("radius", [0.0, 3.0])
@pytest.mark.parametrize("n", [2, 5])
def test_extremes_are_those_of_samples(n, radius):
    expected = {estimators.MinMaxNorm(): second_moment_of_the_minimum(n), Midrange(): variance_of_the_midrange(n)}
    for rule, risk in expected.items():
        found = reduce(add, (t for (t,) in simulate(problem(rule, n=n), [Point(radius, "random")], 0, 6)))
        error = math.sqrt(found.estimator_m2) / found.replicates
        assert abs(found.estimator - 6 * n * risk) < 5 * error, rule
        assert found.baseline == pytest.approx(6, abs=0.2)


def test_extremes_move_with_the_attack():
    """The worst case moves a sample as a whole: the midrange errs by as much as the mean."""
    question = problem(Midrange(), estimators.BatchStatistics(), n=2, attack=WorstCase(0.5))
    ((tally,),) = simulate(question, [Point(0.0, "axis")], 0, 1)
    assert tally.estimator > 1.2 * 6 * 2 * variance_of_the_midrange(2)


def test_a_rule_that_denies_what_it_looks_at():
    with pytest.raises(ValueError, match="uses_extremes = True"):
        simulate(problem(Liar()), [Point(0.0, "axis")], 0, 1)


def test_a_rule_derived_from_another_is_not_taken_for_it():
    ((tally,),) = simulate(problem(Shifted(), estimators.BatchStatistics()), [Point(0.0, "axis")], 0, 1)
    assert tally.estimator - tally.baseline == pytest.approx(6 * 5, rel=0.05)
