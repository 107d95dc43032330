"""Files tell rules apart that compute something else, and know those again that do not."""

import contextlib
import functools
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

theory = pytest.importorskip("shrinkstats.theory")
from shrinkstats.theory.dominance import verify_dominance  # noqa: E402
from shrinkstats.theory.report import describe  # noqa: E402

HEAD = """
import enum, functools
from dataclasses import dataclass, field
from typing import NamedTuple
import numpy as np
import shrinkstats
from shrinkstats import Statistics
from shrinkstats.estimators import Estimator, Stein
from shrinkstats.theory import JamesStein, SymmetricRule
import helpers
"""

# Programs that end in a rule; `0.5` is what is edited.
PROGRAMS = {
    "a function": "def rule(m, v): return 0.5 * m",
    "a global": "K = 0.5\ndef rule(m, v): return K * m",
    "a global array": "K = np.array([0.5, 1.0])\ndef rule(m, v): return K[0] * m",
    "a large global array": "K = np.full(5000, 1.0); K[2500] = 0.5\ndef rule(m, v): return K[2500] * m",
    "a default": "def rule(m, v, k=0.5): return k * m",
    "a keyword's default": "def rule(m, v, *, k=0.5): return k * m",
    "a closure": "def make(k):\n    return lambda m, v: k * m\nrule = make(0.5)",
    "a helper": "def helper(m): return 0.5 * m\ndef rule(m, v): return helper(m)",
    "a helper of a helper": "def a(m): return 0.5 * m\ndef b(m): return a(m)\ndef rule(m, v): return b(m)",
    "a global in a comprehension": "K = 0.5\ndef rule(m, v): return np.array([K * x for x in m])",
    "a recursive helper": "def a(m, i=3): return a(m, i - 1) if i else 0.5 * m\ndef rule(m, v): return a(m)",
    "a module of the user's": "helpers.K = 0.5\ndef rule(m, v): return helpers.K * m",
    "two helpers, one module": "helpers.K, helpers.L = 1.0, 0.5\ndef a(m): return helpers.K * m\n"
    "def rule(m, v): return a(m) * helpers.L",
    "an object of the user's": "class A:\n    def __init__(self): self.k = 0.5\na = A()\n"
    "def rule(m, v): return a.k * m",
    "a dict of functions": "D = {'f': lambda m: 0.5 * m}\ndef rule(m, v): return D['f'](m)",
    "a partial": "def f(k, m, v): return k * m\nrule = functools.partial(f, 0.5)",
    "a method": "class A:\n    def f(self, m, v): return 0.5 * m\nrule = A().f",
    "an instance": "class A:\n    def __call__(self, m, v): return 0.5 * m\nrule = A()",
    "an instance with a name": "class A:\n    def __call__(self, m, v): return 0.5 * m\n"
    "    def __repr__(self): return 'A'\nrule = A()",
    "__call__ of a dataclass": "@dataclass(frozen=True)\nclass A:\n    def __call__(self, m, v): return 0.5 * m\n"
    "rule = A()",
    "its base": "class B:\n    def f(self, m): return 0.5 * m\n@dataclass(frozen=True)\nclass A(B):\n"
    "    def __call__(self, m, v): return self.f(m)\nrule = A()",
    "its default": "@dataclass(frozen=True)\nclass A:\n    k: float = 0.5\n"
    "    def __call__(self, m, v): return self.k * m\nrule = A()",
    "its property": "@dataclass(frozen=True)\nclass A:\n    @functools.cached_property\n    def k(self): return 0.5\n"
    "    def __call__(self, m, v): return self.k * m\nrule = A()",
    "its hidden state": "@dataclass\nclass A:\n    def __post_init__(self): self._k = 0.5\n"
    "    def __call__(self, m, v): return self._k * m\nrule = A()",
    "its helper": "def f(m): return 0.5 * m\n@dataclass(frozen=True)\nclass A:\n"
    "    def __call__(self, m, v): return f(m)\nrule = A()",
    "its field, an object": "class B:\n    def f(self, m): return 0.5 * m\n    def __repr__(self): return 'B'\n"
    "@dataclass(frozen=True)\nclass A:\n    b: B\n    def __call__(self, m, v): return self.b.f(m)\nrule = A(B())",
    "slots": "@dataclass(frozen=True, slots=True)\nclass A:\n    k: float\n"
    "    def __call__(self, m, v): return self.k * m\nrule = A(0.5)",
    "a named tuple": "class A(NamedTuple):\n    x: int = 1\n    def __call__(self, m, v): return 0.5 * m\nrule = A()",
    "a list with something to call": "class A(list):\n    def __call__(self, m, v): return self[0] * m\n"
    "rule = A([0.5])",
    "an estimator": "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A(Estimator):\n"
    "    def statistics(self, m, prior): return Statistics(0.5 * m.mean, m.var())\nrule = A()",
    "derived from ours": "@dataclass(frozen=True)\nclass A(Stein):\n    def statistics(self, m, prior):\n"
    "        s = super().statistics(m, prior)\n        return Statistics(0.5 * s.mean, s.var)\nrule = A()",
    "a formula": "K = 0.5\nrule = SymmetricRule(lambda w: K * w / (1 + w))",
    "one of ours": "rule = JamesStein(0.5)",
}


def run(program):
    """The rule that a program defines, as it is in a file."""
    space = types.ModuleType("program")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "program", space)
        patch.setitem(sys.modules, "helpers", types.ModuleType("helpers"))
        exec(HEAD + program, vars(space))
        return describe(space.rule, exactly=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_edit_anywhere_is_seen(name):
    program = PROGRAMS[name]
    assert program.count("0.5") == 1
    assert run(program) == run(program) == run("\n# moved\n" + program)
    assert run(program) != run(program.replace("0.5", "1.5"))


def test_another_process_finds_the_same():
    """Whatever the hashes of strings, and whether code was read from a cache."""
    code = HEAD.replace("import helpers", "") + textwrap.dedent("""
        from shrinkstats.theory.report import describe
        NAMES = {"a", "b", "c", "d"}
        def helper(m): return m if "x" in {"u", "v", "w"} else (0, 1)[1] * m
        @dataclass(frozen=True)
        class A(Stein):
            def __call__(self, m, v): return helper(m) * len(NAMES)
        print(describe(A(), exactly=True))
    """)
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_decorators_of_packages_hide_no_code():
    def decorated(k, decorator):
        @decorator
        def f(m, v):
            return k * m

        return f

    @contextlib.contextmanager
    def nothing(m, v):
        yield m

    for decorator in (contextlib.contextmanager, functools.wraps(np.mean), functools.wraps(describe)):
        first, again, other = (describe(decorated(k, decorator), exactly=True) for k in (0.5, 0.5, 1.5))
        assert first == again != other


def test_what_cannot_be_told_is_refused(tmp_path):
    generator, refused = np.random.default_rng(0), {"dim": 3, "n": 4, "radii": [0.0], "progress": False}
    later = {}
    exec("def rule(m, v):\n    import unheard_of\n    return m", later)
    vectorized = np.frompyfunc(lambda a, b: a, 2, 1)
    for rule in (lambda m, v: m + generator.normal(), later["rule"], vectorized, functools.lru_cache(lambda m, v: m)):
        with pytest.raises(ValueError, match="path="):
            verify_dominance(rule, path=tmp_path / "run.json", **refused)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_rule_is_not_gone_on_with(tmp_path):
    def make(k):
        return lambda m, v: k * m

    options = {"dim": 3, "n": 4, "radii": [0.0], "progress": False, "path": tmp_path / "run.json"}
    first = verify_dominance(make(0.5), **options)
    assert verify_dominance(make(0.5), **options) == first
    with pytest.raises(ValueError, match=r"other settings \(estimator\)"):
        verify_dominance(make(1.5), **options)


def test_noise_of_the_users_is_told_apart_too(tmp_path):
    from shrinkstats.theory import Gaussian, JamesStein

    def make(k):
        class Mine(Gaussian):
            def draw(self, rng, size):
                return k * rng.choice([-1.0, 1.0], size)

        return Mine()

    options = {"dim": 3, "n": 4, "radii": [0.0], "progress": False, "budget": 2**13, "path": tmp_path / "run.json"}
    verify_dominance(JamesStein(), noise=make(1.0), **options)
    with pytest.raises(ValueError, match=r"other settings \(noise\)"):
        verify_dominance(JamesStein(), noise=make(2.0), **options)


def test_names_of_our_own_rules_stay_as_they_are():
    """Files of earlier runs are taken up by them."""
    from shrinkstats.estimators import PriorBlend
    from shrinkstats.theory import Gaussian, JamesStein

    for value in (JamesStein(constant=2.0), PriorBlend(3), Gaussian(2.0, common=True), (np.zeros(3), None, 1.5)):
        assert describe(value, exactly=True) == describe(value)
