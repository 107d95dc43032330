"""Mutation testing: break the code in one place, and see whether a test fails.

    python tests/mutants.py --number 300 --folder /tmp/mutants

draws mutants of the core, the layers and the commands at random, by a seed, and runs for each the tests that reach it,
until the first fails. All work is done in a copy of the tree, below the folder. Interrupted, the same command goes on;
with a larger number it draws more of the same sequence. The last lines are a table, and every survivor as a diff.

The first stage runs all tests of `make test` once and notes which lines each runs (`tests/hits.py`). A mutant meets
tests that run its line: first the quickest of the few files that have most to do with it, then, if it survives, more.
A function that no test was seen in (compiled code is not traced) takes the tests of those that mention it. Of mutants
in files that compiled code comes from, what depends on them is compiled anew.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any library is loaded

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TARGETS = ("shrinkstats/**/*.py", "adapters/torch/*.py", "adapters/commands/*.py")
WITHOUT = {"shrinkstats/kernels/cupy.py"}  # runs on a GPU only
LEFT_OUT = ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "_build", "*.egg-info"

FIRST, SECOND = 10.0, 40.0  # seconds of tests, as measured, before and after a mutant counts as a likely survivor
FILES = 5  # in the first stage: importing and collecting a file takes longer than many a test
FEW = 30  # tests; with fewer, those that reach the line indirectly are taken too
MEMORY = 16 * 2**30
LOADED = (  # once, before processes are forked: to load them takes longer than most tests that kill a mutant
    "pytest", "hypothesis", "numpy", "scipy.stats", "scipy.special", "scipy.optimize", "scipy.integrate", "numba",
    "llvmlite.binding", "torch", "torch.fx", "torch.distributed", "array_api_compat.torch", "array_api_strict", "jax",
    "dask.array", "pandas", "sklearn.base", "matplotlib.figure",
)  # fmt: skip

SITECUSTOMIZE = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parent
FOLDERS = {"shrinkstats": "shrinkstats", "shrinkstats.adapters": "adapters", "shrinkstats.theory": "theory"}

class Copy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in FOLDERS:
            folder = ROOT / FOLDERS[name]
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])

sys.meta_path.insert(0, Copy)
"""


# --- mutants -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from begin to end of a file become others."""

    file: str
    line: int
    kind: str
    begin: int
    end: int
    text: str
    functions: tuple[int, ...]  # first lines of those around it, the innermost first

    @property
    def key(self) -> str:
        return f"{self.file}:{self.begin}:{self.end}:{self.text}"

    def of(self, source: bytes) -> bytes:
        return source[: self.begin] + self.text.encode() + source[self.end :]


COMPARISONS = {
    ast.Lt: ("<", "<=", ">="), ast.LtE: ("<=", "<", ">"), ast.Gt: (">", ">=", "<="), ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"), ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"), ast.BitXor: ("^", "&"),
}  # fmt: skip
SYMMETRIC = {"max", "min", "maximum", "minimum", "isclose", "gcd", "hypot", "fmax", "fmin", "logaddexp", "allclose"}
WORDS = {"__repr__", "__str__", "extra_repr", "_repr_html_"}  # how it looks
NEVER = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.JoinedStr, ast.Raise, ast.Assert)


class Sites(ast.NodeVisitor):
    """All mutants of one file."""

    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.functions: list[int] = []
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        begin, end = self.span(node)
        return self.source[begin:end].decode()

    def add(self, node: ast.AST, kind: str, text: str, span: tuple[int, int] | None = None) -> None:
        begin, end = span or self.span(node)
        line = self.source.count(b"\n", 0, begin) + 1
        mutant = Mutant(self.file, line, kind, begin, end, text, tuple(reversed(self.functions)))
        self.found.append(mutant)

    def between(self, left: ast.AST, right: ast.AST, kind: str, old: str, new: str) -> None:
        """Another operator between two operands."""
        begin, end = self.span(left)[1], self.span(right)[0]
        where = re.search(rf"(?<![\w*/<>]){re.escape(old)}(?![\w*/<>=])", self.source[begin:end].decode())
        if where:
            offset = begin + len(self.source[begin:end].decode()[: where.start()].encode())
            self.add(left, kind, new, (offset, offset + len(old)))

    # what is left alone

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in WORDS or any(ast.unparse(d).split(".")[-1] == "overload" for d in node.decorator_list):
            return
        self.functions.append(min([node.lineno, *(d.lineno for d in node.decorator_list)]))
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self.body(node.body)
        self.functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self.body(node.body)

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, NEVER):
            if isinstance(node, ast.Raise):
                self.add(node, "statement removed", "pass")
            return
        super().visit(node)

    # what is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for i, operator in enumerate(node.ops):
            old, *new = COMPARISONS[type(operator)]
            for other in new:
                self.between(operands[i], operands[i + 1], "comparison", old, other)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        words = any(isinstance(x, ast.JoinedStr) or (isinstance(x, ast.Constant) and isinstance(x.value, str))
                    for x in (node.left, node.right))  # fmt: skip
        types = isinstance(node.op, ast.BitOr) and any(
            isinstance(x, ast.Constant) and x.value is None for x in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not words and not types:
            self.between(node.left, node.right, "arithmetic", *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "statement removed", "pass")
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.between(node.target, node.value, "arithmetic", f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, "boolean", old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            kind = "boolean" if isinstance(node.op, ast.Not) else "arithmetic"
            self.add(node, kind, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def condition(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self.add(node.test, "condition negated", f"(not ({self.text(node.test)}))")
        self.generic_visit(node)

    visit_If = visit_While = visit_IfExp = condition

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, "constant", str(not node.value))
        elif isinstance(node.value, (int, float)):
            self.add(node, "constant", repr(node.value + 1))
            self.add(node, "constant", f"({node.value - 1!r})")

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(t, ast.Name) and t.id.startswith("__") for t in node.targets):
            return
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self.add(node, "statement removed", "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring, or dots
            self.add(node, "statement removed", "pass")
            self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self.add(node, "return None", "return None")
            self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.add(node, "statement removed", "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(node, "statement removed", "break")

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).split(".")[-1]
        if name in ("cast", "warn", "TypeVar", "append_note"):
            return
        plain = node.args[:2]
        if len(plain) == 2 and not any(isinstance(a, ast.Starred) for a in plain) and name not in SYMMETRIC:
            one, two = map(self.span, plain)
            swapped = self.text(plain[1]) + self.source[one[1] : two[0]].decode() + self.text(plain[0])
            self.add(node, "arguments swapped", swapped, (one[0], two[1]))
        self.generic_visit(node)


def mutants_of(root: Path) -> Iterator[Mutant]:
    for pattern in TARGETS:
        for path in sorted(root.glob(pattern)):
            file = str(path.relative_to(root))
            if file not in WITHOUT:
                yield from Sites(file, path.read_bytes()).found


def drawn(root: Path, number: int, seed: int, only: str = "") -> list[Mutant]:
    """So many mutants at random, of files with `only` in their path; of a larger number these are the first."""
    everything = [mutant for mutant in mutants_of(root) if only in mutant.file]
    random.Random(seed).shuffle(everything)
    chosen: list[Mutant] = []
    for mutant in everything:
        if len(chosen) == number:
            break
        source = (root / mutant.file).read_bytes()
        with contextlib.suppress(SyntaxError):
            if ast.dump(ast.parse(mutant.of(source))) != ast.dump(ast.parse(source)):
                chosen.append(mutant)
    return chosen


# --- tests ---------------------------------------------------------------------------------------------------------


class Copy:
    """A copy of the repository, whose files are broken one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.whole = folder, folder / "tree", folder / "whole"
        self.cache = folder / "cache"
        digest = hashlib.sha256()
        for path in sorted(p for f in ("shrinkstats", "adapters", "tests") for p in (REPOSITORY / f).rglob("*.py")):
            if path != Path(__file__).resolve():
                digest.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
        stamp = folder / "of"
        if folder.exists() and (not stamp.exists() or stamp.read_text() != digest.hexdigest()):
            raise SystemExit(f"{folder} was made from other files: choose another folder, or remove it")
        if not folder.exists():
            part = folder.with_name(folder.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(REPOSITORY, part / "whole", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
            shutil.copytree(part / "whole", part / "tree", symlinks=True)
            (part / "tree" / "sitecustomize.py").write_text(SITECUSTOMIZE)
            (part / "of").write_text(digest.hexdigest())
            part.rename(folder)
        self.restore()

    def restore(self) -> None:
        """Every file as it was, its time of change included: what is compiled stays valid."""
        for pattern in TARGETS:
            for path in self.whole.glob(pattern):
                copy = self.root / path.relative_to(self.whole)
                if copy.read_bytes() != path.read_bytes() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns:
                    shutil.copy2(path, copy)

    @contextlib.contextmanager
    def broken(self, mutant: Mutant) -> Iterator[Path]:
        """With the mutant in place; where compiled code is kept meanwhile."""
        path = self.root / mutant.file
        path.write_bytes(mutant.of(path.read_bytes()))
        cache = self.cache
        if mutant.file.startswith("shrinkstats/kernels/"):
            cache = self.folder / "cache.part"
            shutil.rmtree(cache, ignore_errors=True)
            stale = {Path(file).stem for file in self.importers(mutant.file)}
            for old in self.cache.rglob("*.nb?"):
                if old.name.split(".")[0] not in stale:
                    new = cache / old.relative_to(self.cache)
                    new.parent.mkdir(parents=True, exist_ok=True)
                    os.link(old, new)  # Numba replaces files and never writes into them
        try:
            yield cache
        finally:
            shutil.copy2(self.whole / mutant.file, path)

    def importers(self, file: str) -> set[str]:
        """The file, and all kernels that import it, directly or not."""
        found, new = set(), {file}
        while new:
            found |= new
            names = "|".join(Path(f).stem for f in new)
            new = {
                str(path.relative_to(self.whole))
                for path in self.whole.glob("shrinkstats/kernels/*.py")
                if re.search(rf"kernels(\.| import .*\b)({names})\b", path.read_text())
            } - found
        return found

    def pytest(self, *arguments: str, cache: Path, limit: float, **variables: str) -> tuple[int | None, str]:
        """Exit status, None after too much CPU time (or twice as much by the clock, and a minute); and the output."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir()
        environment = os.environ | {
            "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(cache),
            "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp"), **variables,
        }  # fmt: skip
        loaded = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        arguments = ("-q", "--no-header", "-p", "no:cacheprovider", "-W", loaded, *arguments)
        output = self.folder / "output.txt"
        child = os.fork()
        if not child:
            _in_child(self.root, arguments, environment, output, int(limit))
        ended = _waited(child, 2 * limit + 60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # children that a test left behind, too
        if ended is None:
            os.waitpid(child, 0)
            return None, ""
        status = os.waitstatus_to_exitcode(ended)
        return (None if status == -signal.SIGXCPU else status), output.read_text(errors="replace")


def _in_child(root: Path, arguments: tuple[str, ...], environment: dict[str, str], output: Path, limit: int) -> None:
    """Run pytest in a forked process, in which the libraries are loaded already; never return."""
    status = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        with output.open("w") as file, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(root)
        sys.argv[:] = ["pytest"]
        sys.path[:] = [str(root), *environment["PYTHONPATH"].split(os.pathsep), *sys.path[1:]]
        sys.dont_write_bytecode = True
        sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]
        exec((root / "sitecustomize.py").read_text(), {"__file__": str(root / "sitecustomize.py")})
        tempfile.tempdir = None
        sys.modules["numba"].config.reload_config()
        status = int(sys.modules["pytest"].main(list(arguments)))
    except BaseException:
        print(traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _waited(child: int, limit: float) -> int | None:
    """The status a child ended with, None if it did not in time."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    return None


class Tests:
    """Which tests run which lines, and how long they take."""

    def __init__(self, copy: Copy, workers: int) -> None:
        notes = copy.folder / "hits.jsonl"
        if not notes.exists():
            print("all tests, once, to see which lines each runs ...", flush=True)
            for part in copy.folder.glob("hits.part*"):
                part.unlink()
            parallel = ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
            status, output = copy.pytest(
                "-m", "not long", "-p", "hits", *parallel, cache=copy.cache, limit=7200,
                HITS=str(copy.folder / "hits.part"), PYTHONPATH=f"{copy.root}:{copy.root / 'tests'}",
            )  # fmt: skip
            if status not in (0, 1):
                raise SystemExit(f"the tests did not run: status {status}\n{output[-5000:]}")
            (copy.folder / "hits.log").write_text(output)
            lines = [line for part in sorted(copy.folder.glob("hits.part*")) for line in part.read_text().splitlines()]
            notes.with_suffix(".part").write_text("\n".join(lines))
            notes.with_suffix(".part").rename(notes)
        self.seconds: dict[str, float] = {}
        self.names: list[str] = []
        self.reach: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # by file and line
        failed = []
        for line in notes.read_text().splitlines():
            note = json.loads(line)
            if not note["passed"]:
                failed.append(note["test"])
                continue
            self.seconds[note["test"]] = note["seconds"] + 0.01
            for file, lines in note["lines"].items():
                for line in lines:
                    self.reach[file][line].append(len(self.names))
            self.names.append(note["test"])
        print(f"{len(self.seconds)} tests pass on the whole code; {len(failed)} fail and are left out", *failed[:9])
        self.functions, self.mentions, self.compiled = functions_of(copy.whole)

    def of(self, mutant: Mutant) -> tuple[set[str], set[str]]:
        """That run the line, or one before it in the function; and if they are few, of functions that mention it too.

        Few they are in what Numba compiles and in what is cached, which one test runs and others rely on.
        """
        found = self.reach[mutant.file]
        keys = {(mutant.file, line) for line in mutant.functions}
        own: set[int] = set()
        if keys and not keys & self.compiled:
            for line in range(mutant.line, mutant.functions[-1] - 1, -1):
                if line in found:
                    own = set(found[line])
                    break
        others: set[int] = set()
        seen = set(keys)
        while keys and len(own | others) < FEW:
            keys = {caller for key in keys for caller in self.mentions[self.functions.get(key, "")]} - seen
            others |= {i for file, line in keys - self.compiled for i in self.reach[file].get(line, ())}
            seen |= keys
        if not own | others:
            others = set().union(*found.values())
        return {self.names[i] for i in own}, {self.names[i] for i in others - own}

    def stages(self, mutant: Mutant) -> Iterator[list[str]]:
        """Tests to run, in their order: a few that are likely to fail, then others."""
        own, others = self.of(mutant)
        sure = within(FIRST, [sorted(own, key=lambda t: (self.seconds[t], t))], self.seconds) if others else []
        tests = (own | others) - set(sure)
        files: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda t: (self.seconds[t], t)):
            files[test.split("::")[0]].append(test)
        sizes: dict[str, int] = defaultdict(int)
        for test in self.seconds:
            sizes[test.split("::")[0]] += 1
        own = f"test_{Path(mutant.file).stem}.py"

        def near_and_quick(file: str) -> tuple[bool, float]:
            """Its own tests; then files most of whose tests reach it, if the quicker half of these is quick."""
            chosen = files[file]
            quick = 0.2 + self.seconds[chosen[len(chosen) // 2]]
            return not file.endswith(own), -len(chosen) / (sizes[file] + 20) / quick

        near = sorted(files, key=near_and_quick)
        first = sure + within(FIRST, [files[f] for f in near[:FILES]], self.seconds)
        yield first
        rest = set(first)
        second = within(SECOND, [[t for t in files[f] if t not in rest] for f in near], self.seconds)
        if second:
            yield second


def within(budget: float, queues: list[list[str]], seconds: dict[str, float]) -> list[str]:
    """Tests of all queues in turn, until the time is used; the quickest run first."""
    chosen: list[str] = []
    for turn in zip_longest(*queues):
        for test in turn:
            if test is not None and (not chosen or seconds[test] <= budget):
                chosen.append(test)
                budget -= seconds[test]
    return sorted(chosen, key=lambda test: round(seconds[test], 1))


Function = tuple[str, int]  # its file, and its first line


def functions_of(root: Path) -> tuple[dict[Function, str], dict[str, set[Function]], set[Function]]:
    """The name of every function; the functions that mention a name; those that Numba compiles, which no trace sees."""
    names, mentions, compiled = {}, defaultdict(set), set()
    for path in sorted([*root.glob("shrinkstats/**/*.py"), *root.glob("adapters/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                key = str(path.relative_to(root)), min([node.lineno, *(d.lineno for d in node.decorator_list)])
                names[key] = node.name
                if any(
                    re.match(r"(numba\.)?(jit|njit|inner|intrinsic|cfunc)\b", ast.unparse(d))
                    for d in node.decorator_list
                ):
                    compiled.add(key)
                for inside in ast.walk(node):
                    if isinstance(inside, ast.Name):
                        mentions[inside.id].add(key)
                    elif isinstance(inside, ast.Attribute):
                        mentions[inside.attr].add(key)
    return names, mentions, compiled


# A plugin: only these tests, in this order.
CHOSEN = """
import os
from pathlib import Path

import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    order = {test: i for i, test in enumerate(Path(os.environ["CHOSEN"]).read_text().split("\\n"))}
    items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
"""


def judge(copy: Copy, tests: Tests, mutant: Mutant) -> dict[str, object]:
    """What became of a mutant."""
    start, used = time.monotonic(), cpu()
    found: dict[str, object] = {"key": mutant.key, "where": f"{mutant.file}:{mutant.line}", "kind": mutant.kind}
    before = (copy.whole / mutant.file).read_bytes()
    change = difflib.unified_diff(
        before.decode().splitlines(), mutant.of(before).decode().splitlines(), lineterm="", n=0
    )
    found["diff"] = [line for line in change if not line.startswith(("---", "+++", "@@"))]
    found |= {"result": "survived", "tests": 0}
    (copy.root / "chosen.py").write_text(CHOSEN)
    chosen = copy.folder / "chosen.txt"
    with copy.broken(mutant) as cache:
        for stage in tests.stages(mutant):
            if not stage:
                continue
            chosen.write_text("\n".join(stage))
            files = dict.fromkeys(test.split("::")[0] for test in stage)
            compiling = 240 if cache != copy.cache else 60
            limit = 60 + compiling + 3 * sum(tests.seconds[test] for test in stage)
            status, output = copy.pytest(
                "-x", "-p", "chosen", "--tb=line", *files, cache=cache, limit=limit, CHOSEN=str(chosen)
            )
            found["tests"] += len(stage)
            if status == 0:
                continue
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
            found["by"] = failed[1] if failed else f"exit status {status}"
            found["result"] = "timeout" if status is None else "killed"
            if status in (4, 5):  # no test ran: a mistake of this program
                found |= {"result": "error", "by": output[-2000:]}
            break
    found |= {"seconds": round(time.monotonic() - start, 1), "cpu": round(cpu() - used, 1)}
    return found


def cpu() -> float:
    """Seconds of CPU time of all processes that have ended."""
    return sum(os.times()[2:4])


def report(results: list[dict[str, object]]) -> None:
    kinds = ("killed", "timeout", "survived", "error")
    rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(kinds, 0))
    for r in results:
        rows[str(r["where"]).split(":")[0]][str(r["result"])] += 1
        rows["all"][str(r["result"])] += 1
    for r in results:
        if r["result"] in ("survived", "error"):
            print(f"\n{r['where']}  {r['kind']}, {r['result']} {r['tests']} tests")
            print(*(f"  {line}" for line in r["diff"]), sep="\n")
            if r["result"] == "error":
                print(r["by"])
    print(f"\n{'file':45}" + "".join(f"{kind:>10}" for kind in kinds))
    for name in sorted(rows, key=lambda name: (name == "all", name)):
        print(f"{name:45}" + "".join(f"{rows[name][kind]:10}" for kind in kinds))
    dead = rows["all"]["killed"] + rows["all"]["timeout"]
    if results:
        clock, busy = (sum(float(r[kind]) for r in results) / len(results) for kind in ("seconds", "cpu"))
        print(f"\n{dead} of {len(results)} killed, {dead / len(results):.1%}")
        print(f"{clock:.1f} s a mutant, {busy:.1f} s of CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="mutants to draw (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="for the copy and the results; made if missing")
    parser.add_argument("--workers", type=int, default=1, help="processes of the first stage (1)")
    parser.add_argument("--file", default="", help="only mutants of files with this in their path")
    options = parser.parse_args()
    for name in LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    copy = Copy(options.folder.resolve())
    tests = Tests(copy, options.workers)
    log = options.folder / f"mutants-{options.seed}.jsonl"
    done = {}
    if log.exists():
        for line in log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # cut off by an interruption
                result = json.loads(line)
                done[result["key"]] = result
    mutants = drawn(copy.whole, options.number, options.seed, options.file)
    for i, mutant in enumerate(mutants, 1):
        if mutant.key in done:
            continue
        result = done[mutant.key] = judge(copy, tests, mutant)
        with log.open("a") as out:
            out.write(json.dumps(result) + "\n")
        by = f" by {result['by']}" if result["result"] == "killed" else ""
        spent = f"{result['seconds']}s, CPU {result['cpu']}s"
        print(f"{i:4} {result['result']} {result['where']} {result['kind']}{by} ({spent})", flush=True)
    report([done[mutant.key] for mutant in mutants])


if __name__ == "__main__":
    main()
