"""The studies of benchmarks/: what may import what, and the commands that run them."""

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
pytest.importorskip("benchmarks", reason="the benchmarks are not on the path")
COMMANDS = [
    "adaptation", "blend_rules", "charts", "cifar10", "cifar_pictures", "cityscapes", "cityscapes_pictures",
    "dominance", "gpu", "landscapes", "layers", "lipschitz", "mixed_set", "moments", "paper_figures", "phase_diagram",
    "ppmi", "ppmi_pictures", "risk_table", "scale", "scale_tables", "shift", "streams", "tables", "train",
    "wasserstein",
]  # fmt: skip


def imported(source):
    """The modules of benchmarks that a file names in its imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def strangers(source, folder):
    """What a file in a folder of benchmarks/ may not import: anything there but its own folder and the laboratory."""
    mine = ("lab",) if folder == "lab" else (folder, "lab")
    rooms = [name.split(".")[1] for name in imported(source) if name.split(".")[0] == "benchmarks"]
    return [room for room in rooms if room not in mine]


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*/*.py")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_study_imports_the_laboratory_and_no_other_study(file):
    assert strangers(file.read_text(), file.parent.name) == []


def test_a_study_that_imports_another_is_found():
    source = (
        "def f():\n    from benchmarks import ppmi\nimport benchmarks.speed.layers\nfrom benchmarks.lab import record"
    )
    assert sorted(strangers(source, "cifar10")) == ["ppmi", "speed"]
    assert strangers("from benchmarks.speed import layers", "lab") == ["speed"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found_by_its_name(name):
    """As `python -m benchmarks.NAME` looks for it; that of a package is its __main__."""
    spec = find_spec(f"benchmarks.{name}")
    main = find_spec(f"{spec.name}.__main__") if spec.submodule_search_locations else spec
    assert "main" in Path(main.origin).read_text()


@pytest.mark.parametrize("name", ["study", "record", "nothing"])
def test_what_is_no_command_is_not_found(name):
    with pytest.raises(ModuleNotFoundError, match=f"No module named 'benchmarks.{name}'"):
        __import__(f"benchmarks.{name}")


def test_the_command_of_a_record(tmp_path):
    """A package is run by its __main__, which is not what was typed; folders are nobody's business."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit\nfrom benchmarks.lab import record\natexit.register(lambda: print(record.command()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for name in ("adaptation", "ppmi_pictures"):
        command = [sys.executable, "-m", f"benchmarks.{name}", "--unknown", "/a/folder"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert f"usage: python -m benchmarks.{name} " in done.stderr
        assert done.stdout.splitlines()[-1] == f"python -m benchmarks.{name} --unknown folder"


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_result_names_machine_versions_and_command(file):
    result = json.loads(file.read_text())
    assert result["command"].startswith("python -m benchmarks.")
    assert result["command"].split()[2].removeprefix("benchmarks.") in COMMANDS
    assert {"processor", "cores", "python", "numpy", "torch"} <= result["machine"].keys()
    assert len(result["date"]) == len("2026-11-21")


@pytest.mark.parametrize("name", ["training", "segmentation"])
def test_what_moved_into_the_laboratory_is_installed_by_its_old_name_too(name, monkeypatch):
    if name == "training":
        pytest.importorskip("torch", reason="torch is not installed")
    old, file = f"shrinkstats.adapters.{name}", BENCHMARKS / "lab" / name / "__init__.py"
    settings = (ROOT / "pyproject.toml").read_text()
    assert f'    "{old}",\n' in settings
    assert f'"{old}" = "benchmarks/lab/{name}"' in settings
    spec = spec_from_file_location(old, file, submodule_search_locations=[str(file.parent)])
    module = module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, old, module)
        with pytest.warns(DeprecationWarning, match=f"{old} is benchmarks.lab.{name} of the repository now"):
            spec.loader.exec_module(module)
    for part in [part for part in sys.modules if part.startswith(f"{old}.")]:
        del sys.modules[part]
    assert all(hasattr(module, public) for public in import_module(f"benchmarks.lab.{name}").__all__)


def test_images_that_do_not_fill_a_group_are_refused_before_the_work(capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    from benchmarks.adaptation import study

    with pytest.raises(SystemExit):
        study.main(["--data", "nowhere", "--weights", "nothing", "--images", "300"])
    assert "--images must be 1024 at least, or a multiple of 256" in capsys.readouterr().err
