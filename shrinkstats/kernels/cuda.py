"""The passes in a GPU's memory: how data lie there, how the work divides, and the launch of `passes.cu`.

CuPy compiles the kernels at their first use, for the device at hand, and launches them in its current stream. Whoever
allocates (CuPy or PyTorch) is a `Library`; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

THREADS, DEPTH, ACROSS = 256, 4, 8  # as in passes.cu
BLOCKS = 4  # for every multiprocessor, if there is enough to do
DATA = {"float16": 16, "bfloat16": 17, "float32": 32, "float64": 64}  # bits; 17 tells the two halves apart
OPTIONS = ("-std=c++17",)


class Library(NamedTuple):
    """Who owns the memory."""

    empty: Callable[[tuple[int, ...]], Any]
    """A new array of float64 on the device."""
    address: Callable[[Any], int]
    """Where an array lies."""


class Grid(NamedTuple):
    """Memory without gaps: (samples, rows, channels, length), the last axis of neighbours."""

    samples: int
    rows: int
    channels: int
    length: int


class Plan(NamedTuple):
    """The form of a pass that fits, its arguments, and blocks of threads."""

    form: str
    sizes: tuple[int, ...]
    blocks: int
    parts: int


@lru_cache(maxsize=1024)
def grid_of(shape: tuple[int, ...], strides: tuple[float, ...], axis: int, sample_axis: int | None) -> Grid | None:
    """How data lie, by their strides in elements; None if there are gaps, or samples are not outermost."""
    order = sorted((i for i in range(len(shape)) if shape[i] > 1), key=lambda i: -strides[i])
    sizes = [shape[i] for i in order]
    if any(strides[axis] != prod(sizes[k + 1 :]) for k, axis in enumerate(order)):
        return None
    samples = 1
    if sample_axis in order:
        if order[0] != sample_axis:
            return None
        samples, order, sizes = sizes[0], order[1:], sizes[1:]
    if axis not in order:
        return Grid(samples, 1, 1, prod(sizes))
    at = order.index(axis)
    return Grid(samples, prod(sizes[:at]), sizes[at], prod(sizes[at + 1 :]))


@lru_cache(maxsize=1024)
def plan(grid: Grid, width: int, aligned: bool, processors: int) -> Plan:
    """Blocks for every multiprocessor, as far as every thread has several loads to make.

    `width` elements make 16 bytes, and `aligned` arrays begin at a multiple of them.
    """
    samples, rows, channels, length = grid
    wanted = BLOCKS * processors
    if length > 1 or channels == 1:
        team = THREADS
        while team > (8 if length >= 32 else 2) and team * width * DEPTH * 2 > length:
            team //= 2
        stretch = team * width * DEPTH
        runs = samples * rows * channels
        cuts = max(1, min(-(-wanted * (THREADS // team) // runs), length // (2 * stretch)))
        size = -(-length // cuts // stretch) * stretch
        cuts = -(-length // size)
        parts = samples * rows * cuts
        return Plan(
            "planar", (rows, channels, length, size, cuts, team, parts), -(-parts * channels * team // THREADS), parts
        )
    lanes = width if aligned and channels % width == 0 else 1
    team = min(channels // lanes, THREADS)
    tiles = -(-channels // lanes // team)
    cuts = max(1, min(-(-wanted // (tiles * samples)), rows // (THREADS // team * DEPTH * 2)))
    size = -(-rows // cuts)
    cuts = -(-rows // size)
    parts = samples * cuts
    form = "single" if lanes == 1 else "interleaved"
    return Plan(form, (rows, channels, length, size, cuts, team, parts), tiles * parts, parts)


class Passes:
    """The four passes over data of one type on one device; arrays are given by their addresses."""

    def __init__(self, dtype: str, device: int, library: Library) -> None:
        self.dtype, self.device, self.library = dtype, device, library

    def moments(self, grid: Grid, x: int, weight: float = 1.0) -> tuple[Any, Any]:
        """Mean, squared deviations, extremes, `weight` times the squared deviations of the samples' means; and these.

        Of shapes (5, channels) and (samples, channels).
        """
        empty, address = self.library
        job = self._plan(grid, x)
        sums = empty((4, job.parts, grid.channels))
        self._pass("moments", job, x=x, found=address(sums))
        sums = self._gather(sums, grid.samples)
        found, deviations = empty((5, grid.channels)), empty((grid.samples, grid.channels))
        size = grid.rows * grid.length
        arguments = (x, grid.length, address(sums), grid.samples, grid.channels, size, weight)
        self._launch("merge", (-(-grid.channels // ACROSS),), (*arguments, address(found), address(deviations)))
        return found, deviations

    def affine(self, grid: Grid, x: int, y: int, lines: int) -> None:
        """``a (x - pivot) + b``; lines are pivot, a and b."""
        self._pass("affine", self._plan(grid, x, y), x=x, y=y, lines=lines)

    def reduce_grad(self, grid: Grid, g: int, x: int, lines: int) -> Any:
        """(2, 1, channels), the sums of g and of ``g (x - pivot)``; lines are the pivot."""
        job = self._plan(grid, g, x)
        sums = self.library.empty((2, job.parts, grid.channels))
        self._pass("reduce_grad", job, x=x, g=g, lines=lines, found=self.library.address(sums))
        return self._gather(sums, 1)

    def combine(self, grid: Grid, g: int, x: int, y: int, lines: int, each_sample: int = 0) -> None:
        """``a g + b (x - pivot) + d + e each_sample[sample]``; lines are pivot, a, b, d and e."""
        self._pass("combine", self._plan(grid, g, x, y), x=x, g=g, y=y, lines=lines, each_sample=each_sample)

    def _plan(self, grid: Grid, *addresses: int) -> Plan:
        width = 128 // (DATA[self.dtype] & ~1)
        return plan(grid, width, not any(a % 16 for a in addresses), _processors(self.device))

    def _pass(self, name: str, job: Plan, **addresses: int) -> None:
        arrays = (addresses.get(of, 0) for of in ("x", "g", "y", "lines", "each_sample", "found"))
        self._launch(f"{name}_{job.form}", (job.blocks,), (*job.sizes, *arrays))

    def _gather(self, parts: Any, samples: int) -> Any:
        """The parts of every sample made one."""
        fields, count, channels = parts.shape
        if count == samples:
            return parts
        found = self.library.empty((fields, samples, channels))
        address = self.library.address
        blocks = -(-channels // ACROSS) * samples * fields
        self._launch("gather", (blocks,), (address(parts), samples, channels, count // samples, address(found)))
        return found

    def _launch(self, name: str, blocks: tuple[int, ...], arguments: tuple[float, ...]) -> None:
        kernel("passes.cu", name, f"-DDATA={DATA[self.dtype]}")(blocks, (THREADS,), arguments)


@cache
def kernel(file: str, name: str, *options: str) -> Any:
    """A kernel; CuPy compiles it for each device where it is launched, and keeps it on disk."""
    return _module(file, *options).get_function(name)


@cache
def _module(file: str, *options: str) -> Any:
    import cupy

    code = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return cupy.RawModule(code=code, options=(*options, *OPTIONS))


@cache
def _processors(device: int) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])
