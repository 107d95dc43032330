"""The public names and their signatures, which other code relies on."""

import importlib
import inspect

import pytest

import shrinkstats

pytestmark = pytest.mark.core

SIGNATURES = {
    "moments": "(x, *, axis=1, sample_axis=0)",
    "james_stein": "(mean, noise, *, target=0.0, df=None, positive_part=True)",
    "channel_james_stein": "(mean)",
    "gamma_stein": "(var, n)",
    "ridge": "(batch, *, n, strength=0.001)",
    "soft_threshold": "(batch, *, n, strength=0.001)",
    "blend": "(source, target, *, n, strength)",
    "stein_blend": "(source, target, *, noise=None, kappa=1.0)",
    "best_strength": "(source, target, *, n, bound='upper', alpha=0.05)",
    "wasserstein2": "(a, b, *, normalized=False)",
    "wasserstein_bounds": "(source, target, *, n, strength, alpha=0.05)",
    "normalize": "(x, estimator, *, axis=1, weight=None, bias=None, prior=None, eps=1e-05)",
}
ESTIMATORS = {
    "BatchStatistics": "BatchStatistics()",
    "Stein": "Stein(mean='sampling', var='gamma')",
    "JSNorm": "JSNorm()",
    "RobustNorm": "RobustNorm(power=0.2)",
    "MinMaxNorm": "MinMaxNorm()",
    "Ridge": "Ridge(strength=0.001)",
    "Lasso": "Lasso(strength=0.001)",
    "PriorBlend": None,  # its strength is for the user to say
    "SteinBlend": "SteinBlend(kappa=1.0)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    signature = inspect.signature(getattr(shrinkstats, name))
    bare = signature.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == SIGNATURES[name]


def test_every_name_is_exported():
    types = {"Moments", "Prior", "SamplingNoise", "Shrunk", "Statistics"}
    assert set(shrinkstats.__all__) == {*SIGNATURES, *types, "estimators"}
    assert set(shrinkstats.estimators.__all__) == {*ESTIMATORS, "Estimator"}
    for name in shrinkstats.__all__:
        assert getattr(shrinkstats, name).__doc__


def test_fields():
    assert shrinkstats.Statistics._fields == ("mean", "var")
    assert shrinkstats.Shrunk._fields == ("estimate", "factor")
    assert shrinkstats.SamplingNoise._fields == ("mean", "sd", "sd_bias")
    for name in ("count", "samples", "mean", "m2", "minimum", "maximum", "var", "noise", "empty"):
        assert name in dir(shrinkstats.Moments) or name in shrinkstats.Moments.__dataclass_fields__


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(name):
    rule = getattr(shrinkstats.estimators, name)
    if ESTIMATORS[name] is None:
        with pytest.raises(TypeError, match="strength"):
            rule()
    else:
        assert repr(rule()) == ESTIMATORS[name]
    assert shrinkstats.estimators.Stein.published() == shrinkstats.estimators.Stein(mean="channel", var="gamma")
    call = list(inspect.signature(rule.__call__).parameters.values())
    assert [(p.name, p.default) for p in call[2:]] == [("prior", None), ("eps", 1e-5)]


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert shrinkstats.__version__ == version("shrinkstats")


@pytest.mark.parametrize("old", ["evaluation", "demo"])
def test_old_names_of_the_commands_parts(old):
    pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
    pytest.importorskip("typer", reason="needs the extra shrinkstats[cli]")
    module = importlib.import_module(f"shrinkstats.adapters.{old}")
    for name in getattr(module, "__all__", ["run"]):
        with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} is shrinkstats\.adapters\.commands\.\S+ now"):
            found = getattr(module, name)
        assert found.__name__.split(".")[-1] == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
