"""The PyTorch layers' way through CUDA kernels, without a GPU: see cuda_on_host.py. On a GPU: test_cuda.py."""

from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product

import array_api_compat
import cuda_on_host as host
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import array_api_compat.torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from shrinkstats._arrays import as_real  # noqa: E402
from shrinkstats.adapters.torch import ShrinkBatchNorm2d, cuda, fused  # noqa: E402
from shrinkstats.estimators import (  # noqa: E402
    BatchStatistics,
    JSNorm,
    Lasso,
    MinMaxNorm,
    PriorBlend,
    Ridge,
    RobustNorm,
    Stein,
    SteinBlend,
)
from shrinkstats.kernels import vectors  # noqa: E402
from shrinkstats.moments import Moments  # noqa: E402
from shrinkstats.prior import Prior, SamplingNoise  # noqa: E402

needs_compiler = pytest.mark.skipif(host.COMPILER is None, reason="no C++ compiler (g++) to run the kernels with")

PLAIN = fused.plain
STEIN = [Stein(mean, var) for mean in (None, "sampling", "channel") for var in (None, "channel", "gamma")]
OTHERS = [BatchStatistics(), JSNorm(), Ridge(0.5), Lasso(0.5), PriorBlend(16), SteinBlend()]
EXTREMES = [RobustNorm(), MinMaxNorm()]
SHAPES = [(6, 5, 9, 7), (8, 4, 16, 16), (40, 7), (1, 6, 5, 5), (2, 3, 40, 41), (3, 1, 4, 4), (3, 2, 5, 5)]


@pytest.fixture
def on_gpu(monkeypatch):
    """The layers take the GPU's way."""
    with host.installed():
        monkeypatch.setattr(cuda, "_stream", lambda device: nullcontext())
        monkeypatch.setattr(fused, "fits", lambda x, group=None: False)
        monkeypatch.setattr(fused, "plain", None)  # nobody takes that way
        monkeypatch.setattr(fused, "normalize", cuda.normalize)
        cuda._has_cupy.cache_clear()
        assert cuda._has_cupy()
        yield
    cuda._has_cupy.cache_clear()


def tensors(shape, dtype=torch.float32, channels_last=False, seed=0):
    """Data, a gradient, weight and bias."""
    rng = np.random.default_rng(seed)
    x, g = (torch.from_numpy(rng.normal(m, 2.0, size=shape)).to(dtype) for m in (1.5, 0.0))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = (torch.from_numpy(rng.normal(1.0, 0.3, size=shape[1])).float() for _ in range(2))
    return [v.requires_grad_() for v in (x, weight, bias)], g


def prior(channels, dtype, calibrated=False):
    rng = np.random.default_rng(7)
    mean, var, a, b = (rng.uniform(0.5, 2.0, size=channels) for _ in range(4))
    noise = SamplingNoise(a, b / 10, 0 * a) if calibrated else None
    convert = (lambda v: v) if dtype is np.ndarray else lambda v: torch.from_numpy(v).float()
    made = Prior(convert(mean), convert(var), noise and SamplingNoise(*map(convert, noise)))
    return made


def through(normalize, inputs, g, rule):
    y = normalize(*inputs, rule)
    return [y.detach(), *torch.autograd.grad(y, inputs, g)]


def check_same(ours, theirs, tolerance):
    for name, a, b in zip(("output", "x", "weight", "bias"), ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        b = b.double()
        error = (a.double() - b).abs().max()
        assert error <= tolerance * (1 + b.abs().max()), (name, float(error))


@needs_compiler
@pytest.mark.parametrize("rule", [*STEIN, *OTHERS], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_on_the_cpu(on_gpu, rule, shape):
    for channels_last in (False, True)[: 1 + (len(shape) == 4)]:
        inputs, g = tensors(shape, channels_last=channels_last)
        calibrated = rule == SteinBlend() and shape[0] == 1
        made = fused.Rule(rule, prior(shape[1], torch, calibrated), 1e-5)
        reference = fused.Rule(rule, prior(shape[1], np.ndarray, calibrated), 1e-5)
        ours = through(cuda.normalize, inputs, g, made)
        theirs = through(fused._FusedNormalize.apply, inputs, g, reference)
        check_same(ours, theirs, 2e-6)
        for a, b in zip(made.statistics, reference.statistics, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert ours[0].stride() == inputs[0].stride()


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_other_dtypes(on_gpu, dtype, tolerance, channels_last):
    """AMP's mix: half precision data with float32 parameters."""
    inputs, g = tensors((6, 8, 9, 7), dtype, channels_last)
    ours = through(cuda.normalize, inputs, g, fused.Rule(Stein(), None, 1e-5))
    wide = [v.detach().double().requires_grad_() for v in inputs]
    theirs = through(fused._FusedNormalize.apply, wide, g.double(), fused.Rule(Stein(), None, 1e-5))
    check_same(ours, [b.to(a.dtype) for a, b in zip(ours, theirs, strict=True)], tolerance)


@needs_compiler
def test_parameters_of_half_precision(on_gpu):
    inputs, g = tensors((6, 8, 9, 7), torch.float16)
    half = [v.detach().half().requires_grad_() for v in inputs]
    wide = [v.detach().float().requires_grad_() for v in half]
    ours = through(cuda.normalize, half, g, fused.Rule(Stein(), None, 1e-5))
    theirs = through(fused._FusedNormalize.apply, wide, g.float(), fused.Rule(Stein(), None, 1e-5))
    check_same(ours, [v.half() for v in theirs], 2e-3)


@needs_compiler
@pytest.mark.parametrize("rule", [Stein(), BatchStatistics()], ids=str)
def test_other_strides_and_no_parameters(on_gpu, rule):
    (x, _, _), g = tensors((12, 8, 9, 7))
    for view in (lambda v: v[::2], lambda v: v.transpose(0, 2), lambda v: v[:, :, ::2], lambda v: v.flip(0)[:, 1:4]):
        lying = view(x.detach()).requires_grad_()
        y = cuda.normalize(lying, None, None, fused.Rule(rule, None, 1e-5))
        z = fused._FusedNormalize.apply(lying, None, None, fused.Rule(rule, None, 1e-5))
        gradients = [torch.autograd.grad(v, lying, view(g))[0] for v in (y, z)]
        torch.testing.assert_close(y, z, rtol=2e-6, atol=5e-6)
        torch.testing.assert_close(*gradients, rtol=2e-6, atol=5e-6)


@needs_compiler
@pytest.mark.parametrize("affine", [False, True])
def test_layers_train_alike(on_gpu, monkeypatch, affine):
    torch.manual_seed(0)
    ours = ShrinkBatchNorm2d(5, affine=affine)
    inputs = [(torch.randn(6, 5, 4, 4) * 2 + 1).requires_grad_() for _ in range(3)]
    for x in inputs:
        ours(x).square().sum().backward()
    monkeypatch.undo()  # from here on the CPU's way
    theirs = ShrinkBatchNorm2d(5, affine=affine)
    for x in inputs:
        theirs(x).square().sum().backward()
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_only_what_needs_a_gradient(on_gpu):
    (x, weight, _), g = tensors((6, 5, 4, 4))
    y = cuda.normalize(x.detach(), weight, None, fused.Rule(Stein(), None, 1e-5))
    z = fused._FusedNormalize.apply(x.detach(), weight, None, fused.Rule(Stein(), None, 1e-5))
    torch.testing.assert_close(*(torch.autograd.grad(v, weight, g)[0] for v in (y, z)), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_second_derivatives(on_gpu, monkeypatch):
    """They go through plain operations."""
    monkeypatch.setattr(fused, "plain", PLAIN)
    (x, weight, bias), _ = tensors((4, 3, 3, 3), torch.float64)
    y = cuda.normalize(x, weight, bias, fused.Rule(Stein(), None, 1e-5))
    z = fused.plain(x, weight, bias, fused.Rule(Stein(), None, 1e-5))
    second = []
    for v in (y, z):
        (gx,) = torch.autograd.grad(v.pow(3).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(gx.pow(2).sum(), x)[0])
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-9)


@needs_compiler
def test_several_gradients_at_once(on_gpu, monkeypatch):
    """They do as well."""
    monkeypatch.setattr(fused, "plain", PLAIN)
    (x, weight, bias), _ = tensors((4, 3, 3, 3), torch.float64)
    y = cuda.normalize(x, weight, bias, fused.Rule(Stein(), None, 1e-5))
    rows = torch.eye(y.numel(), dtype=y.dtype)[::20].reshape(-1, *y.shape)
    (found,) = torch.autograd.grad(y, x, rows, is_grads_batched=True, retain_graph=True)
    for g, each in zip(rows, found, strict=True):
        torch.testing.assert_close(each, torch.autograd.grad(y, x, g, retain_graph=True)[0], rtol=1e-6, atol=1e-6)


@contextmanager
def staying_on_the_device():
    """No number is asked for, and none comes from the host: either waits for a device, and breaks CUDA graphs."""
    with pytest.MonkeyPatch.context() as patch, _NoNumbers():
        for module, name in product((torch, array_api_compat.torch), ("asarray", "as_tensor", "tensor")):
            patch.setattr(module, name, partial(_only_tensors, getattr(module, name)))
        yield


def _only_tensors(made, value, **options):
    assert isinstance(value, torch.Tensor), f"a tensor of {value!r}"
    return made(value, **options)


class _NoNumbers(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        aten = torch.ops.aten
        looks = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
        assert function not in looks, function
        return function(*arguments, **(options or {}))


@needs_compiler
@pytest.mark.parametrize("rule", [*STEIN, *OTHERS], ids=str)
def test_nothing_waits_for_the_device(on_gpu, rule):
    inputs, g = tensors((6, 5, 4, 4))
    made = fused.Rule(rule, prior(5, torch), 1e-5)
    with staying_on_the_device():
        through(cuda.normalize, inputs, g, made)
    layer = ShrinkBatchNorm2d(5, rule)
    with staying_on_the_device():
        layer(inputs[0]).sum().backward()


def test_the_checks_can_fail():
    with staying_on_the_device(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()
    with staying_on_the_device(), pytest.raises(AssertionError, match="a tensor of"):
        as_real("noise", [0.5], array_api_compat.torch, like=torch.ones(1))


@pytest.mark.parametrize("rule", [*STEIN, *OTHERS, *EXTREMES], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_operations_stay_on_the_device(rule, dtype):
    """What is used without CuPy, and by compilers: on a device whose tensors have no numbers to look at."""
    layer = ShrinkBatchNorm2d(5, rule, device="meta")
    x = torch.empty(6, 5, 4, 4, device="meta", dtype=dtype, requires_grad=True)
    with staying_on_the_device():
        y = layer(x)
        y.sum().backward()
    assert (y.device.type, y.dtype) == ("meta", dtype)
    assert (x.grad.device.type, x.grad.dtype) == ("meta", dtype)
    assert layer.running_mean.device.type == layer.weight.grad.device.type == "meta"


@pytest.mark.parametrize("rule", OTHERS, ids=str)
def test_vectors_of_other_rules_stay_on_the_device(rule):
    found, sums = torch.empty(5, 7, device="meta"), torch.empty(2, 1, 7, device="meta")
    mean, m2, low, high, between = found
    batch = Moments.of_equal_samples(
        count=24, samples=6, mean=mean, m2=m2, minimum=low, maximum=high, sample_m2=between
    )
    made = fused.Rule(rule, Prior(mean, m2), 1e-5, moments=batch)
    with staying_on_the_device():
        vectors = cuda._vectors(made, found, mean, mean, found)
        lines, d_weight, d_bias = cuda._backward(made, sums, found, vectors)
    assert vectors.shape == (7, 7)
    assert lines.shape == (5, 7)
    assert d_weight.shape == d_bias.shape == (7,)


def test_who_fits(monkeypatch):
    monkeypatch.setattr(cuda, "_has_cupy", lambda: True)
    x = torch.zeros(2, 3, 4)
    assert cuda.fits(x, fused.Rule(Stein(), None, 1e-5))
    assert cuda.fits(x.bfloat16(), fused.Rule(Stein(), None, 1e-5))
    assert not cuda.fits(x.to(torch.complex64), fused.Rule(Stein(), None, 1e-5))
    assert not cuda.fits(x[:0], fused.Rule(Stein(), None, 1e-5))
    assert not cuda.fits(x, fused.Rule(RobustNorm(), None, 1e-5))
    assert not cuda.fits(x, fused.Rule(Stein(), None, 1e-5, group=object()))
    monkeypatch.setattr(cuda, "_has_cupy", lambda: False)
    assert not cuda.fits(x, fused.Rule(Stein(), None, 1e-5))


# --- the vectors of Stein's rules, against those compiled for the CPU ---------------------------------------------


def vectors_of(c, case, seed=0):
    rng = np.random.default_rng(seed)
    mean, m2, between = rng.normal(size=c), rng.uniform(1.0, 9.0, size=c), rng.uniform(0.01, 0.1, size=c)
    if case == "ties":
        between[:] = between.max()
        m2[:] = m2.max()
    if case == "much noise":
        between *= 1e4
    if case == "no spread":
        m2[0] = 0
    if case == "no mean":
        mean[:] = 0
    if case == "NaN" and c > 2:
        mean[-1] = np.nan
    return mean, m2, between


@needs_compiler
@pytest.mark.parametrize("rule", STEIN, ids=str)
@pytest.mark.parametrize("case", ["ordinary", "ties", "much noise", "no spread", "no mean", "NaN"])
def test_stein(on_gpu, rule, case):
    for c in (1, 2, 3, 7, 300):
        check_stein(rule, *vectors_of(c, case))


def check_stein(rule, mean, m2, between):
    c = mean.size
    rng = np.random.default_rng(1)
    found = torch.from_numpy(np.stack([mean, m2, mean, mean, between]))
    weight, bias = (torch.from_numpy(rng.normal(size=c)) for _ in range(2))
    for samples, count in ((6, 24), (6, 6), (1, 24)):
        sample_m2 = m2 if samples == count else between
        batch = Moments.of_equal_samples(
            count=count, samples=samples, mean=mean, m2=m2, minimum=mean, maximum=mean, sample_m2=sample_m2
        )
        made = fused.Rule(rule, None, 1e-5, moments=batch)
        ours = cuda._stein(made, found, weight, bias, torch.empty(0, dtype=torch.float64)).numpy()
        told = (mean, m2, batch.noise, count, *rule.rules)
        with np.errstate(all="ignore"):
            center, var = vectors.stein(*told)
            np.testing.assert_allclose(ours[0], center, rtol=1e-12)
            np.testing.assert_allclose(ours[1], var, rtol=1e-12)
            lines = np.empty((3, c))
            slope = vectors.affine_lines(center, np.sqrt(var + 1e-5), weight.numpy(), bias.numpy(), lines)
            np.testing.assert_allclose(ours[3:6], lines, rtol=1e-12, atol=1e-12)

            sums = rng.normal(size=(2, 1, c))
            d_center, d_scale, d_weight, d_bias = vectors.scale_gradients(
                sums, mean, mean, center, np.sqrt(var + 1e-5), slope, weight.numpy()
            )
            g_mean, g_m2, g_noise = vectors.stein_pullback(*told, d_center, d_scale * 0.5 / np.sqrt(var + 1e-5))
            each = samples > 1 and count > samples
            g_sample = g_noise * batch.noise_scale if samples > 1 else np.empty(0)
            if samples == 1:
                g_m2 = g_m2 + g_noise / (count - 1) / count
            size, means = count // samples, rng.normal(size=(samples, c))
            lines, d = np.empty((3, c)), np.empty((samples if each else 1, c))
            vectors.combine_lines(g_mean, g_m2, g_sample, means, mean, float(count), size, slope, lines, d)
        back, ours_weight, ours_bias = cuda._stein_backward(made, torch.from_numpy(sums), found, torch.from_numpy(ours))
        back = back.numpy()
        np.testing.assert_allclose(ours_weight, d_weight, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours_bias, d_bias, rtol=1e-10, atol=1e-12)
        scale = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(back[:3], lines, **scale)
        np.testing.assert_allclose(back[3] + back[4] * (means - mean) if each else back[3:4], d, **scale)
