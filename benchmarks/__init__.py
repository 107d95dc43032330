"""Studies: what this package claims and costs, measured. ``python -m benchmarks.NAME`` runs one; :mod:`benchmarks.lab`
holds what they share, and the folders beside it a study each.

A command keeps its name wherever its file lies: ``benchmarks.layers`` is ``speed/layers.py``, and
``benchmarks.ppmi_pictures`` is ``ppmi/pictures.py``.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any


class _InFolders:
    """Looks for a command in the folders of the studies, after Python's own search has found nothing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The file of ``benchmarks.NAME``; a NAME that begins with its study's leaves that away."""
        package, _, command = name.rpartition(".")
        if package != __name__:
            return None
        own = re.match(r"(cifar|cityscapes|ppmi)_", command)
        files = Path(__file__).parent.glob(f"{own[1]}*/{command[own.end() :]}.py" if own else f"*/{command}.py")
        found = [file for file in files if file.parent.name != "lab"]
        return spec_from_file_location(name, found[0]) if len(found) == 1 else None


sys.meta_path.append(_InFolders)
