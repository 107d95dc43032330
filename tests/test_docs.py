"""Every Python block of the documentation and the README runs, and what it shows is what comes out."""

import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import shrinkstats

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
MODULES = [
    "shrinkstats",
    "shrinkstats.estimators",
    "shrinkstats.adapters.torch",
    "shrinkstats.adapters.attacks",
    "shrinkstats.adapters.robustness",
    "shrinkstats.adapters.datasets",
    "shrinkstats.adapters.models",
    "shrinkstats.theory",
]
TORCH = importlib.util.find_spec("torch") is not None

FENCE = re.compile(r"(?:^<!-- not executed: (?P<reason>.+?) -->\s*\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A block of Python in a page: its code, the line it starts on, and why it is not executed, if so."""

    code: str
    line: int
    reason: str | None


class Tally(NamedTuple):
    executed: int
    skipped: int


def blocks(text):
    return [Block(m["code"], text.count("\n", 0, m.start("code")) + 1, m["reason"]) for m in FENCE.finditer(text)]


def execute(text, name, torch=TORCH):
    """Run the blocks of a page in order, in one namespace; a block with prompts must print what it shows."""
    page = blocks(text)
    names = {"__name__": "__main__"}
    executed = 0
    for block in page:
        if block.reason is not None:
            continue
        if "torch" in block.code and not torch:
            pytest.skip(f"{name}, line {block.line} needs torch, which is not installed; {executed} blocks were run")
        if ">>>" in block.code:
            compare(block, names, name)
        else:
            exec(compile("\n" * (block.line - 1) + block.code, name, "exec"), names)
        executed += 1
    return Tally(executed, len(page) - executed)


def compare(block, names, name):
    """Run a block of prompts; a difference between its output and what it shows is a failure."""
    test = doctest.DocTestParser().get_doctest(block.code, names, name, name, block.line - 1)
    report = io.StringIO()
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.write, clear_globs=False)
    names.update(test.globs)
    if result.failed:
        raise AssertionError(report.getvalue())


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_page(page, monkeypatch, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(blocks(text)) == text.count("```python"), "a fence of Python is not where the pattern finds it"
    assert text.count(">>>") == sum(block.code.count(">>>") for block in blocks(text)), "a prompt outside of a block"
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        tally = execute(text, page)
    assert tally.executed + tally.skipped == len(blocks(text))
    assert tally.executed, f"{page} executes nothing"


def page(*codes):
    return "# A page\n" + "".join(f"\n```python\n{code}\n```\n" for code in codes)


def test_a_page_that_is_right_passes():
    assert execute(page("x = 1", ">>> x + 1\n2"), "page") == (2, 0)


def test_a_wrong_output_fails():
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        execute(page("x = 1", ">>> x + 1\n3"), "page")


def test_a_missing_output_fails():
    with pytest.raises(AssertionError, match="Expected nothing"):
        execute(page(">>> 1 + 1"), "page")


@pytest.mark.parametrize(("code", "error"), [("1 / 0", ZeroDivisionError), ("assert 1 == 2", AssertionError)])
def test_a_plain_block_that_raises_fails(code, error):
    with pytest.raises(error):
        execute(page(code), "page")


def test_a_warning_fails():
    code = "import warnings\nwarnings.warn('old')"
    with pytest.raises(UserWarning, match="old"):
        execute(page(code), "page")


def test_a_block_with_a_reason_is_counted_and_not_executed():
    text = "<!-- not executed: needs a camera -->\n```python\n1 / 0\n```\n" + page("x = 1")
    assert execute(text, "page") == (1, 1)
    assert blocks(text)[0].reason == "needs a camera"


def test_without_torch_a_page_is_skipped_by_name():
    with pytest.raises(pytest.skip.Exception, match="page, line 8 needs torch, which is not installed; 1 blocks"):
        execute(page("x = 1", "import torch\n1 / 0"), "page", torch=False)


def public_names(module):
    """Name -> object, of one public module."""
    if module.rpartition(".")[2] in ("torch", "attacks", "models"):
        pytest.importorskip("torch", reason="torch is not installed")
    loaded = importlib.import_module(module)
    return {f"{module}.{name}": getattr(loaded, name) for name in loaded.__all__}


def listed_names(text):
    """The full names in the API reference: those under autosummary directives, and those described in place."""
    names, module = [], None
    for line in text.splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif name := re.fullmatch(r"(?:\.\. py:\w+:: | {3,})(\w+)(?:\(.*\))?", line):
            names.append(f"{module}.{name[1]}")
    return names


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_lists_every_public_name_once(module):
    listed = listed_names((ROOT / "docs/api/index.md").read_text(encoding="utf-8"))
    listed = [name for name in listed if name.rpartition(".")[0] == module]
    public = {name for name, thing in public_names(module).items() if not inspect.ismodule(thing)}
    assert sorted(listed) == sorted(public)


def test_the_version_of_the_documentation_is_the_installed_one():
    text = (ROOT / "docs/conf.py").read_text(encoding="utf-8")
    assert 'installed_version("shrinkstats")' in text
    assert shrinkstats.__version__ not in text
