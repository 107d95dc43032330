"""What a class says of itself (proofs, short cuts) does not hold for what others derive from it."""

from dataclasses import dataclass

import numpy as np
import pytest

from shrinkstats import Statistics
from shrinkstats.estimators import BatchStatistics, Estimator, MinMaxNorm, RobustNorm, Stein
from shrinkstats.rules.base import said

theory = pytest.importorskip("shrinkstats.theory")
from shrinkstats.theory import simulation  # noqa: E402
from shrinkstats.theory.certificate import certify  # noqa: E402
from shrinkstats.theory.dominance import verify_dominance  # noqa: E402
from shrinkstats.theory.noise import ClippedCauchy, Gaussian, WorstCase  # noqa: E402
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein, SampleMean, SymmetricRule  # noqa: E402

KNOWN = [
    SampleMean(),
    JamesStein(),
    JamesStein(constant=0.0, positive_part=False),
    ChannelJamesStein(),
    SymmetricRule(lambda w: 4 * w / (1 + w)),
    BatchStatistics(),
    RobustNorm(),
    Stein(),
    Stein(mean="channel"),
    Stein(mean=None),
]
TEN = 10.0  # what the derived rules estimate, whatever they see


def derived(rule, **members):
    """An instance of a class derived from that of a rule, with the same fields."""
    made = dataclass(frozen=True)(type("Derived", (type(rule),), {"__module__": __name__, **members}))
    return made(**vars(rule))


def overridden(rule):
    """The rule with another formula."""
    if isinstance(rule, Estimator):
        return derived(rule, statistics=lambda self, m, prior: Statistics(0 * m.mean + TEN, m.var()))
    return derived(rule, __call__=lambda self, mean, noise: 0 * np.asarray(mean) + TEN)


def mixed(rule):
    """The same, by a base that comes first."""
    member = "statistics" if isinstance(rule, Estimator) else "__call__"
    mixin = type("Mixin", (), {member: getattr(type(overridden(rule)), member)})
    made = dataclass(frozen=True)(type("Derived", (mixin, type(rule)), {"__module__": __name__}))
    return made(**vars(rule))


def ask(estimator, baseline, **options):
    fixed = {"dim": 6, "n": 8, "radii": [3.0], "directions": "axis", "budget": 2**13, "refine": 0, "progress": False}
    return verify_dominance(estimator, baseline=baseline, **{**fixed, **options})


@pytest.mark.parametrize("attack", [None, Gaussian(1e-9), WorstCase(1e-9)], ids=["none", "Gaussian", "worst case"])
@pytest.mark.parametrize("change", [overridden, mixed])
@pytest.mark.parametrize("rule", KNOWN, ids=lambda rule: type(rule).__name__)
def test_a_derived_rule_is_simulated_by_its_own_formula_and_nothing_is_proved_of_it(rule, change, attack):
    other = change(rule)
    for pair in ((other, JamesStein(positive_part=False)), (SampleMean(), other), (Stein(), other)):
        assert not certify(*pair, dim=6, n=8, noise_df=42).proved
        assert not certify(*pair[::-1], dim=6, n=8, noise_df=42).proved
    report = ask(other, SampleMean(), attack=attack)
    assert report.verdict in ("dominated", "undecided")  # the worst case is only searched for
    # An estimate that nothing moves: |10 - truth|^2 over the variance of a mean.
    exact = pytest.approx(np.sum((TEN - 3 * np.eye(6)[0] / np.sqrt(8)) ** 2) * 8, rel=1e-6)
    assert report.rows[0].tally.estimator == exact
    assert attack is not None or ask(SampleMean(), other).rows[0].tally.baseline == exact


@pytest.mark.parametrize("rule", KNOWN, ids=lambda rule: type(rule).__name__)
def test_a_derived_rule_that_only_says_more_is_what_it_was(rule):
    again = derived(rule, __doc__="In words of one's own.")
    assert said(again, "mean_is") == said(rule, "mean_is") is not None
    baseline = JamesStein(positive_part=False)
    found, expected = (certify(r, baseline, dim=6, n=8, noise_df=42) for r in (again, rule))
    assert (found.proved, found.source, found.margin) == (expected.proved, expected.source, expected.margin)
    assert certify(Stein(), again, dim=6, n=8).proved == certify(Stein(), rule, dim=6, n=8).proved
    assert ask(again, SampleMean(), certificate=False).rows == ask(rule, SampleMean(), certificate=False).rows


def test_every_member_counts():
    """A closed form may be built on any of them."""
    assert said(derived(JamesStein(), level=lambda self, dim: 100), "mean_is") is None
    assert said(derived(SymmetricRule(np.sqrt), amount=lambda self, w, dim: w), "mean_is") is None
    hidden = Stein()
    object.__setattr__(hidden, "statistics", lambda m, prior: Statistics(0 * m.mean, m.var()))
    assert said(hidden, "mean_is") is None
    assert said(hidden, "compiled") is None


def test_what_is_said_anew_is_said():
    assert said(derived(Stein(), statistics=None, mean_is="something else"), "mean_is") == "something else"


def test_a_second_statistic_is_a_variance_until_the_scale_is_another():
    """The formula of the estimate says nothing of what `scale` makes of it."""
    assert said(overridden(Stein()), "spread_is") == "variance"
    assert said(overridden(MinMaxNorm()), "spread_is") == "range"
    assert said(derived(Stein(), scale=lambda self, spread, eps: spread), "spread_is") is None
    assert said(derived(MinMaxNorm(), tracked=lambda self, spread, count: spread), "spread_is") is None
    with pytest.raises(ValueError, match="second statistic of Derived is unknown"):
        verify_dominance(
            derived(Stein(), scale=lambda self, spread, eps: spread), statistic="var", dim=4, n=8, radii=[0.0]
        )


def test_a_rule_that_equals_everything_is_not_the_sample_mean():
    class Agreeable:
        def __call__(self, mean, noise):
            return 0 * mean

        def __eq__(self, other):
            return True

        __hash__ = None

    assert not certify(Stein(), Agreeable(), dim=6, n=8).proved


def test_a_rule_may_call_anything_its_target():
    class Towards:
        target = np.ones(6)

        def __call__(self, mean, noise):
            return mean / 2

    assert ask(Towards(), SampleMean(), radii=[0.0]).verdict == "dominates"


# Noise.


class Wide(Gaussian):
    """Ten times as wide as the normal noise that it is derived from."""

    @property
    def variance(self):
        return 100 * self.scale**2

    def draw(self, rng, size):
        return 10 * super().draw(rng, size)


class Signs(Gaussian):
    def draw(self, rng, size):
        return np.where(rng.random(size) < 0.5, -self.scale, self.scale)


class Doubling(Gaussian):
    """An attack that depends on the data."""

    def perturb(self, sample, draws):
        return 2 * sample


class Kept(ClippedCauchy):
    def draw(self, rng, size):
        return np.zeros(size)


def test_derived_noise_draws_for_itself():
    assert ask(JamesStein(), None, noise=Signs()).certificate is None
    assert not simulation.symmetric(simulated(noise=Signs()))
    # Of two signs the midpoint is 0 or 1: its square times n, in units of the variance, is 0 or 2 per channel.
    (row, *_) = ask(lambda m, v: m * (np.abs(m) > 0.5), SampleMean(), n=2, noise=Signs(), radii=[0.0]).rows
    assert row.tally.difference == 0
    assert ask(SampleMean(), lambda m, v: m / 2, noise=Wide(), radii=[0.0]).rows[0].tally.estimator == pytest.approx(
        6, rel=0.1
    )


@pytest.mark.parametrize("rule", [SampleMean(), lambda m, v: m], ids=["by sums", "by estimates"])
def test_an_attack_that_looks_at_the_data_is_shown_them(rule):
    report = ask(rule, lambda m, v: m / 2, attack=Doubling(), radii=[30.0])
    # The estimate is twice the mean: off by the truth, 30 standard errors, and twice the noise; half of it is not.
    assert report.rows[0].tally.estimator == pytest.approx(30**2 + 4 * 6, rel=0.02)
    assert report.rows[0].tally.baseline == pytest.approx(6, rel=0.1)


def test_derived_attacks_draw_for_themselves():
    report = ask(lambda m, v: m, lambda m, v: m / 2, attack=Kept(low=-100.0, high=100.0), radii=[0.0])
    assert report.rows[0].tally.estimator == pytest.approx(6, rel=0.1)


def simulated(**options):
    from shrinkstats.theory.question import ask as pose

    return pose(JamesStein(), None, **{"dim": 6, "n": 8, "attack": None, "statistic": "mean", "loss": "squared",
                                       "known_variance": None, "prior": None, "seed": 0, **options})  # fmt: skip
