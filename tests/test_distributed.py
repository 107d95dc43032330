"""Synchronized statistics in real processes against one process on the joined batch."""

import contextlib
import copy
import multiprocessing
import os
from datetime import timedelta

import numpy as np
import pytest
from patience import PATIENCE

import shrinkstats
from shrinkstats.estimators import (
    BatchStatistics,
    Estimator,
    JSNorm,
    MinMaxNorm,
    PriorBlend,
    RobustNorm,
    Stein,
    SteinBlend,
)

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed import group  # noqa: E402

from shrinkstats.adapters.torch import (  # noqa: E402
    ShrinkBatchNorm1d,
    ShrinkBatchNorm2d,
    adapt,
    adapted,
    convert,
    fused,
    revert,
)
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm  # noqa: E402


class OwnRule(Estimator):
    """Differentiated by autograd, from everything there is in the moments."""

    def statistics(self, moments, prior):
        reach = moments.maximum - 0.5 * moments.minimum
        return shrinkstats.Statistics(moments.mean + 0.1 * reach, moments.var() + moments.noise + 0.01 * reach**2)


ESTIMATORS = [
    BatchStatistics(), Stein(), JSNorm(), RobustNorm(), MinMaxNorm(), PriorBlend(3.0), SteinBlend(), OwnRule(),
]  # fmt: skip
CHANNELS = 5
FORKS = "forkserver" in multiprocessing.get_all_start_methods()


# --- ranks ---------------------------------------------------------------------------------------------------------


class Ranks:
    """Processes that wait for functions to run, all of them at once."""

    def __init__(self, number, folder):
        context = multiprocessing.get_context("forkserver" if FORKS else "spawn")
        context.set_forkserver_preload(["shrinkstats.adapters.torch"])  # once, not in every rank
        self.pipes, self.processes = [], []
        for rank in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, number, str(folder)), daemon=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OMP_NUM_THREADS", "1")
                process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self, function, *arguments, **options):
        """The results by rank; exceptions are results too, as text."""
        for pipe in self.pipes:
            pipe.send((function, arguments, options))
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(PATIENCE):
                self.close()  # so that the next test does not wait as well
                raise TimeoutError(f"rank {len(answers)} does not answer; the ranks before it: {answers}")
            try:
                answers.append(pipe.recv())
            except EOFError:
                answers.append("gone")
        return answers

    def close(self):
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(5)
            process.kill()


def _serve(pipe, rank, number, folder):
    torch.set_num_threads(1)
    where, patience = f"file://{folder}/meet", timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", where, rank=rank, world_size=number, timeout=patience)
    with contextlib.suppress(EOFError):
        while True:
            function, arguments, options = pipe.recv()
            try:
                pipe.send(function(rank, *arguments, **options))
            except (Exception, pytest.fail.Exception) as error:
                pipe.send(f"{type(error).__name__}: {error}")
    os._exit(0)  # a broken group would wait for its timeout


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Ranks by their number, started once."""
    with contextlib.ExitStack() as stack:
        started = {}

        def get(number):
            if number not in started:
                started[number] = Ranks(number, tmp_path_factory.mktemp("ranks"))
                stack.callback(started[number].close)
            return started[number]

        yield get


class AllReduces:
    """Counts them."""

    def __enter__(self):
        self.number, self.original = 0, dist.all_reduce
        dist.all_reduce = self._count
        return self

    def __exit__(self, *_):
        dist.all_reduce = self.original

    def _count(self, *arguments, **options):
        self.number += 1
        return self.original(*arguments, **options)


# --- one layer -----------------------------------------------------------------------------------------------------


def whole_batch(number, pixels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(number, CHANNELS, *pixels, generator=generator, dtype=torch.float64) for _ in range(2))
    return (x * torch.arange(1, CHANNELS + 1).reshape(-1, *[1] * len(pixels)) + 0.5).to(dtype), g.to(dtype)


def layer_for(pixels, estimator, process_group=None):
    kind = ShrinkBatchNorm2d if pixels else ShrinkBatchNorm1d
    layer = kind(CHANNELS, estimator, dtype=torch.float64, process_group=process_group)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
        layer.running_mean.copy_(torch.linspace(1, 0, CHANNELS))
    return layer


def own_part(rank, sizes):
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def step(rank, estimator, pixels, sizes, plain=False, ties=False):
    """Forward and backward of this rank's part."""
    x, g = (v[own_part(rank, sizes)].clone() for v in whole_batch(sum(sizes), pixels))
    x = (x.round() if ties else x).requires_grad_()
    layer = layer_for(pixels, estimator, group.WORLD)
    with pytest.MonkeyPatch.context() as patch, AllReduces() as forward:
        if plain:
            patch.setattr(fused, "fits", lambda x, group=None: False)
        y = layer(x)
        with AllReduces() as backward:
            y.backward(g)
    return as_arrays(layer, x, y), (forward.number - backward.number, backward.number)


def as_arrays(layer, x, y):
    buffers = layer.running_mean, layer.running_var, layer.num_batches_tracked
    return [v.detach().numpy().copy() for v in (y, x.grad, layer.weight.grad, layer.bias.grad, *buffers)]


def agree_with_one_process(results, estimator, pixels, sizes, ties=False):
    x, g = whole_batch(sum(sizes), pixels)
    x = (x.round() if ties else x).requires_grad_()
    layer = layer_for(pixels, estimator)
    y = layer(x)
    y.backward(g)
    expected_y, expected_x, expected_weight, expected_bias, *expected_buffers = as_arrays(layer, x, y)
    ys, xs, weights, biases, *buffers = zip(*results, strict=True)
    close = {"rtol": 1e-9, "atol": 1e-10}
    np.testing.assert_allclose(np.concatenate(ys), expected_y, **close)
    np.testing.assert_allclose(np.concatenate(xs), expected_x, **close)
    np.testing.assert_allclose(sum(weights), expected_weight, **close)
    np.testing.assert_allclose(sum(biases), expected_bias, **close)
    for of_ranks, expected in zip(buffers, expected_buffers, strict=True):
        assert all(np.array_equal(value, of_ranks[0]) for value in of_ranks)
        np.testing.assert_allclose(of_ranks[0], expected, **close)


@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (0, 4), (2, 1, 0, 3), (1, 0, 1, 1)], ids=str)
@pytest.mark.parametrize("pixels", [(), (3, 2)], ids=["1d", "2d"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_ranks_agree_with_one_process(ranks, estimator, pixels, sizes, plain):
    results = ranks(len(sizes))(step, estimator, pixels, sizes, plain=plain)
    outcomes, calls = zip(*results, strict=True)
    assert set(calls) == {(1, 1)}
    agree_with_one_process(outcomes, estimator, pixels, sizes)


def test_extremes_shared_by_ranks(ranks):
    results = ranks(2)(step, RobustNorm(), (4, 4), (2, 3), ties=True)
    agree_with_one_process([outcome for outcome, _ in results], RobustNorm(), (4, 4), (2, 3), ties=True)


def sized_step(rank, estimator, shapes, plain):
    generator = torch.Generator().manual_seed(rank)
    x, g = (torch.randn(*shapes[rank], generator=generator, dtype=torch.float64) for _ in range(2))
    x = (x + 0.5 * rank).requires_grad_()
    layer = layer_for(shapes[rank][2:], estimator, group.WORLD)
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(fused, "fits", lambda x, group=None: False)
        layer(x).backward(g)
    return x.detach().numpy(), g.numpy(), x.grad.numpy()


@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_images_of_different_sizes(ranks, estimator, plain):
    shapes = [(2, CHANNELS, 3, 2), (3, CHANNELS, 1, 1), (0, CHANNELS, 4, 4), (1, CHANNELS, 4, 1)]
    parts = ranks(4)(sized_step, estimator, shapes, plain)
    xs, gs, found = ([torch.from_numpy(v) for v in values] for values in zip(*parts, strict=True))
    xs = [x.requires_grad_() for x in xs]
    layer = layer_for((1, 1), estimator)
    prior = shrinkstats.Prior(layer.running_mean, layer.running_var)
    batch = sum(shrinkstats.moments(x) for x in xs if len(x))
    center, spread = estimator.statistics(batch, prior)
    slope = layer.weight / estimator.scale(spread, layer.eps)
    loss = sum(((x - center[:, None, None]) * slope[:, None, None] * g).sum() for x, g in zip(xs, gs, strict=True))
    for expected, value in zip(torch.autograd.grad(loss, xs), found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)


def penalized_step(rank, sizes, process_group=True):
    """The gradient of the gradient's square."""
    x, g = (v[own_part(rank, sizes)].clone() for v in whole_batch(sum(sizes), (3, 2)))
    x.requires_grad_()
    layer = layer_for((3, 2), Stein(), group.WORLD if process_group else None)
    (first,) = torch.autograd.grad(layer(x), x, g, create_graph=True)
    first.square().sum().backward()
    return x.grad.numpy()


def test_second_derivatives(ranks):
    found = ranks(2)(penalized_step, (2, 3))
    expected = penalized_step(0, (5,), process_group=False)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-8, atol=1e-9)


def calibrated_step(rank, sizes, process_group=True):
    x, _ = whole_batch(sum(sizes), (3, 2))
    layer = layer_for((3, 2), SteinBlend(), group.WORLD if process_group else None)
    layer.noise_mean = torch.full((CHANNELS,), 0.4, dtype=torch.float64)
    layer.noise_sd = torch.arange(1.0, 5, dtype=torch.float64)[:, None].expand(4, CHANNELS) / 20
    layer.noise_sd_bias = -layer.noise_sd
    return layer(x[own_part(rank, sizes)]).detach().numpy()


def test_calibrated_noise_is_that_of_the_samples_of_all_ranks(ranks):
    found = ranks(2)(calibrated_step, (1, 5))
    np.testing.assert_allclose(np.concatenate(found), calibrated_step(0, (6,), process_group=False), rtol=1e-9)


def half_step(rank, sizes):
    x, g = (v[own_part(rank, sizes)] for v in whole_batch(sum(sizes), (3, 2), torch.bfloat16))
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    y = ShrinkBatchNorm2d(CHANNELS, process_group=group.WORLD)(x)
    y.backward(g)
    assert y.dtype == x.grad.dtype == torch.bfloat16
    return y.detach().float().numpy(), x.grad.float().numpy()


def test_half_precision_and_channels_last(ranks):
    ys, gradients = zip(*ranks(2)(half_step, (2, 4)), strict=True)
    x, g = whole_batch(6, (3, 2), torch.bfloat16)
    x.requires_grad_()
    y = ShrinkBatchNorm2d(CHANNELS)(x)
    y.backward(g)
    np.testing.assert_array_equal(np.concatenate(ys), y.detach().float())
    np.testing.assert_allclose(np.concatenate(gradients), x.grad.float(), rtol=2**-7, atol=1e-3)


# --- networks ------------------------------------------------------------------------------------------------------


def network(process_group=None):
    torch.manual_seed(1)
    options = {"dtype": torch.float64}
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, **options),
        ShrinkBatchNorm2d(6, **options, process_group=process_group),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, **options),
        ShrinkBatchNorm2d(4, SteinBlend(), **options, process_group=process_group),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 4, **options),
        ShrinkBatchNorm1d(4, RobustNorm(), **options, process_group=process_group),
    )


def train(model, part, steps=3, average_over=1):
    """Losses are divided by the ranks that DistributedDataParallel divides gradients by, once more."""
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        target = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        loss = (model(x[part]) - target[part]).square().sum() / 24 * average_over
        loss.backward()
        optimizer.step()


def train_parallel(rank, sizes):
    model = network(group.WORLD)
    train(nn.parallel.DistributedDataParallel(model), own_part(rank, sizes), average_over=len(sizes))
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("sizes", [(3, 3), (0, 6), (2, 1, 0, 3)], ids=str)
def test_distributed_data_parallel_trains_as_one_process(ranks, sizes):
    states = ranks(len(sizes))(train_parallel, sizes)
    model = network()
    train(model, slice(None))
    for name, expected in model.state_dict().items():
        for state in states:
            np.testing.assert_allclose(state[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


def converted_step(rank, synchronized):
    norm = nn.SyncBatchNorm if synchronized else nn.BatchNorm2d
    layer = convert(norm(CHANNELS, dtype=torch.float64), Stein(), process_group=None if synchronized else group.WORLD)
    x, _ = whole_batch(4, (3, 2))
    return layer(x[own_part(rank, (1, 3))]).detach().numpy()


@pytest.mark.parametrize("synchronized", [False, True], ids=["with a group", "SyncBatchNorm"])
def test_converted_layers(ranks, synchronized):
    x, _ = whole_batch(4, (3, 2))
    expected = ShrinkBatchNorm2d(CHANNELS, Stein(), dtype=torch.float64)(x).detach().numpy()
    np.testing.assert_allclose(np.concatenate(ranks(2)(converted_step, synchronized)), expected, rtol=1e-9)


def frozen_step(rank, part):
    """A step where not everything needs a gradient."""
    torch.manual_seed(3)
    model = network(group.WORLD)
    if part == "the first layers":
        model[:2].requires_grad_(False)
    elif part == "affine of one rank":
        model[1].requires_grad_(rank != 0)
    else:  # the input of the first layer needs none anywhere
        model = model[1:2]
    x = torch.randn(2, 6 if len(model) == 1 else 3, 8, 8, dtype=torch.float64)
    with AllReduces() as calls:
        model(x).square().sum().backward()
    return calls.number


@pytest.mark.parametrize(
    ("part", "calls"), [("the first layers", 3 + 2), ("affine of one rank", 3 + 3), ("the network's input", 1 + 0)]
)
def test_frozen_parts(ranks, part, calls):
    assert ranks(2)(frozen_step, part) == [calls, calls]


def evaluate(rank):
    """On one rank alone."""
    layer = layer_for((3, 2), Stein(), group.WORLD).eval()
    adapted = copy.deepcopy(layer)
    adapted.adaptation = PriorBlend(4.0)
    untracked = ShrinkBatchNorm2d(CHANNELS, track_running_stats=False, process_group=group.WORLD).eval()
    if rank == 0:
        x, _ = whole_batch(4, (3, 2))
        layer(x), adapted(x), untracked(x)
    assert adapted.process_group is layer.process_group
    return "finished"


def test_evaluation_waits_for_nobody_and_copies_share_the_group(ranks):
    assert ranks(2)(evaluate) == ["finished"] * 2


def pair_step(rank):
    """Ranks 0 and 2 together, and ranks 1 and 3."""
    pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    x, _ = whole_batch(4, (3, 2))
    found = layer_for((3, 2), Stein(), pairs[rank % 2])(x[rank : rank + 1])
    others = layer_for((3, 2), Stein(), pairs[1 - rank % 2])
    with pytest.raises(ValueError, match="not in the layer's process_group"):
        others(x)
    return found.detach().numpy()


def test_groups_of_some_ranks(ranks):
    found = ranks(4)(pair_step)
    x, _ = whole_batch(4, (3, 2))
    for first in (0, 1):
        expected = layer_for((3, 2), Stein())(x[first::2]).detach().numpy()
        np.testing.assert_allclose(np.concatenate(found[first::2]), expected, rtol=1e-9)


def shardable():
    torch.manual_seed(4)
    block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU())  # noqa: E731
    return nn.Sequential(block(3, 6), block(6, 4), nn.Flatten(), nn.Linear(4 * 4 * 4, 4)).double()


def train_sharded(rank, number, converted):
    """Parameters divided over the ranks, which FSDP does by resizing storages; used by ours before, or not."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = shardable()
    if converted == "before":
        convert(model, Stein(), process_group=group.WORLD)
    elif converted == "before, and used":
        state = copy.deepcopy(convert(model, Stein(), process_group=group.WORLD).state_dict())
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
        model.load_state_dict(state)
        model.zero_grad()
    mesh = init_device_mesh("cpu", (number,))
    for part in (model[0], model[1], model):
        fully_shard(part, mesh=mesh)
    if converted == "after":
        convert(model, Stein(), process_group=group.WORLD)
    train(model, own_part(rank, [6 // number] * number), average_over=number)
    return {
        name: getattr(value, "full_tensor", lambda value=value: value)().detach().numpy()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("converted", ["before", "before, and used", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_fully_sharded_parameters_train_as_in_one_process(ranks, number, converted):
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    states = ranks(number)(train_sharded, number, converted)
    model = convert(shardable(), Stein())
    train(model, slice(None))
    for name, expected in model.state_dict().items():
        for state in states:
            assert isinstance(state, dict), state
            np.testing.assert_allclose(state[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


class Loud(nn.BatchNorm2d):
    def forward(self, x):
        return 10 * super().forward(x)


def revert_sharded(rank, order):
    """What a network computes whose layers are divided over the ranks and converted, in some order, and back again."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank)).double()
    model = shardable()
    if order == "converted first":
        model[1][1] = Loud(4).double()
    expected = [copy.deepcopy(model)(x), copy.deepcopy(convert(copy.deepcopy(model), Stein()))(x)]
    if order == "converted first":
        convert(model, Stein())
    mesh = init_device_mesh("cpu", (2,))
    for part in (model[0][1], model[1][1], model[1], model):
        fully_shard(part, mesh=mesh)
    if order == "divided first":
        convert(model, Stein())
    torch.testing.assert_close(model(x), expected[1])
    keys = list(model.state_dict())
    revert(model)
    assert list(model.state_dict()) == keys
    assert not any(isinstance(m, ShrinkBatchNorm) or hasattr(m, "estimator") for m in model.modules())
    assert type(model[0][1]).__name__ == "FSDPBatchNorm2d"
    assert isinstance(model[0][1], FSDPModule)
    y = model(x)
    torch.testing.assert_close(y, expected[0])
    y.sum().backward()
    adapt(model.eval(), PriorBlend(4), exclude=["1"])(x)
    adapted_class = type(model[0][1])
    with adapted(model, PriorBlend(2), exclude=["1"]):
        model(x)
    assert type(model[0][1]) is adapted_class
    return "done"


@pytest.mark.parametrize("order", ["converted first", "divided first"])
def test_sharded_layers_are_reverted(ranks, order):
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    assert ranks(2)(revert_sharded, order) == ["done"] * 2


def convert_sharded(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = shardable()
    model[1][1] = Loud(4).double()
    fully_shard(model[1][1], mesh=init_device_mesh("cpu", (2,)))
    before = [type(m) for m in model.modules()]
    try:
        convert(model, Stein())
    finally:
        assert [type(m) for m in model.modules()] == before


def test_a_sharded_layer_with_a_forward_pass_of_its_own_is_refused(ranks):
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    for message in ranks(2)(convert_sharded):
        assert "cannot convert 1.1 " in message
        assert "cannot be tried on parameters shared out over ranks; convert the network before" in message


def several_gradients(rank):
    x, g = whole_batch(2, (3, 2))
    y = layer_for((3, 2), Stein(), group.WORLD)(x.requires_grad_())
    torch.autograd.grad(y, x, torch.stack([g, g]), is_grads_batched=True)


def test_several_gradients_at_once_are_refused_by_all_ranks(ranks):
    for message in ranks(2)(several_gradients):
        assert message.startswith("RuntimeError: ranks cannot share several gradients at once")


# --- errors --------------------------------------------------------------------------------------------------------


def lonely_values(rank, sizes):
    return layer_for((), Stein(), group.WORLD)(torch.zeros(sizes[rank], CHANNELS, dtype=torch.float64))


@pytest.mark.parametrize(("sizes", "count"), [((1, 0), 1), ((0, 0), 0)])
def test_too_few_values_on_all_ranks(ranks, sizes, count):
    expected = f"ValueError: expected more than 1 value per channel when training, got {count} on all ranks together"
    assert ranks(2)(lonely_values, sizes) == [expected] * 2


def one_rank_differentiates(rank):
    x, _ = whole_batch(2, (3, 2))
    layer_for((3, 2), Stein(), group.WORLD)(x.requires_grad_(rank == 1))


def test_ranks_that_want_different_gradients(ranks):
    for message in ranks(2)(one_rank_differentiates):
        assert "needs a gradient on ranks [1] of 2 only" in message


def deserted(rank, when, how):
    """What rank 0 gets to hear when rank 1 does not come, and the other rank has little patience."""
    x, g = whole_batch(2, (3, 2))
    x.requires_grad_()
    layer = layer_for((3, 2), Stein(), group.WORLD)
    if when == "backward":
        y = layer(x)
    if rank == 1 and how == "exits":
        os._exit(1)
    if rank == 1:
        raise KeyError("something else went wrong")
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group.WORLD)  # from now on: who is here has met
    try:
        y.backward(g) if when == "backward" else layer(x)
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize(("when", "how"), [("forward", "raises"), ("backward", "raises"), ("forward", "exits")])
def test_a_rank_that_fails_is_an_error_on_the_others_within_the_timeout(tmp_path, when, how):
    ranks = Ranks(2, tmp_path)
    try:
        error, other = ranks(deserted, when, how)
    finally:
        ranks.close()
    assert ("1000ms" in error) == (how == "raises"), error  # the timeout, long before our patience ends
    assert other == ("gone" if how == "exits" else "KeyError: 'something else went wrong'")
