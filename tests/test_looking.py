"""On a GPU nothing asks for a number, which would wait for the device: with arrays that refuse to tell one."""

import sys

import numpy as np
import pytest
from test_arrays import DATA, LAYERS, SEARCHES, VECTORS, data, examples

pytestmark = pytest.mark.core


class Looked(Exception):
    """Someone asked for a number."""


@pytest.fixture
def silent(monkeypatch):
    """array-api-strict's arrays on a device, silent as CuPy's ought to stay."""
    strict = pytest.importorskip("array_api_strict")

    def refuse(*arguments, **options):
        raise Looked

    for module in [m for name, m in sys.modules.items() if name.startswith("shrinkstats") and hasattr(m, "can_look")]:
        monkeypatch.setattr(module, "can_look", lambda x: False)
    for name in (
        "__bool__",
        "__float__",
        "__int__",
        "__complex__",
        "__index__",
        "__array__",
        "__iter__",
        "__contains__",
    ):
        monkeypatch.setattr(type(strict.zeros(1)), name, refuse, raising=False)
    return strict


@pytest.mark.parametrize("name", [*VECTORS, *SEARCHES, *DATA, *LAYERS])
def test_nobody_looks(silent, name):
    device = silent.Device("device1")

    def there(v):
        return silent.asarray(v.tolist(), dtype=silent.float64, device=device)

    arguments = examples(there) if name in VECTORS | SEARCHES else {"x": data(there)}
    for result in (VECTORS | SEARCHES | DATA | LAYERS)[name](**arguments):
        assert result.device == device


def test_the_check_can_fail(silent):
    with pytest.raises(Looked):
        float(silent.asarray(1.0))
    with pytest.raises(Looked):
        np.asarray(silent.asarray([1.0]))
