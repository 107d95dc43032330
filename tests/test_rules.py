"""The shrinkage rules of theory against the formulas they stand for."""

import numpy as np
import pytest

import shrinkstats

rules = pytest.importorskip("shrinkstats.theory.rules")
JamesStein, SymmetricRule = rules.JamesStein, rules.SymmetricRule

MEANS = np.random.default_rng(0).normal(size=(7, 6))


def naive(m, v, constant, positive_part, target, df):
    out = np.empty_like(m)
    for i, row in enumerate(m):
        t = row.mean() if target == "mean" else target
        c = len(row) - (target == "mean")
        gain = 1 if df is None else df / (df + 2)
        factor = 1 - constant * gain * (c - 2) * v / sum((x - t) ** 2 for x in row)
        out[i] = t + (max(factor, 0) if positive_part else factor) * (row - t)
    return out


@pytest.mark.parametrize("df", [None, 4])
@pytest.mark.parametrize("target", [0.0, -0.5, "mean"])
@pytest.mark.parametrize("positive_part", [False, True])
@pytest.mark.parametrize("constant", [0.0, 1.0, 2.5])
def test_james_stein(constant, positive_part, target, df):
    rule = JamesStein(constant, positive_part, target, df)
    np.testing.assert_allclose(rule(MEANS, 0.7), naive(MEANS, 0.7, constant, positive_part, target, df), rtol=1e-12)


@pytest.mark.parametrize("df", [None, 4])
@pytest.mark.parametrize("positive_part", [False, True])
def test_the_amount_is_what_the_rule_shrinks_by(positive_part, df):
    rule = JamesStein(1.3, positive_part, df=df)
    w = np.sum(MEANS**2, axis=-1, keepdims=True) / 0.7
    np.testing.assert_allclose(rule(MEANS, 0.7), (1 - rule.amount(w, 6) / w) * MEANS, rtol=1e-12, atol=1e-15)
    same = SymmetricRule(lambda w: rule.amount(w, 6))
    np.testing.assert_allclose(same(MEANS, np.full((7, 1), 0.7)), rule(MEANS, 0.7), rtol=1e-12, atol=1e-15)


def test_noise_for_every_problem_and_for_every_channel():
    noise = np.random.default_rng(1).uniform(0.5, 1, size=(7, 6))
    np.testing.assert_allclose(JamesStein()(MEANS, noise), shrinkstats.james_stein(MEANS, noise).estimate)
    np.testing.assert_allclose(JamesStein()(MEANS, noise[:, :1])[3], JamesStein()(MEANS[3], noise[3, 0]))


def test_the_others():
    np.testing.assert_array_equal(rules.SampleMean()(MEANS, 1.0), MEANS)
    expected = shrinkstats.channel_james_stein(MEANS).estimate
    np.testing.assert_array_equal(rules.ChannelJamesStein()(MEANS, 1.0), expected)


def test_nothing_to_borrow_from():
    for rule, channels in ((JamesStein(), 2), (JamesStein(target="mean"), 3)):
        assert rule.level(channels) == 0
        np.testing.assert_array_equal(rule(MEANS[:, :channels], 1.0), MEANS[:, :channels])


def test_a_symmetric_rule_on_the_target_stays_there():
    np.testing.assert_array_equal(SymmetricRule(lambda w: w / w, target=2.0)(np.full(5, 2.0), 1.0), np.full(5, 2.0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JamesStein(-1.0), "constant"),
        (lambda: JamesStein(float("nan")), "constant"),
        (lambda: JamesStein(target="median"), "target"),
        (lambda: JamesStein(target=float("inf")), "target"),
        (lambda: JamesStein(df=0), "df"),
        (lambda: SymmetricRule(lambda w: w)(MEANS, np.ones(6)), "one for all"),
        (lambda: SymmetricRule(lambda w: w)(MEANS, -1.0), "negative"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
