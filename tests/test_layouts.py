"""Memory formats and types of the layers' input, and gradients: fused against plain, closed form against autograd."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_layers import ESTIMATORS

from shrinkstats import Moments, Prior, SamplingNoise, Statistics
from shrinkstats.estimators import BatchStatistics, Lasso, PriorBlend, Ridge, RobustNorm, Stein, SteinBlend

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

from shrinkstats.adapters.torch import (  # noqa: E402
    ShrinkBatchNorm1d,
    ShrinkBatchNorm2d,
    ShrinkBatchNorm3d,
    adapt,
    calibrate,
    convert,
    fused,
    grouped,
    openmp,
)
from shrinkstats.kernels import team  # noqa: E402

LAYERS = {2: (ShrinkBatchNorm1d, nn.BatchNorm1d), 3: (ShrinkBatchNorm1d, nn.BatchNorm1d),
          4: (ShrinkBatchNorm2d, nn.BatchNorm2d), 5: (ShrinkBatchNorm3d, nn.BatchNorm3d)}  # fmt: skip


def lying(name, dtype=torch.float32):
    """A tensor of 5 channels, as it lies in memory."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1).to(dtype)

    return {
        "2-D": lambda: random(7, 5),
        "2-D, transposed": lambda: random(5, 7).T,
        "2-D, every other channel": lambda: random(7, 10)[:, ::2],
        "3-D": lambda: random(4, 5, 6),
        "3-D, channels last": lambda: random(4, 6, 5).transpose(1, 2),
        "3-D, an offset view": lambda: random(5, 5, 8)[1:, :, 2:],
        "3-D, expanded": lambda: random(1, 5, 6).expand(4, 5, 6),
        "4-D": lambda: random(4, 5, 3, 2),
        "4-D, channels_last": lambda: random(4, 5, 3, 2).contiguous(memory_format=torch.channels_last),
        "4-D, a slice of channels_last": lambda: random(4, 8, 6, 2).contiguous(memory_format=torch.channels_last)[
            :, 2:7, ::2
        ],
        "4-D, a slice": lambda: random(8, 6, 5, 4)[::2, 1:, 1:4, ::2],
        "4-D, permuted": lambda: random(3, 2, 5, 4).permute(3, 2, 0, 1),
        "4-D, one pixel": lambda: random(6, 5, 1, 1),
        "4-D, one image": lambda: random(1, 5, 3, 2),
        "5-D": lambda: random(3, 5, 2, 2, 2),
        "5-D, channels_last_3d": lambda: random(3, 5, 2, 3, 2).contiguous(memory_format=torch.channels_last_3d),
        "5-D, a slice": lambda: random(3, 6, 4, 3, 2)[:, 1:, ::2],
    }[name]()


NAMES = [
    "2-D", "2-D, transposed", "2-D, every other channel", "3-D", "3-D, channels last", "3-D, an offset view",
    "3-D, expanded", "4-D", "4-D, channels_last", "4-D, a slice of channels_last", "4-D, a slice", "4-D, permuted",
    "4-D, one pixel", "4-D, one image", "5-D", "5-D, channels_last_3d", "5-D, a slice",
]  # fmt: skip


def formats(x):
    kinds = [torch.contiguous_format, *{4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(x.ndim, [])]
    return [x.is_contiguous(memory_format=kind) for kind in kinds]


def addresses(table):
    """Where the arrays of a pass lie, and their bytes."""
    arrays = table[team.ADDRESSES : team.VECTORS].reshape(-1, team.STRIDE)
    return [(int(address), 4 * int(size)) for address, size, *_ in arrays if address]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_read_in_place_and_pytorch_s_formats_kept(name, monkeypatch):
    x = lying(name)
    memory = x.untyped_storage()
    ours, theirs = (make(5) for make in LAYERS[x.ndim])
    ours.estimator = BatchStatistics()
    x1, x2 = x.detach().requires_grad_(), x.detach().requires_grad_()
    assert x1.untyped_storage().data_ptr() == memory.data_ptr()
    seen = []
    run = openmp.run
    monkeypatch.setattr(openmp, "run", lambda *call: seen.append(addresses(call[1][0])) or run(*call))
    y1, y2 = ours(x1), theirs(x2)
    g = torch.randn_like(y1)
    (dx1,), (dx2,) = torch.autograd.grad(y1, x1, g), torch.autograd.grad(y2, x2, g)
    assert [len(found) for found in seen] == [1, 2, 2, 3]  # moments, affine, reduce_grad, combine
    ends = [(t.data_ptr(), t.data_ptr() + t.nbytes()) for t in map(torch.Tensor.untyped_storage, (x, y1, g, dx1))]
    for low, size in {found for pass_ in seen for found in pass_}:  # input, output, and their gradients
        assert any(begin <= low and low + size <= end for begin, end in ends)
    assert formats(y1) == formats(y2)
    if "transposed" in name or "permuted" in name or name == "3-D, channels last":
        assert dx1.stride() == x.stride()  # an order PyTorch has no name for is kept in the gradient
    else:
        assert formats(dx1) == formats(dx2)
    torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dx1, dx2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(name, estimator):
    x = lying(name, torch.float64)
    layer = LAYERS[x.ndim][0](5, estimator, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    layer.running_mean.normal_(generator=generator)
    size, strides, offset = x.size(), x.stride(), x.storage_offset()
    base = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).requires_grad_()
    weight, bias = (torch.randn(5, dtype=x.dtype, generator=generator).requires_grad_() for _ in range(2))

    def forward(base, weight, bias):
        view = base.as_strided(size, strides, offset)
        return torch.func.functional_call(copy.deepcopy(layer), {"weight": weight, "bias": bias}, (view,))

    assert torch.autograd.gradcheck(forward, (base, weight, bias), fast_mode=True)


WHOLE = (4, 5, 3, 6)
EXPANDED = {"inside": (4, 5, 3, 1), "rows": (4, 5, 1, 6), "samples": (1, 5, 3, 6), "channels": (4, 1, 3, 6),
            "images": (4, 5, 1, 1), "all": (1, 1, 1, 1)}  # fmt: skip


@pytest.mark.parametrize("upstream", EXPANDED)
@pytest.mark.parametrize("name", EXPANDED)
def test_expanded_tensors_are_those_they_stand_for(name, upstream):
    """Steps of zero, in the input and in the gradient that arrives: against PyTorch's layer on a plain copy."""
    generator = torch.Generator().manual_seed(3)
    x, g = (torch.randn(EXPANDED[k], generator=generator).expand(WHOLE) for k in (name, upstream))
    found = []
    for layer, copied in ((ShrinkBatchNorm2d(5, BatchStatistics()), x), (nn.BatchNorm2d(5), x.clone())):
        leaf = copied.detach().requires_grad_()
        y = layer(leaf)
        (dx,) = torch.autograd.grad(y, leaf, g if copied is x else g.clone(), retain_graph=True)
        found.append((y, dx, layer.running_mean, layer.running_var))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_data_far_from_zero(layout):
    """Single precision cannot hold the mean: the pivot the products are taken around is beside it."""
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(16, 3, 16, 16, generator=generator) + torch.tensor([1e4, -3e4, 0.1])[:, None, None]).contiguous(
        memory_format=layout
    )
    g = torch.randn(x.shape, generator=generator) + 1
    found = []
    for dtype in (torch.float32, torch.float64):
        layer = ShrinkBatchNorm2d(3, BatchStatistics(), dtype=dtype)
        data = x.detach().to(dtype).clone().requires_grad_()
        layer(data).backward(g.to(dtype))
        found.append([v.double() for v in (data.grad, layer.weight.grad, layer.bias.grad)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_gradients_of_gradients(estimator):
    generator = torch.Generator().manual_seed(2)
    layer = ShrinkBatchNorm2d(4, estimator, dtype=torch.float64)
    layer.running_mean.normal_(generator=generator)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, generator=generator).add(1).requires_grad_()
    vectors = [torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]

    def forward(x, weight, bias):
        return torch.func.functional_call(copy.deepcopy(layer), {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradgradcheck(forward, (x, *vectors))


SEVERAL = {
    "is_grads_batched": lambda y, leaves, rows: torch.autograd.grad(
        y, leaves, rows, is_grads_batched=True, retain_graph=True
    ),
    "differentiable": lambda y, leaves, rows: torch.autograd.grad(
        y, leaves, rows, is_grads_batched=True, create_graph=True
    ),
    "vmap": lambda y, leaves, rows: torch.func.vmap(lambda g: torch.autograd.grad(y, leaves, g, retain_graph=True))(
        rows
    ),
}


def layer_in(mode, estimator):
    generator = torch.Generator().manual_seed(1)
    layer = ShrinkBatchNorm2d(4, estimator, dtype=torch.float64).train(mode == "training")
    layer.running_mean.normal_(generator=generator)
    if mode in ("adapted", "stream"):
        calibrate(layer, [torch.randn(16, 4, 3, 3, generator=generator, dtype=torch.float64)])
        adapt(layer, estimator, memory=8 if mode == "stream" else None)
    return layer


@pytest.mark.parametrize(
    ("mode", "estimator"),
    [
        *itertools.product(["training", "evaluation", "adapted"], [Stein(), RobustNorm(), SteinBlend()]),
        ("stream", SteinBlend()),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", SEVERAL)
def test_several_gradients_at_once_are_those_of_a_loop(way, estimator, mode):
    layer, generator = layer_in(mode, estimator), torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64).add(1).requires_grad_()
    leaves = (x, layer.weight, layer.bias)
    y = layer(x)
    rows = torch.randn(5, *y.shape, generator=generator, dtype=torch.float64)
    expected = zip(*(torch.autograd.grad(y, leaves, g, retain_graph=True) for g in rows), strict=True)
    for found, each in zip(SEVERAL[way](y, leaves, rows), expected, strict=True):
        torch.testing.assert_close(found, torch.stack(each))


@pytest.mark.parametrize("mode", ["training", "adapted"])
def test_a_jacobian_of_all_rows_at_once(mode):
    layer = layer_in(mode, SteinBlend())
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)[..., None]
    rowwise, whole = (
        torch.autograd.functional.jacobian(copy.deepcopy(layer), x, vectorize=at_once) for at_once in (False, True)
    )
    torch.testing.assert_close(whole, rowwise)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # PyTorch's own
def test_a_gradient_of_dual_numbers():
    """Forward mode over a backward pass whose forward pass is over."""
    layer = layer_in("training", Stein())
    x, g, step = torch.randn(3, 3, 4, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_()
    y = layer(x)
    with forward_ad.dual_level():
        (dx,) = torch.autograd.grad(y, x, forward_ad.make_dual(g, step), retain_graph=True)
        tangent = forward_ad.unpack_dual(dx).tangent
    torch.testing.assert_close(tangent, torch.autograd.grad(y, x, step)[0])


def test_a_weight_that_comes_from_the_input_has_a_gradient_of_its_own():
    layer, x = ShrinkBatchNorm2d(4, Stein(), dtype=torch.float64), lying("4-D", torch.float64)[:, :4].requires_grad_()
    weight = x.mean((0, 2, 3))
    y = torch.func.functional_call(layer, {"weight": weight}, (x,))
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, expected = (
        torch.autograd.grad(y, x, g, create_graph=again, retain_graph=True)[0] for again in (True, False)
    )
    torch.testing.assert_close(found, expected)


def test_a_gradient_penalty():
    """Through a network: some inputs of the layer have a graph behind them, its parameters are leaves."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), ShrinkBatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1)).double()
    rival = copy.deepcopy(net)
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    found = []
    for model, fits in ((net, fused.fits), (rival, lambda *_: False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "fits", fits)
            images = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
            slope.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("upstream", ["any", "sum", "channels_last", "transposed"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_fused_gradients_are_those_of_plain_operations(estimator, upstream):
    generator = torch.Generator().manual_seed(4)
    for shape, memory_format in itertools.product(
        [(9, 6, 5, 7), (1, 6, 9, 9), (64, 6, 1, 1), (3, 2, 40, 60)], [torch.contiguous_format, torch.channels_last]
    ):
        c = shape[1]
        x = (torch.randn(shape, generator=generator) * 2 + 1).contiguous(memory_format=memory_format)
        vectors = [torch.randn(c, generator=generator) for _ in range(2)]
        prior = Prior(np.linspace(-0.5, 1.5, c), np.linspace(3.0, 5.0, c))
        any_ = torch.randn(shape, generator=generator)
        g = {
            "any": any_,
            "channels_last": any_.contiguous(memory_format=torch.channels_last),
            "transposed": any_.transpose(0, 3).contiguous().transpose(0, 3),
            "sum": torch.ones(()).expand(shape),
        }[upstream]
        found = []
        for normalize in (fused.normalize, fused.plain):
            leaves = [v.clone(memory_format=torch.preserve_format).requires_grad_() for v in (x, *vectors)]
            y = normalize(*leaves, fused.Rule(estimator, prior, 1e-5))
            found.append((y, torch.autograd.grad(y, leaves, g)))
        (y1, (dx1, *dv1)), (y2, (dx2, *dv2)) = found
        torch.testing.assert_close(y1, y2, rtol=2e-6, atol=2e-6)
        at_extremes = estimator.uses_extremes  # the gradient there is a sum over the channel
        torch.testing.assert_close(dx1, dx2, rtol=1e-5, atol=1e-5 if at_extremes else 1e-6)
        for ours, theirs in zip(dv1, dv2, strict=True):  # sums of n terms near 1, which cancel
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 + 1e-7 * g.numel() / c)


# --- types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["training", "evaluation", "adapted"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_those_of_batch_norm(dtype, mode):
    ours, theirs = ShrinkBatchNorm2d(5, BatchStatistics()), nn.BatchNorm2d(5)
    if dtype == torch.float64:
        ours, theirs = ours.double(), theirs.double()
    ours.train(mode == "training"), theirs.train(mode != "evaluation")
    if mode == "adapted":
        ours.adaptation = BatchStatistics()
    for name in ("4-D", "4-D, channels_last", "4-D, a slice"):
        x1 = lying(name, dtype).requires_grad_()
        x2 = lying(name, dtype).requires_grad_()
        y1, y2 = ours(x1), theirs(x2)
        y1.square().sum().backward()
        y2.square().sum().backward()
        assert y1.dtype == y2.dtype == dtype
        assert x1.grad.dtype == x2.grad.dtype == dtype
        assert ours.weight.grad.dtype == theirs.weight.grad.dtype
        step = 4 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
        torch.testing.assert_close(y1, y2, rtol=step, atol=step)
    assert ours.running_mean.dtype == ours.weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_precision_are_wide(dtype, estimator):
    """Values whose squares leave float16, and whose sums would stop growing in bfloat16."""
    x = (torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(5)) * 100 + 1000).to(dtype)
    layer = ShrinkBatchNorm2d(4, estimator, momentum=1.0)
    wide = copy.deepcopy(layer).double()
    y, expected = layer(x), wide(x.double())
    torch.testing.assert_close(layer.running_mean.double(), wide.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var.double(), wide.running_var, rtol=1e-6, atol=0)
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("training", [True, False])
def test_autocast(training):
    torch.manual_seed(6)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train(training)
    ours = copy.deepcopy(theirs)
    ours[1] = ShrinkBatchNorm2d(4, BatchStatistics()).train(training)
    x = torch.randn(6, 3, 8, 8)
    found = []
    for net in (ours, theirs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = net(x)
        y.float().square().sum().backward()
        found.append((y, net[0].weight.grad, net[1].weight.grad))
    (y1, conv1, weight1), (y2, conv2, weight2) = found
    assert y1.dtype == y2.dtype == torch.bfloat16
    assert weight1.dtype == weight2.dtype == torch.float32
    torch.testing.assert_close(y1, y2, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(weight1, weight2, rtol=2e-2, atol=0.5)
    assert conv1.dtype == conv2.dtype


def test_whole_numbers_are_an_error():
    with pytest.raises(TypeError, match=r"floating point input, got torch.int64"):
        ShrinkBatchNorm2d(3)(torch.ones(2, 3, 4, 4, dtype=torch.int64))


# --- closed-form pullbacks -------------------------------------------------------------------------------------


def moments_of(channels, samples, count, *, seed=7, mean=1.0, var=1.0, sample_m2=1.0):
    """Random moments; the arguments scale their parts."""
    rng = np.random.default_rng(seed)
    means, m2 = mean * rng.normal(size=channels), var * rng.uniform(0.5, 2.0, size=channels) * count
    size = count // samples
    spread = m2 * rng.uniform(0.1, 1.0, size=channels) * sample_m2 * size
    low, high = means - rng.uniform(1, 2, size=channels), means + rng.uniform(1, 2, size=channels)
    return Moments.of_equal_samples(
        count=count, samples=samples, mean=means, m2=m2, minimum=low, maximum=high, sample_m2=spread
    )


def flattened(moments, channel):
    moments.m2[channel] = moments.sample_m2[channel] = 0.0
    moments.minimum[channel] = moments.maximum[channel] = moments.mean[channel]
    return moments


CASES = {
    "ordinary": moments_of(6, 8, 128),
    "many channels": moments_of(200, 8, 128),
    "small means: the factor is cut off at 0": moments_of(6, 8, 128, mean=1e-3),
    "small means, one sample": moments_of(6, 1, 20, mean=1e-3),
    "tiny noise": moments_of(6, 8, 128, sample_m2=1e-6),
    "two channels": moments_of(2, 8, 128),
    "one channel": moments_of(1, 8, 128),
    "three channels": moments_of(3, 8, 128),
    "one sample": moments_of(6, 1, 20),
    "nothing within a sample": moments_of(6, 20, 20),
    "a channel without variance": flattened(moments_of(6, 8, 128), 2),
    "no channel with variance": flattened(moments_of(6, 8, 128), slice(None)),
    "means of zero": moments_of(6, 8, 128, mean=0.0),
    "large": moments_of(6, 8, 128, mean=1e6, var=1e12),
    "small": moments_of(6, 8, 128, mean=1e-6, var=1e-12),
}
# One noise above the sum of all others: there is nothing to gain, and the factor is 1.
CASES["a negative amount"] = moments_of(6, 8, 128)
CASES["a negative amount"].sample_m2[1] *= 1e3

RULES = [
    *ESTIMATORS, Stein(mean="sampling", var=None), Stein(mean="channel", var=None), Stein(mean=None, var="gamma"),
    Stein(mean=None, var="channel"), Ridge(0.0), Lasso(0.0), Lasso(2.0), PriorBlend(0.0), PriorBlend(np.inf),
    SteinBlend(0.0),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("estimator", RULES, ids=str)
def test_pullback_is_autograd(estimator, case):
    batch = CASES[case]
    c, rng = len(batch.mean), np.random.default_rng(8)
    prior = Prior(batch.mean + rng.normal(size=c), batch.var() + rng.uniform(0.5, 1, size=c))
    g = Statistics(*rng.normal(size=(2, c)))
    found = estimator.pullback(batch, prior, g)
    if found is None:  # it leaves the work to autograd
        assert isinstance(estimator, SteinBlend)
        return
    leaves = {name: torch.from_numpy(getattr(batch, name).copy()).requires_grad_() for name in found._fields}
    vectors = replace(batch, **leaves, sample_mean=leaves["mean"])
    statistics = estimator.statistics(vectors, Prior(*map(torch.from_numpy, prior[:2])))
    expected = torch.autograd.grad(
        statistics, list(leaves.values()), [torch.from_numpy(v) for v in g], allow_unused=True
    )
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        zero = np.zeros(c)
        ours, theirs = zero if ours is None else ours, zero if theirs is None else theirs.numpy()
        if name in ("m2", "sample_m2"):  # x gets it times deviations, whose size is the root
            root = np.sqrt(getattr(batch, name))
            ours, theirs = ours * root, theirs * root
        scale = max(np.abs(theirs).max(), 1e-300)
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=1e-9, atol=1e-9, err_msg=name)


def test_calibrated_noise_is_differentiated_too():
    torch.manual_seed(9)
    noise = SamplingNoise(np.full(4, 0.1), np.full(4, 0.02), np.full(4, -0.05))
    prior = Prior(np.zeros(4), np.ones(4), noise)
    x = (torch.randn(4, 4, 3, 3, dtype=torch.float64) * 1.5 + 0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fused.normalize(x, None, None, fused.Rule(SteinBlend(), prior, 1e-5)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_that_are_shared_share_the_gradient(dtype):
    """As PyTorch's amin and amax do it."""
    x = torch.tensor([[0.0], [1.0], [3.0], [0.0], [3.0], [0.0]], dtype=dtype)
    found = []
    for normalize in (fused.normalize, fused.plain):
        leaf = x.clone().requires_grad_()
        y = normalize(leaf, None, None, fused.Rule(RobustNorm(), None, 1e-5))
        found.append(torch.autograd.grad(y, leaf, torch.arange(6.0, dtype=dtype)[:, None])[0])
    torch.testing.assert_close(*found)


class Other(torch.Tensor):
    """Not for the compiled passes."""


ODD = {
    "3d": lambda r: r(4, 3, 7),
    "3d, last axes swapped": lambda r: r(4, 7, 3).transpose(1, 2),
    "3d, sliced": lambda r: r(4, 3, 14)[..., ::2],
    "3d, expanded": lambda r: r(4, 3, 1).expand(4, 3, 7),
    "3d, first axes swapped": lambda r: r(3, 4, 7).transpose(0, 1),
    "4d, channels last": lambda r: r(4, 3, 5, 6).to(memory_format=torch.channels_last),
    "4d, channels last, sliced": lambda r: r(4, 3, 5, 12).to(memory_format=torch.channels_last)[..., ::2],
    "4d, channels and columns swapped": lambda r: r(4, 6, 5, 3).permute(0, 3, 2, 1),
    "4d, images and rows swapped": lambda r: r(5, 3, 4, 6).transpose(0, 2),
    "4d, expanded": lambda r: r(1, 3, 5, 6).expand(4, 3, 5, 6),
    "2d, transposed": lambda r: r(3, 4).t(),
    "5d, channels last": lambda r: r(4, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "5d, swapped": lambda r: r(4, 4, 3, 5, 6).transpose(1, 2),
}


@pytest.mark.parametrize("kind", ODD)
def test_outputs_lie_as_pytorch_s_do(kind):
    """What views an output need not know which layer made it, in which mode."""
    x = ODD[kind](torch.randn)
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.ndim](x.size(1))
    expected = plain(x).stride()
    layer = convert(copy.deepcopy(plain), BatchStatistics())
    adapted = adapt(copy.deepcopy(plain).eval(), PriorBlend(4.0))
    found = [layer(x), layer(x.detach().as_subclass(Other)), layer.eval()(x), adapted(x)]
    with torch.no_grad():
        found.append(adapt(copy.deepcopy(plain).eval(), BatchStatistics())(x))
    with grouped(adapted, 2):
        found.append(adapted(x))
    assert [y.stride() for y in found] == [expected] * len(found)
