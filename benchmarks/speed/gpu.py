"""Everything about GPUs in one command: does it compute what the CPU computes, and how fast.

    python -m benchmarks.gpu            # a few minutes; PyTorch for CUDA, and CuPy (pip install cupy-cuda13x)
    python -m benchmarks.gpu --dry      # without a GPU: the same code on the CPU, tiny; nothing is recorded

Checks come first; one that fails is reported, and the command ends with an error after the measurements. These are: a
training step, and the forward pass (bytes read twice and written once), against nn.BatchNorm (cuDNN's kernels or
PyTorch's), the kernels that torch.nn.SyncBatchNorm is made of, the plain operations, and a copy; and moments against
CuPy's and PyTorch's own mean and variance. Steps follow each other as in training, so that a host too slow for its
device shows; in a CUDA graph it does not.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import shrinkstats
from benchmarks.lab.command import options
from benchmarks.lab.record import save
from benchmarks.speed.layers import SHAPES, geometric_mean
from shrinkstats import estimators as rules
from shrinkstats.adapters.torch import ShrinkBatchNorm1d, ShrinkBatchNorm2d, ShrinkBatchNorm3d, cuda, fused
from shrinkstats.adapters.torch.layers import ShrinkBatchNorm
from shrinkstats.estimators import Stein
from shrinkstats.rules.registry import RULES

ELEMENTS = 2**25  # of every shape on a GPU, by a larger batch: more than any cache holds
IN_A_ROW = 10
TINY = [(2, 8, 6, 6), (2, 4, 3, 3, 3)]  # of a dry run
ORDERS = {"contiguous": torch.contiguous_format, "channels-last": None}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEP = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LAYERS = {2: ShrinkBatchNorm1d, 3: ShrinkBatchNorm1d, 4: ShrinkBatchNorm2d, 5: ShrinkBatchNorm3d}
CHECKED = [*RULES.values(), Stein(None, "channel")]

Check = Callable[[torch.device], str]
CHECKS: dict[str, Check] = {}


class Different(Exception):
    """Two ways to compute the same thing that do not agree."""


def check(function: Check) -> Check:
    """One of the checks, by its name."""
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


def some(values: list[Any], device: torch.device) -> list[Any]:
    """All on a GPU; a few in a dry run."""
    return values if device.type == "cuda" else values[:2]


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def agree(what: str, pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> float:
    """The largest error over pairs of tensors."""
    errors = [error(*pair) for pair in pairs]
    for value in errors:
        if not value <= tolerance:  # NaN neither
            raise Different(f"{what}: off by {value:.1e} of the largest value, {tolerance:.0e} at most expected")
    return max(errors)


def memory_format(order: str, dimensions: int) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return ORDERS[order] or formats.get(dimensions, torch.contiguous_format)


def inputs(shape: tuple[int, ...], order: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Data and a gradient."""
    torch.manual_seed(0)
    x, g = (torch.randn(shape, dtype=torch.float32, device=device) + shift for shift in (0.5, 0.0))
    form = memory_format(order, len(shape))
    return x.to(dtype).contiguous(memory_format=form).requires_grad_(), g.to(dtype).contiguous(memory_format=form)


def step(layer: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
    """A training step: output, gradients and running statistics."""
    for v in (x, *layer.parameters()):
        v.grad = None
    y = layer(x)
    y.backward(g)
    return [y, x.grad, *(p.grad for p in layer.parameters()), layer.running_mean, layer.running_var]


# --- checks ----------------------------------------------------------------------------------------------------------


@check
def layers_equal_the_cpu(device: torch.device) -> str:
    """Every rule, dtype and memory order: output, gradients and running statistics."""
    found = dict.fromkeys(STEP, 0.0)
    shapes = [(16, 24), (6, 5, 33), (8, 16, 14, 14), (4, 3, 33, 35), (2, 6, 5, 6, 7), (2, 4, 130, 131), (1, 8, 9, 9)]
    for rule, shape, order, dtype in product(some(CHECKED, device), some(shapes[::-1], device), ORDERS, STEP):
        if len(shape) < 4 and order != "contiguous":
            continue
        x, g = inputs(shape, order, dtype, torch.device("cpu"))
        layer = LAYERS[len(shape)](shape[1], rule)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        there = copy.deepcopy(layer).to(device, torch.promote_types(dtype, torch.float32))
        exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
        theirs = step(exact, wide, g.double())
        ours = step(there, x.detach().to(device).requires_grad_(), g.to(device))
        name = f"{rule}, {shape}, {order}, {dtype}"
        worst = agree(name, list(zip(ours, theirs, strict=True)), STEP[dtype] if dtype != torch.float32 else 2e-6)
        if dtype == torch.float32:
            worst = agree(f"output of {name}", [(ours[0], theirs[0])], STEP[dtype])
        found[dtype] = max(found[dtype], worst)
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {value:.0e}" for dtype, value in found.items())


@check
def nothing_waits_for_the_device(device: torch.device) -> str:
    """PyTorch raises an error when an operation would."""
    need_gpu(device)
    for rule in CHECKED:
        x, g = inputs((8, 16, 14, 14), "contiguous", torch.float32, device)
        layer = ShrinkBatchNorm2d(16, rule, device=device)
        step(layer, x, g)
        with no_waiting():
            for _ in range(2):
                step(layer, x, g)
    return "no rule does"


@check
def cuda_graphs(device: torch.device) -> str:
    """A training step that was recorded is played on new data."""
    need_gpu(device)
    worst = 0.0
    for rule, order in product(CHECKED, ORDERS):
        x, g = inputs((8, 16, 14, 14), order, torch.float32, device)
        layer = ShrinkBatchNorm2d(16, rule, device=device)
        replay, results = recorded(lambda layer=layer, x=x, g=g: step(layer, x, g))
        with torch.no_grad():
            x.copy_(torch.randn_like(x) * 3 - 1)
        other = copy.deepcopy(layer)
        replay()
        pairs = list(zip(results, step(other, x.detach().clone().requires_grad_(), g), strict=True))
        worst = max(worst, agree(f"{rule}, {order}", pairs, 1e-6))
    return f"{worst:.0e}"


@check
def compiled(device: torch.device) -> str:
    """torch.compile, without a break of the graph, changes nothing."""
    worst = 0.0
    for rule in (Stein(), rules.RobustNorm()):
        x, g = inputs((8, 16, 14, 14), "contiguous", torch.float32, device)
        layer = ShrinkBatchNorm2d(16, rule, device=device)
        expected = step(copy.deepcopy(layer), x, g)
        expected = [v.clone() for v in expected]
        other = torch.compile(layer, fullgraph=True, backend="inductor" if device.type == "cuda" else "eager")
        worst = max(worst, agree(str(rule), list(zip(step(other, x, g), expected, strict=True)), 5e-6))
    return f"{worst:.0e}"


@check
def amp(device: torch.device) -> str:
    """Under autocast a convolution's half precision goes in and out; statistics are as good as float32's."""
    worst = 0.0
    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        x = torch.randn(8, 3, 16, 16, device=device)
        conv = nn.Conv2d(3, 16, 3, bias=False, device=device)
        layer = ShrinkBatchNorm2d(16, device=device)
        with torch.autocast(device.type, dtype):
            between = conv(x)
            y = layer(between)
            y.float().square().sum().backward()
        if y.dtype != dtype:
            raise Different(f"{dtype} went in, {y.dtype} came out")
        wide = between.detach().double()
        mean = ShrinkBatchNorm2d(16, device=device).double()
        mean(wide)
        worst = max(worst, agree(str(dtype), [(layer.running_var, mean.running_var)], 1e-6))
    return f"running variances {worst:.0e}"


@check
def another_stream(device: torch.device) -> str:
    """Kernels are launched where PyTorch is, not in the default stream."""
    need_gpu(device)
    x, g = inputs((64, 64, 56, 56), "contiguous", torch.float32, device)
    layer = ShrinkBatchNorm2d(64, device=device)
    expected = [v.clone() for v in step(copy.deepcopy(layer), x, g)]
    stream = torch.cuda.Stream(device)
    later = torch.zeros_like(x).requires_grad_()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)  # who does not wait in this stream finds zeros
        later.data.copy_(x)
        found = step(layer, later, g)
    stream.synchronize()
    return f"{agree('a step in another stream', list(zip(found, expected, strict=True)), 1e-6):.0e}"


@check
def ranks(device: torch.device) -> str:
    """The synchronized layer, over NCCL on a GPU (here with a single rank)."""
    distributed = torch.distributed
    x, g = inputs((8, 16, 14, 14), "contiguous", torch.float32, device)
    layer = ShrinkBatchNorm2d(16, device=device)
    expected = [v.clone() for v in step(copy.deepcopy(layer), x, g)]
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{folder}/ranks", rank=0, world_size=1)
        try:
            layer.process_group = distributed.group.WORLD
            found = step(layer, x, g)
        finally:
            distributed.destroy_process_group()
    return f"{agree(f'over {backend}', list(zip(found, expected, strict=True)), 2e-6):.0e}"


@check
def cupy_arrays(device: torch.device) -> str:
    """moments, normalize and the backward passes of CuPy arrays equal NumPy's."""
    cupy = need_cupy()
    from shrinkstats.kernels import cpu
    from shrinkstats.kernels import cupy as passes

    worst, rng = 0.0, np.random.default_rng(0)
    shapes = [(6, 5, 33), (500, 3), (16, 24), (8, 16, 14, 14), (2, 4, 130, 131), (40_000, 8), (3, 100_000)]
    for shape, dtype, last in product(some(shapes, device), ("float16", "float32", "float64"), (False, True)):
        x, g = (rng.normal(3.0, 2.0, size=shape).astype(dtype) for _ in range(2))
        if last:
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        there, wide = cupy.asarray(x), x.astype(np.float64)
        name, small = f"{shape}, {dtype}, channels last: {last}", 1e-12 if dtype == "float64" else 1e-6
        for sample_axis in (0, None):
            ours = shrinkstats.moments(there, sample_axis=sample_axis)
            theirs = shrinkstats.moments(wide, sample_axis=sample_axis)
            pairs = [(getattr(ours, n), getattr(theirs, n)) for n in ("mean", "m2", "minimum", "maximum")]
            worst = max(worst, agree(f"moments of {name}", [tensors(*p) for p in pairs], small))
            agree(f"noise of {name}", [tensors(ours.noise, theirs.noise)], 1e-4)
        y = shrinkstats.normalize(there, Stein())
        agree(f"normalize {name}", [tensors(y, shrinkstats.normalize(wide, Stein()))], STEP[getattr(torch, dtype)])
        rows = shape[0] if len(shape) > 2 else 1  # of d, one for each sample
        mean, a, b, d = (rng.normal(size=s) for s in [shape[1]] * 3 + [(rows, shape[1])])
        others = [cupy.asarray(v) for v in (g, mean, a, b, d)]
        ours = passes.reduce_grad(others[0], there, 1, others[1])
        theirs = cpu.reduce_grad(g.astype(np.float64), wide, 1, mean)
        agree(f"reduce_grad {name}", [tensors(*p) for p in zip(ours, theirs, strict=True)], 1e-5)
        dx = passes.combine(others[0], there, 1, *others[1:])
        expected = cpu.combine(g.astype(np.float64), wide, 1, mean, a, b, d, np.empty_like(wide))
        agree(f"combine {name}", [tensors(dx, expected)], STEP[getattr(torch, dtype)])
    return f"moments {worst:.0e}"


@check
def cupy_streams_and_devices(device: torch.device) -> str:
    """Work is done in the current stream and on the array's own device."""
    need_gpu(device)
    cupy = need_cupy()
    x = np.random.default_rng(0).normal(size=(64, 16, 56, 56)).astype(np.float32)
    expected = torch.from_numpy(shrinkstats.moments(x).mean)
    there = cupy.zeros_like(cupy.asarray(x))
    source = cupy.asarray(x)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(200):
            there *= 1.0  # keeps the stream busy for a while
        there += source
        found = shrinkstats.moments(there).mean
    stream.synchronize()
    agree("another stream", [(torch.from_numpy(found.get()), expected)], 1e-5)
    devices = cupy.cuda.runtime.getDeviceCount()
    for i in range(devices):
        with cupy.cuda.Device(i):
            there = cupy.asarray(x)
        with cupy.cuda.Device(0):
            found = shrinkstats.moments(there).mean
        if found.device.id != i:
            raise Different(f"an array of device {i} has moments on device {found.device.id}")
        agree(f"device {i}", [(torch.from_numpy(found.get()), expected)], 1e-5)
    return f"{devices} device(s)"


class Skipped(Exception):
    """A check that cannot be made here."""


def need_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        raise Skipped("needs a GPU")


def need_cupy() -> Any:
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        raise Skipped("needs CuPy")
    return importlib.import_module("cupy")


def tensors(ours: Any, theirs: Any) -> tuple[Tensor, Tensor]:
    """A CuPy array and a NumPy array as tensors on the CPU."""
    return torch.from_numpy(np.array(ours.get(), np.float64)), torch.from_numpy(np.array(theirs, np.float64))


@contextmanager
def no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def recorded(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A CUDA graph of a call, after three that warm up, and what the call returns."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph.replay, results


def verify(device: torch.device) -> dict[str, dict[str, str]]:
    """All checks: what came out of each."""
    found = {}
    for name, function in CHECKS.items():
        try:
            outcome, text = "passed", function(device)
        except Skipped as reason:
            outcome, text = "skipped", str(reason)
        except Exception as problem:
            outcome, text = "failed", f"{type(problem).__name__}: {problem}"
        print(f"{outcome:8} {name}: {text}", flush=True)
        found[name] = {"outcome": outcome, "text": text}
    return found


# --- measurements ----------------------------------------------------------------------------------------------------


def seconds(rivals: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median time of every rival; they take turns, with several calls in a row that follow one that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    calls = IN_A_ROW if device.type == "cuda" else 1
    for call in rivals.values():
        call()
    for _ in range(repeats):
        for name, call in rivals.items():
            call()
            with clock(device) as elapsed:
                for _ in range(calls):
                    call()
            times[name].append(elapsed() / calls)
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def clock(device: torch.device) -> Iterator[Callable[[], float]]:
    """The time between two points in the device's stream, in seconds."""
    if device.type != "cuda":
        start = time.perf_counter()
        yield lambda: time.perf_counter() - start
        return
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def elapsed() -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    begin.record()
    yield elapsed
    end.record()


class _Plain(nn.Module):
    """A layer of ours in PyTorch's own operations."""

    def __init__(self, layer: ShrinkBatchNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with patch.object(cuda, "fits", lambda x, rule: False), patch.object(fused, "fits", lambda *_: False):
            return self.layer(x)


class _SyncKernels(torch.autograd.Function):
    """Plain batch norm from the kernels behind torch.nn.SyncBatchNorm; on a GPU alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, invstd = torch.batch_norm_stats(x, 1e-5)
        ctx.save_for_backward(x, weight, mean, invstd)
        return torch.batch_norm_elemt(x, weight, bias, mean, invstd, 1e-5)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mean, invstd = ctx.saved_tensors
        dy, dy_xmu, d_weight, d_bias = torch.batch_norm_backward_reduce(g, x, mean, invstd, weight, True, True, True)
        count = torch.full((1,), x.numel() // x.size(1), dtype=torch.int32, device=x.device)
        dx = torch.batch_norm_backward_elemt(g, x, mean, invstd, weight, dy, dy_xmu, count)
        return dx, d_weight, d_bias


def rivals(channels: int, dimensions: int, device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    ours = LAYERS[dimensions](channels, device=device)
    theirs = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dimensions](channels, device=device)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": ours,
        "ours, plain statistics": LAYERS[dimensions](channels, rules.BatchStatistics(), device=device),
        "nn.BatchNorm": theirs,
        "plain operations": _Plain(copy.deepcopy(ours)),
    }
    if device.type == "cuda":
        found["kernels of SyncBatchNorm"] = lambda x: _SyncKernels.apply(x, theirs.weight, theirs.bias)
    return found


def scaled(device: torch.device, elements: int) -> list[tuple[int, ...]]:
    """The shapes of the layer benchmark, with batches for a GPU."""
    if device.type != "cuda":
        return TINY
    return [(max(2, round(elements / math.prod(shape[1:]))), *shape[1:]) for shape in SHAPES]


def measure_layers(device: torch.device, repeats: int, elements: int) -> list[dict[str, Any]]:
    """Training step and forward pass of every rival, for every shape, memory order and dtype."""
    rows = []
    for shape, order, dtype in product(scaled(device, elements), ORDERS, DTYPES):
        x, g = inputs(shape, order, DTYPES[dtype], device)
        layers = rivals(shape[1], len(shape), device)

        def training(layer: Callable[[Tensor], Tensor], x: Tensor = x, g: Tensor = g) -> None:
            x.grad = None
            layer(x).backward(g)

        calls = {name: lambda layer=layer: training(layer) for name, layer in layers.items()}
        forward = {name: lambda layer=layer, x=x: layer(x) for name, layer in layers.items()}
        result = {
            "training step": seconds(calls, device, repeats),
            "training forward": seconds(forward, device, repeats),
        }
        if device.type == "cuda":
            graphs = {name: recorded(calls[name])[0] for name in ("ours", "nn.BatchNorm")}
            result["training step in a graph"] = seconds(graphs, device, repeats)
        row = {"shape": list(shape), "order": order, "dtype": dtype, "bytes": x.nbytes, "seconds": result}
        step_, forward_ = result["training step"], result["training forward"]
        print(
            f"{'x'.join(map(str, shape)):>20} {order:13} {dtype:8} step {1e3 * step_['ours']:8.3f} ms, "
            f"{step_['ours'] / step_['nn.BatchNorm']:.2f} of nn.BatchNorm; forward {1e3 * forward_['ours']:8.3f} ms, "
            f"{3 * x.nbytes / forward_['ours'] / 1e9:6.0f} GB/s",
            flush=True,
        )
        rows.append(row)
    return rows


def measure_copy(device: torch.device, repeats: int, elements: int) -> float:
    """Bytes read and written in a second by a copy."""
    x = torch.randn(8 * elements, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds({"copy": lambda: y.copy_(x)}, device, repeats)["copy"]


def measure_moments(device: torch.device, repeats: int, elements: int) -> list[dict[str, Any]]:
    """Moments of CuPy arrays against CuPy's and PyTorch's own mean and variance of the same memory."""
    try:
        cupy = need_cupy()
    except Skipped:
        return []
    rows = []
    for shape, order, dtype in product(scaled(device, elements), ORDERS, ("float32", "float16")):
        x, _ = inputs(shape, order, getattr(torch, dtype), device)
        x, others = x.detach(), tuple(i for i in range(len(shape)) if i != 1)
        there = cupy.asarray(x)
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        with cupy.cuda.ExternalStream(stream):
            result = seconds(
                {
                    "moments": lambda there=there: shrinkstats.moments(there),
                    "CuPy": lambda there=there, o=others: (there.mean(axis=o), there.var(axis=o)),
                    "PyTorch": lambda x=x, o=others: torch.var_mean(x, o, correction=0),
                },
                device, repeats,
            )  # fmt: skip
        rows.append({"shape": list(shape), "order": order, "dtype": dtype, "bytes": x.nbytes, "seconds": result})
    return rows


def over(rows: list[dict[str, float]], ours: str, rival: str) -> float:
    return geometric_mean([row[ours] / row[rival] for row in rows])


def summary(rows: list[dict[str, Any]], moments: list[dict[str, Any]], copied: float) -> dict[str, Any]:
    """Geometric means over the shapes."""
    found: dict[str, Any] = {}
    for dtype, order in product(DTYPES, ORDERS):
        chosen = [r for r in rows if (r["dtype"], r["order"]) == (dtype, order)]
        times = {
            f"{what} over {rival}": over([r["seconds"][what] for r in chosen], "ours", rival)
            for what, all_ in chosen[0]["seconds"].items()
            for rival in all_
            if rival != "ours"
        }
        speed = geometric_mean([3 * r["bytes"] / r["seconds"]["training forward"]["ours"] / copied for r in chosen])
        found[f"{dtype}, {order}"] = {**times, "forward over copy bandwidth": speed}
    for dtype, order in product(("float32", "float16") if moments else (), ORDERS):
        chosen = [r for r in moments if (r["dtype"], r["order"]) == (dtype, order)]
        found[f"moments, {dtype}, {order}"] = {
            **{
                f"time over {rival}": over([r["seconds"] for r in chosen], "moments", rival)
                for rival in ("CuPy", "PyTorch")
            },
            "share of copy bandwidth": geometric_mean([r["bytes"] / r["seconds"]["moments"] / copied for r in chosen]),
        }
    return found


def show(found: dict[str, Any]) -> None:
    table = Table("", "", "", box=None, title="geometric means over the shapes")
    for where, figures in found.items():
        for name, value in figures.items():
            table.add_row(where, name, f"{value:.2f}")
    Console(width=150).print(table)


def describe(device: torch.device) -> dict[str, Any]:
    """The card and what drives it."""
    if device.type != "cuda":
        return {"device": "CPU"}
    properties = torch.cuda.get_device_properties(device)
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if importlib.util.find_spec("cupy"):
        versions["cupy"] = importlib.import_module("cupy").__version__
    return {
        "device": properties.name, "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory, "capability": f"{properties.major}.{properties.minor}", **versions,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Verify, measure, print, record."""
    parser = options(__doc__)
    parser.add_argument("--dry", action="store_true", help="on the CPU, tiny, nothing recorded")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="of the batches that are timed")
    args = parser.parse_args(arguments)
    if not args.dry and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU; --dry runs the same code on the CPU")
    device = torch.device("cpu" if args.dry else "cuda")
    repeats, elements = (1, 1) if args.dry else (args.repeats, args.elements)
    with nullcontext() if args.dry else torch.cuda.device(0):
        start = time.perf_counter()
        checks = verify(device)
        copied = measure_copy(device, repeats, elements)
        print(f"a copy reads and writes {copied / 1e9:.0f} GB/s")
        rows, moments = measure_layers(device, repeats, elements), measure_moments(device, repeats, elements)
    found = summary(rows, moments, copied)
    show(found)
    if not args.dry:
        result = {**describe(device), "checks": checks, "copy_bandwidth": copied, "repeats": repeats}
        result |= {"seconds": time.perf_counter() - start, "summary": found, "layers": rows, "moments": moments}
        print(f"recorded in {save('gpu', result)}")
    failed = [name for name, outcome in checks.items() if outcome["outcome"] == "failed"]
    if failed:
        raise SystemExit(f"{len(failed)} check(s) failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
