"""Every example in a docstring is true."""

import doctest
import importlib
import pkgutil

import pytest

import shrinkstats

pytestmark = pytest.mark.core


def modules():
    # The adapters and the theory are found where the package was installed to, which need not lie below shrinkstats.
    # Of the benchmarks the laboratory has examples.
    names = {m.name for m in pkgutil.walk_packages(shrinkstats.__path__, "shrinkstats.", onerror=lambda name: None)}
    for part in ("shrinkstats.adapters", "shrinkstats.theory", "benchmarks.lab"):
        try:
            package = importlib.import_module(part)
        except ImportError:
            continue
        names.add(package.__name__)
        names |= {
            m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None)
        }
    return sorted({"shrinkstats", *names})


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    except DeprecationWarning as warning:
        pytest.skip(f"moved: {warning}")
    outcome = doctest.testmod(module)
    assert outcome.failed == 0


def test_the_public_functions_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for name in set(shrinkstats.__all__) - {"Prior", "SamplingNoise", "Shrunk", "Statistics", "estimators"}:
        (found,) = finder.find(getattr(shrinkstats, name), name)
        assert found.examples, f"shrinkstats.{name} has no example"
