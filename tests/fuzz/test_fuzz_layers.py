"""Layers of every option on tensors of every kind, forward and backward, against autograd on a plain float64 copy."""

import math

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from laying import BROKEN, FINITE, arrays, like, strides
from oracle import EPS, check, width

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

import rules  # noqa: E402
from torch import nn  # noqa: E402

from shrinkstats.adapters.torch import ShrinkBatchNorm1d, ShrinkBatchNorm2d, ShrinkBatchNorm3d  # noqa: E402

LAYERS = {2: ShrinkBatchNorm1d, 3: ShrinkBatchNorm1d, 4: ShrinkBatchNorm2d, 5: ShrinkBatchNorm3d}
RIVALS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
DTYPES = ("float32", "float64", "float16", "bfloat16")


def images(values=FINITE + BROKEN, dtypes=DTYPES):
    return arrays(dtypes=dtypes, values=values, ndim=(2, 5), axis=1, negative=False)


def random_layer(draw, laid, rule, **options):
    """A layer with random parameters and buffers, some of them zero or negative."""
    double = laid.dtype == "float64"
    dtype = torch.float64 if double else torch.float32
    layer = LAYERS[len(laid.shape)](laid.channels, rule, dtype=dtype, **options)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def fill(v, values):
        with torch.no_grad():
            v.copy_(torch.as_tensor(values))

    c = laid.channels
    if layer.weight is not None:
        fill(layer.weight, rng.normal(size=c) * (rng.random(c) > 0.1))
    if layer.bias is not None:
        fill(layer.bias, rng.normal(size=c))
    if layer.running_mean is not None:
        fill(layer.running_mean, rng.normal(size=c))
        fill(layer.running_var, rng.uniform(0.2, 3, c))
    return layer


def calibration(draw, layer):
    """Noise buffers as `calibrate` would leave them."""
    rng, c, dtype = np.random.default_rng(draw(st.integers(0, 99))), layer.num_features, layer.running_mean.dtype
    rows = draw(st.integers(1, 4))
    layer.noise_mean = torch.as_tensor(rng.uniform(0, 0.3, c)).to(dtype)
    layer.noise_sd = torch.as_tensor(rng.uniform(0, 0.3, (rows, c))).to(dtype)
    layer.noise_sd_bias = torch.as_tensor(rng.uniform(-0.3, 0.0, (rows, c))).to(dtype)


def prior_of(layer, images):
    """Training statistics and the noise at this many images, read between those measured at 1, 2, 4, ... images."""
    if layer.running_mean is None:
        return None
    mean, var = layer.running_mean.double().clone(), layer.running_var.double().clone()
    if layer.noise_mean is None:
        return mean, var, None
    sd, bias = layer.noise_sd.double(), layer.noise_sd_bias.double()
    at = min(math.log2(images), len(sd) - 1)
    low, high = math.floor(at), math.ceil(at)
    between = [(t[low] + (at - low) * (t[high] - t[low])) / images for t in (sd, bias)]
    return mean, var, (layer.noise_mean.double() / images, *between)


def tensor(draw, laid, flags):
    """The laid array as a tensor with flags, and its plain float64 copy."""
    x = laid.torch(negated="negated" in flags)
    plain = torch.from_numpy(laid.plain())
    if "inference" in flags:
        with torch.inference_mode():
            x = x.clone() if draw(st.booleans()) else laid.torch()
    elif "parameter" in flags:
        x = nn.Parameter(x)
    elif "gradient" in flags:
        x = x.detach().requires_grad_()
    return x, plain


def flags_of(draw, laid):
    options = [(), ("gradient",), ("gradient",), ("parameter",), ("inference",)]
    found = draw(st.sampled_from(options))
    if laid.dtype in ("float32", "float64") and draw(st.integers(0, 2)) == 0:
        found = (*found, "negated")
    return found


def steps_of(x, dtype):
    """How far a computation may take the data to be from where they are: roundings of deviations, and of the mean."""
    finite = torch.where(x.isfinite(), x, 0.0)
    others = [i for i in range(x.ndim) if i != 1]
    spread = (finite - finite.mean(others, keepdim=True)).abs().amax(others, keepdim=True)
    return EPS[width(dtype)] * spread + 8 * 2.0**-52 * finite.abs()


def compare(ours, right, change, dtype, name, channels=None, size=0.0):
    eps = EPS[width(dtype)]
    right, change = right.detach(), change.detach()
    tolerance = 8 * rules.within(change, channels) + 16 * eps * (rules.within(right.abs(), channels) + size)
    tolerance = torch.where(tolerance.isnan(), 0.0, tolerance)
    fine = torch.isfinite(right)
    assert not bool((ours.detach().isfinite() & ~fine & (tolerance < math.inf)).any()), (
        f"{name}: a number for {right[~fine][:1]}"
    )
    ours = torch.where(fine, ours.detach().double(), 0.0)
    check(name, ours.numpy(), torch.where(fine, right, 0.0).numpy(), tolerance.numpy(), dtype)


def train_or_adapt(data, laid, rule, *, mode, calibrated, flags, eps, options):
    """One forward and backward pass, and what it does to the buffers."""
    draw = data.draw
    adapted = mode == "adapted"
    layer = random_layer(draw, laid, rules.BatchStatistics() if adapted else rule, eps=eps, **options)
    layer.train(mode == "train")
    if adapted:
        layer.adaptation = rule
    if calibrated and layer.running_mean is not None:
        calibration(draw, layer)
    x, plain = tensor(draw, laid, flags)
    prior = prior_of(layer, laid.shape[0]) if rules.needs_prior(rule) else None
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    count = plain.numel() // laid.channels
    if mode == "evaluate":
        refused = False
    else:
        refused = (count == 1 and not adapted) or (rules.needs_prior(rule) and prior is None)
        refused |= count == 1 and isinstance(rule, rules.SteinBlend) and prior is not None and prior[2] is None
    with torch.inference_mode() if "inference" in flags else torch.enable_grad():
        if refused:
            with pytest.raises(ValueError, match=r"more than 1 value|track_running_stats|calibrate"):
                layer(x)
            return
        y = layer(x)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    out = laid.dtype
    seed = draw(st.integers(0, 99))
    given = draw(st.sampled_from(["ordinary", "ones", "laid"]))
    if given == "ones":
        g = torch.ones((), dtype=x.dtype).expand(x.shape)
    else:
        steps = (
            draw(strides(laid.shape, negative=False))
            if given == "laid"
            else like(laid, strides=laid.strides, seed=0).strides
        )
        g = like(laid, strides=steps, seed=seed).torch(negated="negated" in flags)
    vectors = [v for v in (layer.weight, layer.bias) if v is not None]

    def function(x, g, *parameters):
        parameters = iter(parameters)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_()]
            both = []
            for v in (layer.weight, layer.bias):
                both.append(None if v is None else next(parameters).detach().requires_grad_())
            leaves += [v for v in both if v is not None]
            if mode == "evaluate":
                center, spread = layer.running_mean.double(), layer.running_var.double()
                y = rules.affine(leaves[0], center, rules.scale(rule, spread, eps), *both)
            else:
                y, center, spread = rules.normalize(leaves[0], *both, rule, prior, eps)
            gradients = torch.autograd.grad(y, leaves, g, allow_unused=True)
        gradients = [torch.zeros_like(v) if d is None else d for v, d in zip(leaves, gradients, strict=True)]
        return [v.detach() for v in (y, center, spread, *gradients)]

    g64 = g.resolve_neg().double()
    leaves = [plain, g64, *(v.detach().double() for v in vectors)]
    steps = [
        steps_of(plain, laid.dtype),
        EPS[width(laid.dtype)] * g64.abs(),
        *(EPS[width(laid.dtype)] * v.abs() for v in leaves[2:]),
    ]
    (right, center, spread, *gradients), (change, d_center, d_spread, *changes) = rules.judged(function, leaves, steps)
    compare(y, right, change, out, "y", 1)

    if y.requires_grad:
        wanted = [v for v in (x, *vectors) if v.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, g))
        for name, v, a, b in zip(("dx", *("dw", "db")[: len(vectors)]), (x, *vectors), gradients, changes, strict=True):
            if v.requires_grad:
                ours = next(found)
                assert ours.dtype == v.dtype
                # PyTorch adds up in half precision there; of a forward pass that is NaN nobody needs the gradient.
                theirs = mode == "evaluate" and laid.dtype in ("float16", "bfloat16") and name != "dx"
                if right.isfinite().all() and not theirs:
                    divisor = rules.scale(rule, spread, eps)
                    size = rules.terms(g64, right, divisor, layer.weight)
                    if name != "dx":  # sums over all other axes
                        unit = (
                            (size / rules.within(g64.abs(), 1)).nan_to_num() if name == "dw" else torch.ones_like(size)
                        )
                        others = [i for i in range(g64.ndim) if i != 1]
                        size = (g64.abs() * (1 + unit)).sum(others)
                    compare(ours, a, b, str(v.dtype)[6:], name, 1 if name == "dx" else None, size)
    after = layer.state_dict()
    if mode != "train" or not layer.track_running_stats:
        assert all(torch.equal(before[k], after[k]) for k in before)
        return
    share = options["momentum"]
    share = 1.0 if share is None else share
    assert after["num_batches_tracked"] == 1
    value = rules.tracked(rule, spread, count)
    d_value = rules.tracked(rule, d_spread, count)
    for name, new, d in (("running_mean", center, d_center), ("running_var", value, d_value)):
        start = before[name].double()
        counts = new.isfinite() | (share > 0)  # an infinity without a share adds nothing
        buffer = str(after[name].dtype)[6:]
        compare(
            torch.where(counts, after[name], before[name]),
            torch.where(counts, start + share * (new - start), start),
            share * d + 4 * EPS[buffer] * (start.abs() + share * new.abs()),
            buffer,
            name,
        )


OPTIONS = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from([0.1, None, 1.0, 0.0]),
        "affine": st.sampled_from([True, True, False]),
        "track_running_stats": st.sampled_from([True, True, False]),
    }
)


@fuzz(
    6,
    data=st.data(),
    laid=images(),
    rule=st.sampled_from(rules.RULES),
    eps=st.sampled_from([1e-5, 1e-3, 1e-12]),  # as in PyTorch, 0 is refused in training
    options=OPTIONS,
)
def test_training(data, laid, rule, eps, options):
    train_or_adapt(
        data,
        laid,
        rule,
        mode="train",
        calibrated=data.draw(st.booleans()),
        flags=flags_of(data.draw, laid),
        eps=eps,
        options=options,
    )


@fuzz(
    4,
    data=st.data(),
    laid=images(),
    rule=st.sampled_from(rules.RULES),
    eps=st.sampled_from([1e-5, 0.0]),
    calibrated=st.booleans(),
)
def test_adapted(data, laid, rule, eps, calibrated):
    options = {"momentum": 0.1, "affine": data.draw(st.booleans())}
    train_or_adapt(
        data,
        laid,
        rule,
        mode="adapted",
        calibrated=calibrated,
        flags=flags_of(data.draw, laid),
        eps=eps,
        options=options,
    )


@fuzz(1, data=st.data(), laid=images(), rule=st.sampled_from(rules.RULES))
def test_evaluation(data, laid, rule):
    options = {"momentum": 0.1, "affine": data.draw(st.booleans())}
    train_or_adapt(
        data, laid, rule, mode="evaluate", calibrated=False, flags=flags_of(data.draw, laid), eps=1e-5, options=options
    )
