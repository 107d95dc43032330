"""Sequences: streams that see a broken batch, groups, and layers converted, trained, adapted and reverted."""

import copy
import io

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from laying import arrays
from oracle import EPS, width

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

import rules  # noqa: E402
from test_fuzz_layers import RIVALS, calibration, compare, prior_of, random_layer, steps_of  # noqa: E402
from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import adapt, convert, grouped, reset, revert  # noqa: E402
from shrinkstats.estimators import BatchStatistics, PriorBlend, SteinBlend  # noqa: E402

STREAMING = [rule for rule in rules.RULES if not rule.uses_extremes and not isinstance(rule, rules.Noisy)]


def batches(draw, laid, count):
    """Batches of the same shape but for the number of images."""
    generator = torch.Generator().manual_seed(laid.seed)
    dtype = getattr(torch, laid.dtype)
    return [
        (torch.randn(draw(st.integers(1, 4)), *laid.shape[1:], generator=generator, dtype=torch.float64) + 0.3).to(
            dtype
        )
        for _ in range(count)
    ]


def small(dtypes=("float32", "float64")):
    return arrays(dtypes=dtypes, values=("ordinary",), ndim=(3, 4), axis=1, negative=False, repeated=False)


@fuzz(
    0.8,
    data=st.data(),
    laid=small(),
    rule=st.sampled_from(STREAMING),
    calibrated=st.booleans(),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    gradient=st.booleans(),
)
def test_a_broken_batch_is_not_remembered(data, laid, rule, calibrated, value, gradient):
    """It is NaN itself; the stream goes on as if it had never been."""
    draw = data.draw
    layer = random_layer(draw, laid, BatchStatistics()).eval()
    if calibrated:
        calibration(draw, layer)
    elif isinstance(rule, SteinBlend) and np.prod(laid.shape[2:]) == 1:
        return  # an observation a channel says nothing of its noise
    stream = batches(draw, laid, draw(st.integers(1, 4)))
    broken, at = draw(st.integers(0, len(stream))), draw(st.integers(0, laid.channels - 1))
    never = copy.deepcopy(layer)
    with (
        pytest.warns(UserWarning, match="not calibrated")
        if isinstance(rule, SteinBlend) and not calibrated
        else torch.no_grad()
    ):
        adapt(layer, rule, memory=4)
        adapt(never, rule, memory=4)
    with torch.set_grad_enabled(gradient):
        for i, x in enumerate(stream):
            if i == broken:
                bad = torch.randn(2, *x.shape[1:], dtype=x.dtype)
                bad[0, at] = value
                assert torch.isnan(layer(bad)[0, at]).all()
            torch.testing.assert_close(layer(x), never(x), rtol=0, atol=0)


@fuzz(
    1,
    data=st.data(),
    laid=small(("float32", "float64", "float16", "bfloat16")),
    rule=st.sampled_from(rules.RULES),
    calibrated=st.booleans(),
    size=st.sampled_from([1, 2, 3]),
)
def test_groups_are_batches(data, laid, rule, calibrated, size):
    """Every `size` images in a row: the formula on each group by itself."""
    draw = data.draw
    layer = random_layer(draw, laid, BatchStatistics()).eval()
    if calibrated:
        calibration(draw, layer)
    pixels = int(np.prod(laid.shape[2:]))
    alone = size * pixels == 1
    if (isinstance(rule, rules.Noisy) and alone) or (isinstance(rule, SteinBlend) and alone and not calibrated):
        return
    x = torch.cat([b[:1] for b in batches(draw, laid, size * draw(st.integers(1, 3)))])
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 and draw(st.booleans()) else x
    layer.adaptation = rule
    with grouped(layer, size), torch.set_grad_enabled(draw(st.booleans())):
        y = layer(x)
    prior = prior_of(layer, size) if rules.needs_prior(rule) else None
    parameters = [v.detach().double() for v in (layer.weight, layer.bias)]
    for part, ours in zip(x.split(size), y.split(size), strict=True):
        plain = part.double()

        def function(x):
            return [rules.normalize(x, *parameters, rule, prior, layer.eps)[0]]

        (right,), (change,) = rules.judged(function, [plain], [steps_of(plain, laid.dtype)])
        compare(ours, right, change, laid.dtype, "y", 1)


ACTIONS = ("train", "train", "evaluate", "convert", "adapt", "reset", "revert", "reload", "copy", "broken")


@fuzz(
    1,
    data=st.data(),
    laid=small(("float32", "float64")),
    options=st.fixed_dictionaries(
        {"momentum": st.sampled_from([0.1, None]), "affine": st.booleans(), "track_running_stats": st.just(True)}
    ),
)
def test_a_life_of_a_layer(data, laid, options):
    """Whatever was done in between, training and evaluation are those of a plain layer that saw the same batches."""
    dtype = getattr(torch, laid.dtype)
    rival = RIVALS[len(laid.shape)](laid.channels, dtype=dtype, **options)
    net = nn.Sequential(copy.deepcopy(rival))
    generator = torch.Generator().manual_seed(laid.seed)
    tolerance = 64 * EPS[width(laid.dtype)]
    for action in data.draw(st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=8)):
        converted = hasattr(net[0], "adaptation")
        x = torch.randn(laid.shape, generator=generator, dtype=dtype) * 2 + 1
        if action == "convert":
            convert(net, BatchStatistics())
        elif action == "adapt":
            adapt(net.eval(), PriorBlend(3.0), memory=data.draw(st.sampled_from([None, 4])))
            net(x)
        elif action == "reset":
            reset(net)
        elif action == "revert":
            revert(net)
            assert type(net[0]) is type(rival)
            assert net[0].__dict__.keys() == rival.__dict__.keys()
        elif action == "reload":
            file = io.BytesIO()
            torch.save(net.state_dict(), file)
            file.seek(0)
            net.load_state_dict(torch.load(file))
        elif action == "copy":
            net = copy.deepcopy(net)
        elif action == "broken" and converted and net[0].adaptation is not None:
            assert torch.isnan(net.eval()(torch.full_like(x, np.nan))).all()
        elif action == "evaluate" and not (converted and net[0].adaptation is not None):
            torch.testing.assert_close(net.eval()(x), rival.eval()(x), rtol=tolerance, atol=tolerance)
        elif action == "train" and x.numel() > laid.channels:
            ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            y, z = net.train()(ours), rival.train()(theirs)
            g = torch.randn(x.shape, generator=generator, dtype=dtype)
            torch.testing.assert_close(y, z, rtol=tolerance, atol=tolerance)
            a, b = torch.autograd.grad(y, ours, g)[0], torch.autograd.grad(z, theirs, g)[0]
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max() + 1))
        for name, value in rival.state_dict().items():
            torch.testing.assert_close(net[0].state_dict()[name], value, rtol=tolerance, atol=tolerance)
