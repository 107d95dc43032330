"""Who imports whom: every room keeps to what the design gives it, but for a list of exceptions that can only shrink."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parent.parent
FOLDERS = ("shrinkstats", "adapters", "theory", "benchmarks")
SMALL = {"checks and files"}  # what readers, networks, attacks and corruptions take from the core
CORE = {"core", "kernels", *SMALL}
MAY = {  # the rooms that a room may use beside itself
    "checks and files": set(),
    "kernels": SMALL,
    **dict.fromkeys(("core", "theory", "torch", "sklearn"), CORE),
    **dict.fromkeys(("attacks", "datasets", "models", "robustness"), SMALL),
    "evaluation": {"commands"},  # old names, for one release
    "demo": {"commands"},
}
FILES = {
    f"shrinkstats.{name}" for name in ("_arrays", "_files", "_first_use", "_moments_file", "values")
}  # below everything else
SCREENS = ("rich", "typer")  # for commands alone
EXCEPTIONS = {
    "shrinkstats/cli.py: shrinkstats.adapters.commands.application": "the door to the commands, opened when it is used",
    "shrinkstats/kernels/dask.py: shrinkstats.moments": "each chunk is an array of its own, of any kind",
    "shrinkstats/kernels/torch.py: shrinkstats.moments": "gradients are those of the plain operations",
    "adapters/datasets/imagenet_c.py: shrinkstats.adapters.robustness.corruptions": "the names of the corruptions",
    "adapters/robustness/protocols.py: shrinkstats.adapters.torch.adaptation": "batches of a size in one pass",
    "theory/dominance.py: rich.console": "the bar that verify_dominance promises where rich is installed",
    "theory/dominance.py: rich.progress": "the bar that verify_dominance promises where rich is installed",
}


def module_of(path):
    """The name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] in ("shrinkstats", "benchmarks") else ("shrinkstats", *parts))


SOURCES = {module_of(p): p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))}


def room_of(module):
    """Where a module of ours stands; None for other libraries."""
    first, *rest = module.split(".")
    if first != "shrinkstats":
        return first if first == "benchmarks" else None
    if rest[:1] == ["adapters"]:
        return rest[1] if len(rest) > 1 else "adapters"
    if rest[:1] in (["theory"], ["kernels"]):
        return rest[0]
    return "checks and files" if module in FILES else "core"


def imported(tree, package):
    """The modules that a file of a package imports, at its top or within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*outer, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in SOURCES else origin


def offences(module, text):
    """The imports of a file that its room may not have."""
    own = room_of(module)
    package = module if SOURCES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for name in imported(ast.parse(text), package):
        other = room_of(name)
        if other is None:
            forbidden = name.split(".")[0] in SCREENS and own not in ("commands", "benchmarks")
        elif own in ("commands", "benchmarks"):
            forbidden = other != own and other in ("commands", "benchmarks")
        else:
            forbidden = other not in {own, *MAY[own]}
        if forbidden:
            found.add(name)
    return found


def test_every_room_keeps_to_its_imports():
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {name}"
        for module, path in SOURCES.items()
        for name in offences(module, path.read_text(encoding="utf-8"))
    }
    assert found == set(EXCEPTIONS), "new ones are to be mended, and mended ones to be taken off the list"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("shrinkstats.mean", "def f():\n    import shrinkstats.adapters.torch"),
        ("shrinkstats.kernels.cpu", "from shrinkstats import estimators"),
        ("shrinkstats.adapters.torch.layers", "from shrinkstats.theory import certify"),
        ("shrinkstats.adapters.models.vgg", "from shrinkstats.adapters import datasets"),
        ("shrinkstats.adapters.attacks.noise", "from shrinkstats.estimators import Stein"),
        ("shrinkstats.theory.risk", "from shrinkstats.adapters.commands import screen"),
        ("shrinkstats.theory.risk", "import rich.table"),
        ("shrinkstats.adapters.commands.demo", "from benchmarks import record"),
        ("benchmarks.tables", "from shrinkstats.adapters.commands.screen import grid"),
    ],
)
def test_the_check_can_fail(module, text):
    assert offences(module, text)
    assert not offences(module, "from shrinkstats._files import whole\nimport numpy")
