"""The four passes for a team of threads that somebody else keeps, such as PyTorch's.

A body is a C function of one pointer, to a table that says where the arrays lie. Every thread of the team calls it with
the same table, takes chunks of work until none is left, and returns; so it matters neither how many come nor when.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from shrinkstats._first_use import undisturbed
from shrinkstats.kernels import backward, compiled, cpu, sums
from shrinkstats.kernels.compiled import inner, jit
from shrinkstats.kernels.layout import elements, extent, furthest, layout

CHUNKS = 16  # into which a pass is cut: whoever is free takes the next

_GRID = ("chunks", "items", "length", "channels", "copies")
_ARRAY = ("address", "size", "sample", "channel", "step", "rows", "row_count")
_ARRAYS = tuple(f"{name}{i}" for i in range(3) for name in _ARRAY)
_VECTORS = tuple(f"vector{i}" for i in range(3))
_WANTED = ("lines", "line_bytes", "least_bytes", "option_bytes", "option_value")
_FIELDS = ("next", "zero", *_GRID, *_ARRAYS, *_VECTORS, "more", "bytes", "option", *_WANTED)
ADDRESSES, VECTORS, MORE, BYTES, OPTION, WANTED = map(
    _FIELDS.index, ("address0", "vector0", "more", "bytes", "option", "lines")
)
STRIDE = len(_ARRAY)
SIZE = len(_FIELDS)

Table = NDArray[np.int64]


def _record(dtype: Any) -> Any:
    """A table as compiled code reads it; its `zero` tells the type of the data."""
    formats = [dtype if name == "zero" else np.int64 for name in _FIELDS]
    offsets = [8 * i for i in range(len(_FIELDS))]
    return np.dtype({"names": _FIELDS, "formats": formats, "offsets": offsets, "itemsize": 8 * len(_FIELDS)})


def _counter() -> Any:
    """The number of the next chunk: the table's first field, counted up by whoever comes, one at a time."""

    @intrinsic
    def take(context: Any, table: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            counter = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

        return types.int64(table), generate

    return take


def _caster() -> Any:
    """An address as a pointer to numbers of the type of another."""

    @intrinsic
    def pointer(context: Any, address: Any, like: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], target.get_value_type(signature.return_type))

        return types.CPointer(like)(address, like), generate

    return pointer


_take, _pointer = _counter(), _caster()


@inner
def _view(address, size, like):
    return numba.carray(_pointer(address, like), size)


@inner
def _bounds(t, i):
    return t.items * i // t.chunks, t.items * (i + 1) // t.chunks


@inner
def _walk0(t):
    return _view(t.address0, t.size0, t.zero), (t.sample0, t.channel0, t.step0), _view(t.rows0, t.row_count0, t.items)


@inner
def _walk1(t):
    return _view(t.address1, t.size1, t.zero), (t.sample1, t.channel1, t.step1), _view(t.rows1, t.row_count1, t.items)


@inner
def _walk2(t):
    return _view(t.address2, t.size2, t.zero), (t.sample2, t.channel2, t.step2), _view(t.rows2, t.row_count2, t.items)


@inner
def _sums_of(t):
    """The vectors that moments fill: mean, total, squares and, where wanted, the extremes; one for every group."""
    rows = 5 if t.option else 3
    n = t.bytes // 8 // rows
    sums = _view(t.more, rows * n, 0.0)
    extremes = sums[3 * n :]
    return sums[:n], sums[n : 2 * n], sums[2 * n : 3 * n], extremes[:n], extremes[n:]


def _planar_moments(table):
    t = numba.carray(table, 1)[0]
    x, walk, rows = _walk0(t)
    mean, total, m2, low, high = _sums_of(t)
    extremes = t.option != 0
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        sums.planar_sums(x, walk, rows, t.length, t.channels, begin, end, t.zero, extremes, mean, total, m2, low, high)
        sums.describe(x, walk, rows, t.length, t.channels, begin, end, mean, total, m2, low, high)
        i = _take(table)


def _interleaved_moments(table):
    t = numba.carray(table, 1)[0]
    x, walk, rows = _walk0(t)
    mean, total, m2, low, high = _sums_of(t)
    extremes = t.option != 0
    lanes = np.empty(5 * compiled.LANES, dtype=x.dtype)
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        sums.interleaved_sums(
            x, walk, rows, t.length, t.channels, t.copies, begin, end, t.zero, extremes, lanes,
            mean, total, m2, low, high,
        )  # fmt: skip
        begin, end = sums.first_group(begin, t.channels), sums.first_group(end, t.channels)
        sums.describe(x, walk, rows, t.length, t.channels, begin, end, mean, total, m2, low, high)
        i = _take(table)


@inner
def _lines(t, address):
    """A vector of channels, for as many positions as lie side by side."""
    return _view(address, t.channels * t.copies, t.zero)


def _planar_affine(table):
    t = numba.carray(table, 1)[0]
    x, walk, rows = _walk0(t)
    y, out, out_rows = _walk1(t)
    pivot, a, b = _lines(t, t.vector0), _lines(t, t.vector1), _lines(t, t.vector2)
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        cpu.planar_affine(x, y, walk, out, rows, out_rows, t.length, t.channels, begin, end, pivot, a, b)
        i = _take(table)


def _interleaved_affine(table):
    t = numba.carray(table, 1)[0]
    x, walk, rows = _walk0(t)
    y, out, out_rows = _walk1(t)
    pivot, a, b = _lines(t, t.vector0), _lines(t, t.vector1), _lines(t, t.vector2)
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        cpu.interleaved_affine(x, y, walk, out, rows, out_rows, t.length, t.channels, t.copies, begin, end, pivot, a, b)
        i = _take(table)


def _planar_products(table):
    t = numba.carray(table, 1)[0]
    g, g_walk, g_rows = _walk0(t)
    x, walk, rows = _walk1(t)
    pivot = _lines(t, t.vector0)
    n = t.bytes // 16
    sums = _view(t.more, 2 * n, 0.0)
    total, product = sums[:n], sums[n:]
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        backward.planar_products(
            g, x, g_walk, walk, g_rows, rows, t.length, t.channels, begin, end, pivot, total, product
        )
        i = _take(table)


def _interleaved_products(table):
    t = numba.carray(table, 1)[0]
    g, g_walk, g_rows = _walk0(t)
    x, walk, rows = _walk1(t)
    pivot = _lines(t, t.vector0)
    n = t.bytes // 16
    sums = _view(t.more, 2 * n, 0.0)
    total, product = sums[:n], sums[n:]
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        backward.interleaved_products(
            g, x, g_walk, walk, g_rows, rows, t.length, t.channels, t.copies, begin, end, pivot, total, product
        )
        i = _take(table)


def _planar_combine(table):
    t = numba.carray(table, 1)[0]
    g, g_walk, g_rows = _walk0(t)
    x, walk, rows = _walk1(t)
    y, out, out_rows = _walk2(t)
    pivot, a, b = _lines(t, t.vector0), _lines(t, t.vector1), _lines(t, t.vector2)
    d = _view(t.more, t.bytes // x.itemsize, t.zero)
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        backward.planar_combine(
            g, x, y, g_walk, walk, out, g_rows, rows, out_rows, t.length, t.channels, begin, end, pivot, a, b, d,
            t.option,
        )  # fmt: skip
        i = _take(table)


def _interleaved_combine(table):
    t = numba.carray(table, 1)[0]
    g, g_walk, g_rows = _walk0(t)
    x, walk, rows = _walk1(t)
    y, out, out_rows = _walk2(t)
    pivot, a, b = _lines(t, t.vector0), _lines(t, t.vector1), _lines(t, t.vector2)
    d = _view(t.more, t.bytes // x.itemsize, t.zero)
    i = _take(table)
    while i < t.chunks:
        begin, end = _bounds(t, i)
        backward.interleaved_combine(
            g, x, y, g_walk, walk, out, g_rows, rows, out_rows, t.length, t.channels, t.copies, begin, end,
            pivot, a, b, d, t.option,
        )  # fmt: skip
        i = _take(table)


_BODIES: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "moments": (_planar_moments, _interleaved_moments),
    "affine": (_planar_affine, _interleaved_affine),
    "reduce_grad": (_planar_products, _interleaved_products),
    "combine": (_planar_combine, _interleaved_combine),
}


@cache
@undisturbed()
def _body(name: str, interleaved: bool, dtype: Any) -> Any:
    """The compiled body; the object keeps the code alive."""
    signature = types.void(types.CPointer(numba.from_dtype(_record(dtype))))
    function = _BODIES[name][interleaved]
    try:
        return numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except Exception:  # no writable directory, a full disk, damaged files; what is wrong with the code shows again
        return numba.cfunc(signature, error_model="numpy")(function)


class Pass(NamedTuple):
    """A pass over arrays of one shape and order: its body, and a table to copy and fill in."""

    address: int
    alone: Callable[[int], None]  # the body, for the calling thread
    template: Table
    samples: int
    channels: int
    copies: int  # of a vector of channels, side by side, that the body expects
    rows: Any  # whose addresses are in the template

    def table(self, first: int, second: int, third: int, vectors: Any, more: Any, option: int = 0) -> Any:
        """The table for arrays at these addresses, rows of vectors, and one array more; and where it lies.

        The arrays are of the shape and strides that the pass was planned for. ValueError if the vectors, or the array
        more, are not of the sizes that the pass reads and writes.
        """
        more = more.reshape(-1)  # bytes of both: one compiled function for all types
        return _filled(self.template, first, second, third, vectors.view(np.uint8), more.view(np.uint8), option)


@jit
def _filled(template, first, second, third, vectors, more, option):
    if template.size != SIZE:
        raise ValueError("no table of a pass")
    lines, line_bytes, least_bytes = template[WANTED], template[WANTED + 1], template[WANTED + 2]
    option_bytes, option_value = template[WANTED + 3], template[WANTED + 4]
    if vectors.shape[0] != lines or (lines and vectors.shape[1] != line_bytes):
        raise ValueError("the vectors are not of as many channels, and positions side by side, as the pass reads")
    if option != 0 and option != option_value:
        raise ValueError("the pass has no such option")
    if more.size != least_bytes + (option_bytes if option else 0):
        raise ValueError("the array for sums, or of what is added, is not of the size of the pass")
    table = template.copy()
    table[ADDRESSES], table[ADDRESSES + STRIDE], table[ADDRESSES + 2 * STRIDE] = first, second, third
    for i in range(vectors.shape[0]):
        table[VECTORS + i] = vectors[i].ctypes.data
    table[MORE], table[BYTES], table[OPTION] = more.ctypes.data, more.size, option
    return table, table.ctypes.data


def _wanted(name: str, samples: int, channels: int, copies: int, itemsize: int) -> tuple[int, int, int, int, int]:
    """How many vectors a pass takes and their bytes; the bytes of the array more, without its option and besides."""
    line, sums = channels * copies * itemsize, 8 * samples * channels
    return {
        "moments": (0, 0, 3 * sums, 2 * sums, 1),
        "affine": (3, line, 0, 0, 0),
        "reduce_grad": (1, line, 2 * sums, 0, 0),
        "combine": (3, line, channels * itemsize, (samples - 1) * channels * itemsize, channels),
    }[name]


@lru_cache(maxsize=4096)
def plan(
    name: str, dtype: Any, shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], sample_axis: int | None
) -> Pass:
    """How to make a pass over arrays (samples, channels, ...) of these strides, counted in elements.

    Samples lie along `sample_axis`; without one all is one sample for moments, and the others choose.
    """
    strides = tuple(elements(shape, s) for s in strides)
    grid: Any
    if name == "moments":
        grid = layout(shape, strides, 1, sample_axis)
        length, copies = grid.length, compiled.copies_of(grid.channels)
        steps, rows = [walk.steps for walk in grid.walks], [walk.rows for walk in grid.walks]
    else:
        grid = compiled.grid_of(
            shape, strides, 1, furthest(shape, strides[0], 1) if sample_axis is None else sample_axis
        )
        n, copies = len(strides), grid.copies
        steps, rows, length = grid.walks[:n], grid.walks[n : 2 * n], grid.walks[2 * n]
    copies = copies if grid.interleaved else 1
    parts = sums.tiles(grid.channels) if name == "moments" else 1
    items = grid.samples * (parts if grid.interleaved else grid.channels)
    arrays = [
        number
        for s, step, offsets in zip(strides, steps, rows, strict=True)
        for number in (0, extent(shape, s), *step, offsets.ctypes.data, offsets.size)
    ]
    template = np.zeros(SIZE, np.int64)
    template[: 2 + len(_GRID)] = (0, 0, min(items, CHUNKS), items, length, grid.channels, copies)
    template[ADDRESSES : ADDRESSES + len(arrays)] = arrays
    template[WANTED:] = _wanted(name, grid.samples, grid.channels, copies, np.dtype(dtype).itemsize)
    body = _body(name, grid.interleaved, dtype)
    return Pass(body.address, body.ctypes, template, grid.samples, grid.channels, copies, rows)
