"""PyTorch tensors on the CPU: the compiled passes on their own memory, with every derivative."""

import copy
import pickle

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Prior, kernels
from shrinkstats.estimators import BatchStatistics, MinMaxNorm, PriorBlend, RobustNorm, Stein, SteinBlend
from shrinkstats.kernels import generic

pytestmark = pytest.mark.core
torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

VECTORS = ("mean", "m2", "minimum", "maximum", "noise", "sample_mean", "sample_m2")


def random(*shape, dtype=torch.float64, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5).to(dtype)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "sliced": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "negative": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
}


@pytest.fixture
def plain(monkeypatch):
    """What plain operations give, whatever the tensor."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "backend", lambda x: generic)
            return function(*arguments)

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("axis", "sample_axis"), [(1, 0), (-1, 1), (0, None), (2, 3)])
def test_the_bits_of_numpy(layout, dtype, axis, sample_axis):
    x = LAYOUTS[layout](random(4, 5, 6, 7, dtype=dtype))
    found = shrinkstats.moments(x, axis=axis, sample_axis=sample_axis)
    same = x.resolve_neg().numpy()
    expected = shrinkstats.moments(same, axis=axis, sample_axis=sample_axis)
    assert (found.count, found.samples, found.sample_weight) == (
        expected.count, expected.samples, expected.sample_weight)  # fmt: skip
    for name in VECTORS:
        assert torch.is_tensor(getattr(found, name))
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    y = shrinkstats.normalize(x, BatchStatistics(), axis=axis)
    assert y.dtype == x.dtype
    y_expected = shrinkstats.normalize(same, BatchStatistics(), axis=axis)  # PyTorch rounds 1 / sqrt(v) otherwise
    np.testing.assert_allclose(y, y_expected, rtol=1e-14 if dtype == torch.float64 else 1e-6, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16, torch.int64, torch.uint8, torch.bool])
def test_other_types(dtype):
    x = (10 * random(4, 5, 6)).clamp(0, 100).to(dtype)
    found, expected = shrinkstats.moments(x), shrinkstats.moments(np.array(x.tolist(), dtype=float))
    for name in VECTORS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-12, err_msg=name)


def test_large_integers_keep_their_digits():
    x = torch.tensor([[2**53 - 1, 2**24 + 1], [2**53 - 3, 2**24 + 3]])
    np.testing.assert_array_equal(shrinkstats.moments(x).mean, [2**53 - 2, 2**24 + 2])


ESTIMATORS = [BatchStatistics(), Stein(), RobustNorm(), MinMaxNorm(), PriorBlend(3.0), SteinBlend()]


def everything(x, estimator, axis, weight, bias):
    prior = Prior(weight.detach() * 0, weight.detach() * 0 + 2)
    y = shrinkstats.normalize(x, estimator, axis=axis, weight=weight, bias=bias, prior=prior)
    m = shrinkstats.moments(x, axis=axis, sample_axis=1 if axis == 0 else 0)
    return torch.cat([y.reshape(-1), m.mean, m.m2, m.noise, m.minimum, m.maximum])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [1, 0, -1])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_gradients_are_those_of_plain_operations(estimator, axis, layout, plain):
    x = LAYOUTS[layout](random(4, 3, 5, 2)).detach().requires_grad_()
    weight, bias = (random(x.shape[axis], seed=i).requires_grad_() for i in (1, 2))
    leaves = (x, weight, bias)
    y = everything(x, estimator, axis, weight, bias)
    g = random(y.numel(), seed=3)
    found = torch.autograd.grad(y, leaves, g)
    reference = plain(everything, x, estimator, axis, weight, bias)
    torch.testing.assert_close(y, reference, rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(reference, leaves, g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mean", "m2", "noise", "minimum", "maximum"])
@pytest.mark.parametrize("sample_axis", [0, 2, None])
def test_each_vector_alone(name, sample_axis, plain):
    x = random(3, 4, 5).round(decimals=1).requires_grad_()  # with ties

    def slope():
        m = shrinkstats.moments(x, sample_axis=sample_axis)
        return torch.autograd.grad((getattr(m, name) * torch.arange(1.0, 5.0)).sum(), x)[0]

    torch.testing.assert_close(slope(), plain(slope), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 3), (1, 3), (4, 3, 1, 1)])
def test_few_samples_or_pixels(shape, plain):
    x = random(*shape).requires_grad_()

    def slope():
        m = shrinkstats.moments(x)
        noise = m.noise if m.count > 1 else m.mean
        return torch.autograd.grad((m.mean**2 + m.m2 + noise).sum(), x)[0]

    torch.testing.assert_close(slope(), plain(slope), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_in_lower_precision(dtype):
    x = random(6, 3, 50, dtype=dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    g = random(6, 3, 50, seed=1)
    found, expected = (torch.autograd.grad(shrinkstats.normalize(v, Stein()), v, g.to(v.dtype))[0] for v in (x, exact))
    assert found.dtype == dtype
    step = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=step)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # PyTorch's own
def test_second_derivatives_and_forward_mode():
    x, weight = random(3, 4, 2).requires_grad_(), random(4, seed=1).requires_grad_()

    def f(x, weight):
        y = shrinkstats.normalize(x, Stein(), weight=weight)
        return y, shrinkstats.moments(x).noise, shrinkstats.moments(x).maximum

    assert torch.autograd.gradcheck(f, (x, weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, weight))


def test_transforms(plain):
    x = random(2, 4, 3, 5)
    expected = torch.stack([shrinkstats.moments(v).noise for v in x])
    torch.testing.assert_close(torch.func.vmap(lambda v: shrinkstats.moments(v).noise)(x), expected)

    def loss(v):
        return shrinkstats.normalize(v, Stein()).pow(3).sum() + shrinkstats.moments(v).noise.sum()

    leaf = x[0].clone().requires_grad_()
    expected = torch.autograd.grad(plain(loss, leaf), leaf)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x[0]), expected)
    y = shrinkstats.normalize(leaf, Stein())
    rows = torch.eye(y.numel(), dtype=y.dtype)[:7].reshape(7, *y.shape)
    (batched,) = torch.autograd.grad(y, leaf, rows, is_grads_batched=True, retain_graph=True)
    for row, found in zip(rows, batched, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(y, leaf, row, retain_graph=True)[0])


def test_compiled_by_torch():
    x = random(6, 3, 5)
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(x):
        return shrinkstats.normalize(x, Stein()), shrinkstats.moments(x).noise

    for found, expected in zip(f(x), (shrinkstats.normalize(x, Stein()), shrinkstats.moments(x).noise), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", ["trace", pytest.param("compile", marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_noise_of_samples_of_several_sizes_in_a_graph(way):
    def noise(x, y):
        return (shrinkstats.moments(x) + shrinkstats.moments(y)).noise

    torch.compiler.reset()
    first = random(6, 3, 5), random(3, 3, 7, seed=1)
    found = torch.jit.trace(noise, first) if way == "trace" else torch.compile(noise, backend="aot_eager")
    for x, y in (first, (random(4, 3, 9), random(2, 3, 2, seed=1))):
        torch.testing.assert_close(found(x, y), noise(x, y), rtol=1e-6, atol=1e-9)


def test_storages_stay_the_users():
    x = random(4, 3, 5).requires_grad_()
    weight = torch.nn.Parameter(random(3))
    y = shrinkstats.normalize(x, Stein(), weight=weight)
    y.sum().backward()
    m = shrinkstats.moments(x)
    for v in (x, weight, y, x.grad, weight.grad, m.mean, m.noise):
        assert v.untyped_storage().resizable()
    x.detach().resize_(100)


def test_an_expanded_gradient(plain):
    x, weight = random(4, 3, 5).requires_grad_(), random(3, seed=1).requires_grad_()

    def slopes(of):
        return torch.autograd.grad(of(shrinkstats.normalize(x, Stein(), weight=weight)), (x, weight))

    for of in (torch.sum, torch.mean, lambda y: y.mean(2).pow(2).sum()):
        for ours, theirs in zip(slopes(of), plain(slopes, of), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_an_input_changed_before_backward_is_an_error():
    x = random(4, 3, 5).requires_grad_()
    y = 2 * x
    loss = shrinkstats.moments(y).m2.sum()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_not_ordinary_is_left_to_plain_operations():
    class Image(torch.Tensor):
        pass

    x = random(4, 3, 5)
    assert kernels.backend(x) is not generic
    assert kernels.backend(x.as_subclass(Image)) is generic
    assert isinstance(shrinkstats.normalize(x.as_subclass(Image), Stein()), Image)
    assert shrinkstats.moments(torch.empty(4, 3, device="meta")).mean.shape == (3,)
    with torch._subclasses.FakeTensorMode() as mode:
        assert shrinkstats.normalize(mode.from_tensor(x), Stein()).shape == x.shape


def test_moments_of_tensors_are_copied_and_pickled():
    m = shrinkstats.moments(random(4, 3, 5))
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        torch.testing.assert_close(other.noise, m.noise)
        assert other.sample_mean is other.mean


def test_not_finite_data_in_a_gradient(plain):
    x = random(4, 3, 5)
    x[0, 0, 0], x[1, 1, 2] = float("nan"), float("inf")
    x.requires_grad_()

    def slope():
        m = shrinkstats.moments(x)
        return torch.autograd.grad((m.mean + m.m2).sum(), x)[0]

    found, expected = slope(), plain(slope)
    assert found[:, :2].isnan().all()
    torch.testing.assert_close(found[:, 2], expected[:, 2])
    mean = torch.autograd.grad(shrinkstats.moments(x).mean.sum(), x)[0]
    torch.testing.assert_close(mean, torch.full_like(mean, 1 / 20))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_unsigned_numbers(dtype):
    x = np.random.default_rng(0).integers(0, 60_000, (4, 3, 5)).astype(dtype)
    for found in (shrinkstats.moments(torch.from_numpy(x)), shrinkstats.moments(iter([torch.from_numpy(x)]))):
        np.testing.assert_array_equal(found.mean.numpy(), shrinkstats.moments(x).mean)
