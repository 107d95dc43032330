"""Networks with published state dicts."""

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from shrinkstats.adapters import models  # noqa: E402

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "models"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018)],
)
def test_sizes(name, parameters):
    net = getattr(models, name)()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [20, 56])
def test_keys_shapes_and_outputs_are_the_reference_s(depth):
    file = REFERENCE / f"cifar_resnet{depth}.json"
    if not file.exists():
        pytest.skip(f"the reference file {file.name} is not at hand")
    reference = json.loads(file.read_text())
    net = getattr(models, f"resnet{depth}")().double().eval()
    state = net.state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == reference["state_dict"]
    for j, (key, value) in enumerate(state.items()):
        if value.ndim >= 2:
            i = torch.arange(value.numel(), dtype=torch.float64)
            fan_in = value.numel() / value.shape[0]
            value.copy_((math.sqrt(4 / fan_in) * torch.cos((i + 1) ** 2 + j)).reshape(value.shape))
        elif value.ndim == 1:
            ramp = torch.linspace(-1, 1, value.numel(), dtype=torch.float64) * 0.05
            value.copy_(ramp + (1 if key.endswith(("running_var", "weight")) else 0))
    x = torch.linspace(-1, 1, math.prod(reference["input_shape"]), dtype=torch.float64).reshape(2, 3, 32, 32)
    expected = torch.tensor(reference["forward"]["first8"], dtype=torch.float64)
    torch.testing.assert_close(net(x).flatten()[:8].detach(), expected, rtol=1e-9, atol=0)
