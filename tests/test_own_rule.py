"""A rule that nobody has heard of goes everywhere: no file but this one knows it."""

import argparse
from dataclasses import dataclass

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Statistics
from shrinkstats.estimators import Cotangent, Estimator
from shrinkstats.rules.looks import LOOKS, looks
from shrinkstats.rules.registry import named

OWN = f"{__name__}:Midrange"


@dataclass(frozen=True)
class Midrange(Estimator):
    """Centered at the middle of the extremes and divided by half the range: from -1 to 1."""

    uses_prior = False
    spread_is = "range"
    label = "midrange"

    def statistics(self, moments, prior):
        return Statistics((moments.minimum + moments.maximum) / 2, moments.maximum - moments.minimum)

    def scale(self, spread, eps):
        return spread / 2 + eps

    def scale_gradient(self, spread, scale):
        return 0.5 + 0 * spread

    def tracked(self, spread, count):
        return spread

    def pullback(self, moments, prior, g):
        return Cotangent(minimum=g.mean / 2 - g.var, maximum=g.mean / 2 + g.var)


@dataclass(frozen=True)
class Unspoken(Estimator):
    """The same range, of which it says nothing."""

    statistics, scale = Midrange.statistics, Midrange.scale


def naive(x, eps=1e-5):
    """By NumPy alone, channels along axis 1."""
    axes = tuple(i for i in range(x.ndim) if i != 1)
    low, high = (f(x, axis=axes, keepdims=True) for f in (np.min, np.max))
    return (x - (low + high) / 2) / ((high - low) / 2 + eps)


DATA = np.random.default_rng(0).normal(2.0, 3.0, size=(6, 4, 5, 5))


def test_normalize_takes_it(xp):
    y = shrinkstats.normalize(xp.array(DATA), Midrange())
    np.testing.assert_allclose(xp.host(y), naive(DATA), rtol=1e-12, atol=1e-12)


def test_and_of_deferred_arrays():
    da = pytest.importorskip("dask.array")
    y = shrinkstats.normalize(da.from_array(DATA, chunks=(2, 2, 5, 5)), Midrange())
    np.testing.assert_allclose(y.compute(), naive(DATA), rtol=1e-12, atol=1e-12)


# Networks.


def layer(eps=1e-5):
    torch = pytest.importorskip("torch")
    from shrinkstats.adapters.torch import ShrinkBatchNorm2d

    return torch, ShrinkBatchNorm2d(4, Midrange(), eps=eps).double()


@pytest.mark.parametrize("memory_order", ["contiguous_format", "channels_last"])
def test_a_layer_trains_by_it(memory_order):
    torch, norm = layer()
    x, g = (torch.from_numpy(v).to(memory_format=getattr(torch, memory_order)) for v in (DATA, np.cos(DATA)))
    x.requires_grad_()
    y = norm(x)
    np.testing.assert_allclose(y.detach().numpy(), naive(DATA), rtol=1e-12, atol=1e-12)
    low, high = (v.amax((0, 2, 3), keepdim=True) for v in (-x, x))
    plain = (x - (high - low) / 2) / ((high + low) / 2 + norm.eps)
    (expected,) = torch.autograd.grad(plain, x, g)
    y.backward(g)
    torch.testing.assert_close(x.grad, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(norm.running_mean, 0.1 * (DATA.max((0, 2, 3)) + DATA.min((0, 2, 3))) / 2)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * np.ptp(DATA, axis=(0, 2, 3)))
    norm.eval()
    center, spread = (v.numpy()[:, None, None] for v in (norm.running_mean, norm.running_var))
    np.testing.assert_allclose(norm(x).detach().numpy(), (DATA - center) / (spread / 2 + norm.eps), rtol=1e-12)


def test_a_network_is_converted_and_adapted():
    torch = pytest.importorskip("torch")
    from shrinkstats.adapters.torch import adapt, convert, reset

    x = torch.from_numpy(DATA)
    converted = convert(torch.nn.Sequential(torch.nn.BatchNorm2d(4)).double(), Midrange())
    np.testing.assert_allclose(converted(x).detach().numpy(), naive(DATA), rtol=1e-12, atol=1e-12)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).double().eval()
    before = net(x)
    np.testing.assert_allclose(adapt(net, Midrange())(x).detach().numpy(), naive(DATA), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reset(net)(x), before)


@pytest.mark.long
def test_a_layer_is_compiled():
    torch, norm = layer()
    y = torch.compile(norm, fullgraph=True, backend="aot_eager")(torch.from_numpy(DATA))
    np.testing.assert_allclose(y.detach().numpy(), naive(DATA), rtol=1e-12, atol=1e-12)


# Theory.


def ask(rule, **options):
    theory = pytest.importorskip("shrinkstats.theory")
    fixed = {"dim": 5, "n": 6, "radii": [0.0, 2.0], "budget": 2**13, "refine": 0, "progress": False}
    return theory.verify_dominance(rule, **{**fixed, **options})


def test_its_center_is_judged():
    """The midrange of six normal numbers has about one and a third times the variance of their mean."""
    report = ask(Midrange())
    assert report.verdict == "dominated"
    assert all(5 * 1.2 < row.tally.estimator < 5 * 1.5 for row in report.rows)


@pytest.mark.parametrize(("rule", "what"), [(Midrange(), "is a range, not a variance"), (Unspoken(), "is unknown")])
def test_its_range_is_not_judged_as_a_variance(rule, what):
    with pytest.raises(ValueError, match=f"second statistic of {type(rule).__name__} {what}"):
        ask(rule, statistic="var")


# By name.


def run(*arguments):
    pytest.importorskip("typer", reason="the command line needs the extra cli")
    from typer.testing import CliRunner

    from shrinkstats.adapters.commands.application import application

    return CliRunner().invoke(application(), [*arguments])


def test_a_command_line_takes_it():
    small = ["--dim", "5", "-n", "6", "--radii", "0,2", "--budget", "8192", "--quiet"]
    assert run("dominance", OWN, *small).stdout.strip() == "dominated"
    assert run("dominance", "stein", "--against", OWN, *small).stdout.strip() == "dominates"
    refused = run("dominance", OWN, *small, "--statistic", "var")
    assert refused.exit_code == 2
    assert "is a range" in refused.stderr


@pytest.mark.parametrize(
    ("name", "what"),
    [("no_such_module:Rule", "No module named"), (f"{__name__}:Nothing", "has no 'Nothing'"), (OWN, "argument")],
)
def test_a_command_line_says_what_is_wrong_with_a_name(name, what):
    constant = ["--constant", "2"] if name == OWN else []
    refused = run("dominance", name, "--dim", "5", "-n", "6", *constant)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ESTIMATOR: ")
    assert what in refused.stderr


def test_an_evaluation_takes_it():
    pytest.importorskip("torch")
    from shrinkstats.adapters.commands.evaluation.request import estimators

    assert estimators(f"trained,{OWN}") == {"trained": None, OWN: Midrange()}


def test_a_study_has_it_in_its_table():
    pytest.importorskip("torch")
    nets = pytest.importorskip("benchmarks.cifar10.nets")

    assert nets.norm(OWN) == OWN
    subject = nets.Subject("resnet20", OWN, 0)
    assert subject.modes == ("running", "batch")
    assert "estimator=Midrange()" in str(subject.build())
    with pytest.raises(argparse.ArgumentTypeError, match="there is no rule 'midrange'"):
        nets.norm("midrange")


def test_it_has_a_look_of_its_own():
    found = looks(["batch_norm", OWN, "stein_blend"])
    assert found["stein_blend"] == LOOKS["stein_blend"]
    assert found[OWN] not in LOOKS.values()


def test_a_name_has_to_be_that_of_an_estimator():
    assert named(OWN) == Midrange()
    with pytest.raises(ValueError, match="expected a subclass"):
        named(f"{__name__}:DATA")
