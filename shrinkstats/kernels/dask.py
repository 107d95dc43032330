"""The passes over a Dask array, deferred: every chunk is read once a pass, and what chunks say is merged as a tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.graph_manipulation import clone

from shrinkstats import kernels
from shrinkstats._arrays import Array
from shrinkstats.kernels import threads
from shrinkstats.moments import moments as moments_of
from shrinkstats.values import Moments

FAN_IN = 16  # parts that one task merges


def moments(x: Array, axis: int, sample_axis: int | None) -> tuple[Array, Array, Array, Array, Array]:
    """Per channel: mean, sum of squared deviations, minimum, maximum, and the same sum for the samples' means.

    Chunks of any shape. Only Moments are kept and sent between workers, never data. The tree is that of the chunks, so
    the bits do not depend on who does the work.
    """
    within = [i for i in range(x.ndim) if i not in (axis, sample_axis)]
    cut = sample_axis is not None and any(x.numblocks[i] > 1 for i in within)  # samples lie in several chunks
    order = [axis, *([] if sample_axis is None else [sample_axis]), *within]
    parts = x.map_blocks(_of_samples if cut else _of_chunk, axis, sample_axis, dtype=x.dtype, meta=x._meta)
    parts = parts.to_delayed().transpose(order).reshape(x.numblocks[axis], x.numblocks[sample_axis] if cut else 1, -1)
    blocks = [column.ravel() for column, c in zip(parts, x.chunks[axis], strict=True) if c]
    if cut:
        blocks = [
            [
                delayed(_join, pure=True)(_merge(block), c)
                for block, n in zip(column, x.chunks[sample_axis], strict=True)
                if n
            ]
            for column, c in zip(parts, x.chunks[axis], strict=True)
            if c
        ]
    channels = [c for c in x.chunks[axis] if c]
    whole = [_merge(block) for block in blocks]

    def vector(name: str) -> Array:
        pieces = [getattr(m, name) for m in whole]
        return da.concatenate(
            [da.from_delayed(v, (c,), dtype=np.float64, meta=x._meta) for v, c in zip(pieces, channels, strict=True)]
        )

    size = 1 if sample_axis is None else math.prod(x.shape[i] for i in within)
    mean, m2, low, high, sample_m2 = map(vector, ("mean", "m2", "minimum", "maximum", "sample_m2"))
    return mean, m2, low, high, sample_m2 / float(size) / size  # Moments weigh samples by their squared size


def affine(x: Array, axis: int, pivot: Array, a: Array, b: Array) -> Array:
    """``a (x - pivot) + b`` per channel, chunk by chunk.

    It reads the data anew: chunks shared with the pass for the statistics would all stay in memory until these are
    known.
    """
    vectors = [v.rechunk((x.chunks[axis],)) for v in (pivot, a, b)]
    axes = tuple(range(x.ndim))
    along = [argument for v in vectors for argument in (v, (axis,))]
    return da.blockwise(
        _affine, axes, clone(x, seed="affine"), axes, *along, axis=axis, dtype=x.dtype, meta=x._meta, concatenate=True
    )


def _of_chunk(x: Array, axis: int, sample_axis: int | None) -> Moments:
    with threads.at_most(1):  # Dask has threads of its own
        return moments_of(x, axis=axis, sample_axis=sample_axis)


def _of_samples(x: Array, axis: int, sample_axis: int) -> Moments:
    """Every sample by itself, as if (sample, channel) were the channels: of a part of each, which others complete."""
    within = [i for i in range(x.ndim) if i not in (axis, sample_axis)]
    rows = x.transpose(sample_axis, axis, *within).reshape(x.shape[sample_axis] * x.shape[axis], -1)
    return _of_chunk(rows, 0, None)


def _affine(x: Array, pivot: Array, a: Array, b: Array, *, axis: int) -> Array:
    with threads.at_most(1):
        return kernels.backend(x).affine(x, axis, pivot, a, b)


def _merge(parts: Sequence[Delayed]) -> Delayed:
    """The sum of Moments as a tree."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [delayed(_sum, pure=True)(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
    return parts[0]


def _sum(parts: list[Moments]) -> Any:
    return sum(parts)


def _join(samples: Moments, channels: int) -> Moments:
    """Merge whole samples, each by itself, into Moments per channel."""
    mean, m2, low, high = (
        v.reshape(-1, channels) for v in (samples.mean, samples.m2, samples.minimum, samples.maximum)
    )
    between, size = moments_of(mean), samples.count
    return Moments.of_equal_samples(
        count=size * len(mean),
        samples=len(mean),
        mean=between.mean,
        m2=m2.sum(axis=0) + size * between.m2,
        minimum=low.min(axis=0),
        maximum=high.max(axis=0),
        sample_m2=float(size) * size * between.m2,
    )
