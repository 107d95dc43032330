"""Proofs of dominance: what is known must come out, and nothing else may."""

from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkstats import estimators, james_stein, moments

theory = pytest.importorskip("shrinkstats.theory")
from shrinkstats.theory.certificate import certify  # noqa: E402
from shrinkstats.theory.intervals import enclose  # noqa: E402
from shrinkstats.theory.risk import james_stein_risk  # noqa: E402
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein, SampleMean, SymmetricRule  # noqa: E402
from shrinkstats.theory.sure import symmetric_unbiased_risk  # noqa: E402

MEAN = SampleMean()


def plain(constant=1.0, **options):
    return JamesStein(constant, positive_part=False, **options)


def positive(constant=1.0, **options):
    return JamesStein(constant, positive_part=True, **options)


@pytest.mark.parametrize("rule", [plain(), positive()])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 64, 4096])
def test_james_stein_dominates_the_mean_from_three_dimensions_on(rule, dim):
    assert certify(rule, MEAN, dim=dim).proved == (dim >= 3)
    assert not certify(MEAN, rule, dim=dim).proved


@pytest.mark.parametrize("dim", [3, 4])
def test_towards_the_grand_mean_from_four_on(dim):
    assert certify(positive(target="mean"), MEAN, dim=dim).proved == (dim == 4)
    assert certify(positive(target="mean"), plain(target="mean"), dim=dim).proved == (dim == 4)
    assert certify(plain(2.0, target="mean"), MEAN, dim=dim).margin == 0


def test_twice_the_constant_ties_and_more_is_dominated():
    for dim in (3, 10, 513):
        assert certify(plain(1.999), MEAN, dim=dim).proved
        assert certify(plain(np.nextafter(2, 0)), MEAN, dim=dim).proved
        for pair in ((plain(2.0), MEAN), (MEAN, plain(2.0)), (plain(2.0), plain(0.0)), (plain(), plain())):
            tie = certify(*pair, dim=dim)
            assert not tie.proved
            assert tie.margin == 0
            assert "equal" in tie.reason
        for constant in (np.nextafter(2, 3), 2.001):
            assert not certify(plain(constant), MEAN, dim=dim).proved
            assert not certify(positive(constant), MEAN, dim=dim).proved
            assert certify(MEAN, plain(constant), dim=dim).proved


def test_the_positive_part_dominates_the_plain_estimate():
    certificate = certify(positive(), plain(), dim=5)
    assert certificate.proved
    assert "Baranchik" in certificate.source
    assert not certify(plain(), positive(), dim=5).proved
    assert certify(positive(2.0), MEAN, dim=5).proved  # though the plain estimate ties
    assert certify(positive(2.0), plain(2.0), dim=5).proved
    assert not certify(positive(1.5), positive(), dim=5).proved
    assert not certify(positive(), positive(1.5), dim=5).proved  # cutting off earlier is better near the target


def test_with_an_estimated_variance():
    for df in (1, 5, 40):
        assert certify(plain(df=df), MEAN, dim=3).proved
        assert certify(plain(df=df), plain(), dim=3).proved
        assert certify(positive(df=df), plain(df=df), dim=3).proved
        assert not certify(plain(2.0, df=df), MEAN, dim=3).proved
        assert certify(plain(1.999, df=df), MEAN, dim=3).proved
        assert certify(MEAN, plain(2.001, df=df), dim=3).proved
    # Without the factor df/(df+2) the best constant is that, and the limit twice it: exactly 1 for 2 of them.
    assert not certify(plain(), MEAN, dim=3, noise_df=2).proved
    assert certify(plain(), MEAN, dim=3, noise_df=2).margin == 0
    assert certify(MEAN, plain(), dim=3, noise_df=1).proved
    assert not certify(plain(), MEAN, dim=3, noise_df=1).proved
    assert certify(plain(), MEAN, dim=3, noise_df=3).proved


def test_infinite_degrees_of_freedom_are_a_known_variance():
    assert certify(plain(2.5, df=5), MEAN, dim=4, noise_df=np.inf).proved
    assert not certify(plain(2.5, df=5), MEAN, dim=4).proved


def test_different_targets_are_not_compared():
    certificate = certify(positive(target=1.0), plain(), dim=5)
    assert not certificate.proved
    assert "target" in certificate.reason
    assert certify(positive(target=1.0), plain(target=1.0), dim=5).proved
    assert certify(positive(target=1.0), plain(0.0), dim=5).proved


RULES = st.builds(
    JamesStein, constant=st.sampled_from([0.0, 0.01, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0, 2.2]), positive_part=st.booleans()
)
RADII = np.array([0.0, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0])


@settings(max_examples=150, deadline=None)
@given(RULES, RULES, st.sampled_from([2, 3, 4, 10, 50]), st.sampled_from([None, 1.0, 4.0, 30.0]))
def test_no_certificate_against_the_exact_risks(left, right, dim, df):
    certificate = certify(left, right, dim=dim, noise_df=df)

    def risk(rule):
        share = 1 if df is None else (df + 2) / df  # the rule has no factor df/(df+2)
        options = {"df": df, "positive_part": rule.positive_part, "constant": rule.constant * share}
        return james_stein_risk(dim, RADII, **options)

    difference = risk(left) - risk(right)
    if certificate.proved:
        assert np.all(difference < 1e-10 * dim)
        assert difference.min() < 0
    if not left.positive_part and not right.positive_part:  # then the proof is there whenever the theorem is
        assert certificate.proved == bool(difference[0] < -1e-9)


@settings(max_examples=100, deadline=None)
@given(RULES, RULES, st.sampled_from([3, 8]), st.sampled_from([None, 2.0, 7.0]))
def test_the_largest_difference_by_brute_force(left, right, dim, df):
    """The exact maximum of N over w against a grid, by the closed form of the unbiased risk estimate."""
    w = np.linspace(1e-6, 3 * dim, 20001)
    values = []
    for rule in (left, right):
        slope = (w < float(rule.level(dim))) & rule.positive_part
        values.append(symmetric_unbiased_risk(rule.amount(w, dim), slope, w, dim=dim, noise_df=df))
    largest = np.max(w * (values[0] - values[1]))
    certificate = certify(left, right, dim=dim, noise_df=df)
    if "Baranchik" in certificate.source:
        assert certificate.proved
    elif certificate.margin is not None:
        assert -certificate.margin == pytest.approx(largest, rel=1e-2, abs=0.05)
        assert -certificate.margin >= largest - 1e-9


def test_stein_of_the_layers():
    batch = estimators.BatchStatistics()
    for dim, n in ((3, 2), (64, 4), (512, 1000)):
        certificate = certify(estimators.Stein(), batch, dim=dim, n=n)
        assert certificate.proved
        assert certificate.margin == pytest.approx((dim - 2) * (1 - 2 / (dim * (n - 1))))
        assert certify(estimators.Stein(mean="sampling", var=None), MEAN, dim=dim, n=n).proved
        assert not certify(batch, estimators.Stein(), dim=dim, n=n).proved
        assert not certify(estimators.Stein(), plain(), dim=dim, n=n).proved
    assert not certify(estimators.Stein(), batch, dim=2, n=5).proved
    assert not certify(estimators.Stein(), batch, dim=5, n=1).proved
    assert not certify(batch, estimators.Stein(mean=None), dim=5, n=4).proved


@pytest.mark.parametrize(("dim", "n"), [(3, 2), (3, 5), (8, 2), (30, 3)])
def test_the_argument_for_stein_of_the_layers_in_numbers(dim, n):
    rng = np.random.default_rng([dim, n])
    noise = rng.chisquare(n - 1, size=(100_000, dim)) / (n - 1)
    amount = np.maximum(noise.sum(axis=1) - 2 * noise.max(axis=1), 0)
    limit = (dim - 2) * (1 + 2 / (dim * (n - 1)))
    excess = amount**2 - limit * amount
    assert excess.mean() < 4 * excess.std() / np.sqrt(len(excess))
    # And its conclusion, on raw data, near the target and away from it.
    for radius in (0.0, 3.0):
        truth = np.zeros(dim)
        truth[0] = radius / np.sqrt(n)
        x = rng.normal(truth, 1.0, size=(10_000, n, dim))
        estimate = james_stein(x.mean(axis=1), x.var(axis=1, ddof=1) / n).estimate
        np.testing.assert_allclose(estimate[7], estimators.Stein()(moments(x[7]))[0], rtol=1e-10)
        gain = np.sum((estimate - truth) ** 2, axis=1) - np.sum((x.mean(axis=1) - truth) ** 2, axis=1)
        assert gain.mean() < -4 * gain.std() / np.sqrt(len(gain))


@pytest.mark.parametrize(
    "rule",
    [
        ChannelJamesStein(),
        estimators.Stein.published(),
        estimators.Ridge(),
        estimators.Lasso(),
        estimators.SteinBlend(),
        estimators.PriorBlend(16),
        lambda mean, noise: mean,
    ],
)
def test_what_no_theorem_covers_gets_no_certificate(rule):
    for pair in ((rule, MEAN), (MEAN, rule), (rule, rule)):
        certificate = certify(*pair, dim=10, n=8)
        assert not certificate.proved
        assert "no theorem" in certificate.reason


# Rules given by a formula, in 10 dimensions: c - 2 is 8.

SMOOTH = {
    "exponential": lambda k: lambda w: 8 * k * (1 - np.exp(-w / 8)),
    "hyperbola": lambda k: lambda w: 8 * k / (1 + 3 / w),
    "tanh": lambda k: lambda w: 8 * k * np.tanh(w / 8),
    "positive part": lambda k: lambda w: np.minimum(w, 8 * k),
    "plain": lambda k: lambda w: 8 * k,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_formulas_of_baranchiks_class(name):
    for constant in (0.5, 1.0, 1.999):
        assert certify(SymmetricRule(SMOOTH[name](constant)), MEAN, dim=10).proved
    for constant in (0.0, 2.001, 3.0, -0.5):
        assert not certify(SymmetricRule(SMOOTH[name](constant)), MEAN, dim=10).proved
    assert not certify(SymmetricRule(SMOOTH[name](1.0)), MEAN, dim=5).proved  # 8 is more than 2 (c - 2) there
    assert not certify(SymmetricRule(SMOOTH[name](1.0)), MEAN, dim=2).proved


@pytest.mark.parametrize("name", SMOOTH)
def test_formulas_with_an_estimated_variance(name):
    df = 4  # the limit is twice df / (df + 2)
    assert certify(SymmetricRule(SMOOTH[name](1.333)), MEAN, dim=10, noise_df=df).proved
    assert not certify(SymmetricRule(SMOOTH[name](1.334)), MEAN, dim=10, noise_df=df).proved


def test_formulas_against_james_stein():
    hugging = SymmetricRule(lambda w: 8 + 0 * w)
    assert certify(hugging, plain(1.1), dim=10).proved
    assert not certify(hugging, plain(), dim=10).proved
    assert not certify(hugging, positive(), dim=10).proved
    assert certify(hugging, positive(0.01), dim=10).proved


@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-6])
def test_a_narrow_dent_is_found(width):
    """A rule that violates the condition between any points one would look at."""

    def dented(w):
        return 8 - np.maximum(0.0, 1 - np.maximum(w - 100 / 7, 100 / 7 - w) / width) * 0.5

    certificate = certify(SymmetricRule(dented), MEAN, dim=10)
    assert not certificate.proved
    assert certify(SymmetricRule(lambda w: dented(w) * 0 + 8), MEAN, dim=10).proved


def test_rules_that_fall_are_judged_by_the_difference_not_by_monotonicity():
    def falling(height, start, length):
        return SymmetricRule(lambda w: 8 + height * np.minimum(1.0, np.maximum(0.0, (start + length - w) / length)))

    assert certify(falling(2, 10, 50), MEAN, dim=10).proved
    # Where the fall ends, N is -64 + 8 (start + length) / length: -4 w a' outweighs the rest if it falls faster.
    assert certify(falling(2, 69, 10), MEAN, dim=10).proved
    assert not certify(falling(2, 71, 10), MEAN, dim=10).proved
    assert not certify(falling(8.01, 1, 1e6), MEAN, dim=10).proved  # more than 2 (c - 2) at the target


@pytest.mark.parametrize("place", [4.0, *(pytest.param(w, marks=pytest.mark.long) for w in (4.0**-10, 3.0))])
@pytest.mark.parametrize(
    "jump",
    [
        lambda x: 3.999 - 2.5458 * np.arctan(1000 / x),
        lambda x: 4 - np.tanh(1 / x),
        lambda x: np.minimum(7.0, np.maximum(1.0, -1 / x)),
        lambda x: 4 - x / np.sqrt(x * x),
        *(
            pytest.param(jump, marks=pytest.mark.long)
            for jump in (
                lambda x: 4 - np.tanh(1 / x) ** 3,
                lambda x: 4 + 0.5 * np.arctan(1 / x),
                lambda x: 7.9 / (1 + np.exp(1 / x)),
                lambda x: 4 - 1 / (1 + np.exp(-1 / x)),
                lambda x: 4 + np.tanh(np.exp(1 / x)),
            )
        ),
    ],
)
def test_a_jump_is_seen_wherever_cells_meet(jump, place):
    """Up or down: Stein's identity holds for neither. Each of two cells that meet there sees one side of it."""
    for rule in (SymmetricRule(lambda w: jump(w - place)), SymmetricRule(lambda w: jump(place - w))):
        with suppress(ValueError):  # 0 / 0 has no value
            assert not certify(rule, MEAN, dim=6).proved
            assert not certify(MEAN, rule, dim=6).proved


def test_dividing_by_w_is_no_jump():
    """At w = 0 nothing has to be continuous: there is no other side."""
    for formula in (lambda w: 8 / (1 + 3 / w), lambda w: 8 * np.exp(-1 / w), lambda w: 8 - np.tanh(1 / w)):
        assert certify(SymmetricRule(formula), MEAN, dim=10).proved


def test_an_unbounded_rule_is_not_proved():
    assert not certify(SymmetricRule(lambda w: 0.1 * w), MEAN, dim=10).proved
    # True of 2 X, but Stein's identity is used for bounded rules alone.
    assert not certify(SymmetricRule(lambda w: 8.0), SymmetricRule(lambda w: -w), dim=10).proved
    assert "tail" in certify(SymmetricRule(lambda w: 8 * w / (w + 3)), MEAN, dim=10).reason


def test_in_one_and_two_dimensions_the_sample_mean_cannot_be_dominated():
    for dim in (1, 2):
        for level in (-1.0, -0.1, 0.1):  # in one dimension N is negative for the first two
            assert not certify(SymmetricRule(lambda w, level=level: level), MEAN, dim=dim).proved


def test_formulas_that_look_at_numbers_are_refused():
    for formula in (
        lambda w: 8 if w > 3 else 1,
        lambda w: np.where(w > 3, 8.0, 1.0),
        lambda w: np.floor(w),
        lambda w: np.minimum(w, 8.0, dtype=np.float32),
        lambda w: w**0.5,
        lambda w: np.add.outer(w, w),
        lambda w: float("inf") * w,
        lambda w: "8",
    ):
        with pytest.raises(TypeError):
            certify(SymmetricRule(formula), MEAN, dim=10)
    with pytest.raises(ValueError, match="negative"):
        certify(SymmetricRule(lambda w: np.log(w - 1)), MEAN, dim=10)


def test_a_formula_with_two_faces_is_caught():
    def cheat(w):
        return np.minimum(w, 8.0) if not isinstance(w, np.ndarray) else 40.0 + 0 * w

    with pytest.raises(ValueError, match="outside of its bounds"):
        certify(SymmetricRule(cheat), MEAN, dim=10)


FORMULAS = [
    lambda w: w * w - 3 * w + 2,
    lambda w: (w + 1) / (w * w + 0.5),
    lambda w: np.exp(-w) - np.expm1(0.1 * w),
    lambda w: np.log(1 + w) * np.log1p(w / 3),
    lambda w: np.sqrt(w) - np.tanh(w - 2),
    lambda w: np.arctan(3 - w) / (2 + w),
    lambda w: np.minimum(w, 3) + np.maximum(np.square(w) / 9, 1.5),
    lambda w: -(w**3) / 7 - 1 / (1 + 1 / (w + 0.1)),
    lambda w: np.float64(2.5) * w - np.divide(np.subtract(np.multiply(w, 2), 1), np.add(w, 4)),
    lambda w: np.negative(w) + 2,
]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FORMULAS) - 1), st.floats(0, 50), st.floats(0, 10), st.floats(0, 1))
def test_values_and_slopes_lie_in_their_enclosures(index, low, width, share):
    formula = FORMULAS[index]
    w = min(low + share * width, low + width)
    bounds = enclose(formula, np.array([low]), np.array([low + width]))
    assert bounds.value.low[0] <= formula(w) <= bounds.value.high[0]
    if w > 1e-3:
        h = 1e-6 * w
        slope = (formula(w + h) - formula(w - h)) / (2 * h)
        slack = 1e-6 * (1 + abs(slope)) + 1e-9 / h
        here = enclose(formula, np.array([w]), np.array([w]))
        kink = index == 6 and (abs(w - 3) < 2 * h or abs(w * w / 9 - 1.5) < 3 * h)
        if not kink:
            assert here.slope.low[0] - slack <= slope <= here.slope.high[0] + slack
            assert bounds.slope.low[0] - slack <= slope <= bounds.slope.high[0] + slack
        # Tight enough at a point to be of use.
        assert here.value.high[0] - here.value.low[0] < 1e-11 * (1 + abs(formula(w)) + w**3)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(float)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.sampled_from(["+", "-", "*", "/"]))
def test_rounding_is_outwards(a, b, operator):
    """The exact result, a fraction, lies between bounds that are floats, also where a float over- or underflows."""
    formula = {"+": lambda w: w + b, "-": lambda w: w - b, "*": lambda w: w * b, "/": lambda w: b / w}[operator]
    if operator == "/" and a == 0:
        return
    value = enclose(formula, np.array([a]), np.array([a])).value
    low, high = value.low[0], value.high[0]
    x, y = Fraction(a), Fraction(b)
    exact = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "/": lambda: y / x}[operator]()
    assert low == -np.inf or Fraction(low) <= exact
    assert high == np.inf or exact <= Fraction(high)


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-300, 1e300), st.sampled_from(["exp", "log", "sqrt"]), st.booleans())
def test_elementary_functions_are_rounded_outwards(x, name, negative):
    """Against 60 digits of Python's decimal arithmetic."""
    x = -x if negative and name == "exp" else x
    if name == "exp" and abs(x) > 700:
        x = np.copysign(abs(x) % 700, x)
    value = enclose(getattr(np, name), np.array([x]), np.array([x])).value
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(float(x))
        exact = {"exp": exact.exp, "log": exact.ln, "sqrt": exact.sqrt}[name]()
        assert Decimal(float(value.low[0])) <= exact <= Decimal(float(value.high[0]))


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_division_by_what_reaches_zero_has_no_bound(low, width, a, b):
    shifted = enclose(lambda w: 1 / (w - (low + width / 2)), np.array([low]), np.array([low + width]))
    for x in (low + a % (width or 1), low + b % (width or 1)):
        distance = x - (low + width / 2)
        if x <= low + width and distance != 0:
            assert shifted.value.low[0] <= 1 / distance <= shifted.value.high[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": 3, "noise_df": 0}, "noise_df"),
        ({"dim": 3, "noise_df": np.nan}, "noise_df"),
        ({"dim": 3, "n": 0}, "n must be at least 1"),
        ({"dim": 3, "n": 2.5}, "n must be a whole number"),
        ({"dim": 3, "n": np.nan}, "n must be a whole number"),
        ({"dim": 3, "n": "3"}, "n must be a whole number"),
        ({"dim": 3.0}, "dim must be a whole number"),
    ],
)
def test_bad_input(options, message):
    for rule in (positive(), estimators.Stein(), SymmetricRule(np.exp)):
        with pytest.raises((ValueError, TypeError), match=message):
            certify(rule, MEAN, **options)


def test_an_estimator_that_finds_its_noise_takes_no_degrees_of_freedom():
    with pytest.raises(ValueError, match=r"Stein\(.*estimates its own noise.*leave noise_df out"):
        certify(estimators.Stein(), MEAN, dim=5, n=4, noise_df=3.0)


@pytest.mark.parametrize("rule", [positive(1e308), plain(1e308)])
def test_constants_of_any_size(rule):
    found = certify(rule, MEAN, dim=5)
    assert not found.proved
    assert found.margin == -np.inf
    assert certify(MEAN, plain(1e308), dim=5).proved
    assert not certify(rule, SymmetricRule(SMOOTH["tanh"](1.0)), dim=5).proved


def test_two_degrees_of_freedom_need_a_word():
    with pytest.raises(ValueError, match="different df"):
        certify(plain(df=3), plain(df=4), dim=5)
    assert certify(plain(df=3), MEAN, dim=5, noise_df=3).proved


@pytest.mark.parametrize("rule", [JamesStein, "a", None])
def test_what_is_no_rule(rule):
    with pytest.raises(TypeError, match="estimator must be a rule such as Stein"):
        certify(rule, SampleMean(), dim=3)
    with pytest.raises(TypeError, match="baseline must be a rule such as Stein"):
        certify(SampleMean(), rule, dim=3)
