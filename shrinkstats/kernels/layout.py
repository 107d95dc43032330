"""Where the elements of each channel lie: any strided array as a grid of (sample, channel, row, run).

Kernels see an array as one flat stretch of memory. Slices along the sample and channel axes start at fixed
steps; within one of them lie runs of `length` elements, `step` apart, and `rows` says where they start. All numbers
are in elements. Axes are merged where memory allows, so a C-ordered or channels-last array has a single run.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

SHORT = 8  # elements; a shorter run costs more than its elements do


class Walk(NamedTuple):
    """How to walk through one array: steps between samples, channels and neighbours of a run; where runs start.

    `rows` are the first run's offset, and the sizes and steps of the axes around the runs in turn, outermost first:
    there may be as many runs as elements, and none of them is listed.
    """

    sample: int
    channel: int
    step: int
    rows: NDArray[np.int64]

    @property
    def steps(self) -> tuple[int, int, int]:
        return self[:3]


class Layout(NamedTuple):
    """The grid, and a walk for each of the arrays that share it."""

    samples: int
    channels: int
    runs: int
    length: int
    walks: tuple[Walk, ...]

    @property
    def interleaved(self) -> bool:
        """Whether neighbours in memory are channels (channels-last), in all arrays."""
        return all(walk.channel == 1 and (walk.step != 1 or self.length == 1) for walk in self.walks)

    @property
    def turned(self) -> Layout | None:
        """The layout with samples in the place of channels, where they are the neighbours (Fortran order); else None.

        Samples and channels that lie without gaps are as many channels of one sample.
        """
        (walk,) = self.walks
        if walk.sample != 1 or walk.step == 1 or self.samples == 1 or self.interleaved:
            return None
        samples, channels = self.channels, self.samples
        turned = walk._replace(sample=walk.channel, channel=1)
        if walk.channel == self.samples:
            samples, channels, turned = 1, samples * channels, turned._replace(sample=0)
        return self._replace(samples=samples, channels=channels, walks=(turned,))


def flat(x: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """The memory of an array from its lowest address on, and its strides there; copies only odd byte strides."""
    if x.flags.c_contiguous:
        return x.reshape(-1), elements(x.shape, x.strides, x.itemsize)
    if any(stride % x.itemsize for stride in x.strides):
        return flat(np.ascontiguousarray(x))
    strides = elements(x.shape, x.strides, x.itemsize)
    turn, order, extent = _lift(x.shape, strides)
    upwards = x[turn]
    dense = upwards.transpose(order)
    if dense.flags.c_contiguous:
        return dense.reshape(-1), strides
    return as_strided(upwards, shape=(extent,), strides=(x.itemsize,), writeable=x.flags.writeable), strides


@lru_cache(maxsize=1024)
def elements(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int = 1) -> tuple[int, ...]:
    """Strides in elements; an axis of one element has none."""
    return tuple(0 if n == 1 else stride // itemsize for n, stride in zip(shape, strides, strict=True))


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie between the first and the last, both counted."""
    return 1 + sum((n - 1) * abs(stride) for n, stride in zip(shape, strides, strict=True))


@lru_cache(maxsize=1024)
def _lift(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[slice, ...], list[int], int]:
    """The index that turns axes around which run backwards, the order of descending strides, and the extent."""
    turn = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in strides)
    order = sorted(range(len(shape)), key=lambda i: -abs(strides[i]))
    return turn, order, extent(shape, strides)


def outermost(x: NDArray[Any], axis: int) -> int | None:
    """The axis to walk along last: the one of the largest step, other than the channels'."""
    return furthest(x.shape, x.strides, axis)


@lru_cache(maxsize=1024)
def furthest(shape: tuple[int, ...], strides: tuple[int, ...], axis: int) -> int | None:
    """The same from shape and strides, in any unit."""
    others = [i for i in range(len(shape)) if i != axis and shape[i] > 1]
    return max(others, key=lambda i: abs(strides[i]), default=None)


@lru_cache(maxsize=1024)
def layout(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], axis: int, sample_axis: int | None) -> Layout:
    """The grid of arrays of one shape; without a sample axis everything is one sample."""
    others = [i for i in range(len(shape)) if i not in (axis, sample_axis)]
    runs = _merge([(shape[i], *(s[i] for s in strides)) for i in others if shape[i] > 1])
    length, *steps = runs.pop(_along(runs)) if runs else (1, *(0 for _ in strides))
    walks = []
    for k, s in enumerate(strides):
        first = sum(
            (n - 1) * max(-stride, 0) for n, stride in zip(shape, s, strict=True)
        )  # where element 0, 0, ... lies
        rows = np.array([first, *(number for run in runs for number in (run[0], run[k + 1]))], np.int64)
        rows.flags.writeable = False
        walks.append(Walk(0 if sample_axis is None else s[sample_axis], s[axis], steps[k], rows))
    samples = 1 if sample_axis is None else shape[sample_axis]
    return Layout(samples, shape[axis], prod(run[0] for run in runs), length, tuple(walks))


def _along(runs: list[tuple[int, ...]]) -> int:
    """The axis of the runs: the innermost; of short ones there would be too many if another axis is much longer."""
    longest = max(range(len(runs)), key=lambda i: runs[i][0])
    return longest if runs[-1][0] < SHORT <= runs[longest][0] // SHORT else len(runs) - 1


def _merge(axes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Axes as (size, stride in each array), outermost first, neighbours in memory made one."""
    merged: list[tuple[int, ...]] = []
    for axis in sorted(axes, key=lambda a: tuple(map(abs, a[1:])), reverse=True):
        if merged and all(outer == axis[0] * inner for outer, inner in zip(merged[-1][1:], axis[1:], strict=True)):
            axis = (merged.pop()[0] * axis[0], *axis[1:])
        merged.append(axis)
    return merged
