"""Arrays drawn at random: how they lie in memory, and what is in them. What lies between their elements is NaN."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64", "bool")
FINITE = ("ordinary", "far", "constant", "zeros", "few", "outlier", "scales")
EXTREME = ("tiny", "huge")
BROKEN = ("nan", "inf", "both")

LIMITS = {  # of a dtype: the resolution, the smallest normal number and the largest
    "float16": (2.0**-10, 2.0**-14, 65504.0),
    "bfloat16": (2.0**-7, 2.0**-126, 3.3895313892515355e38),
    "float32": (2.0**-23, 2.0**-126, float(np.finfo(np.float32).max)),
    "float64": (2.0**-52, 2.0**-1022, float(np.finfo(np.float64).max)),
}


@dataclass(frozen=True)
class Laid:
    """An array: where its elements lie, counted in elements, and how their values are made."""

    dtype: str
    shape: tuple
    strides: tuple
    start: int
    axis: int
    values: str
    seed: int

    @property
    def channels(self):
        return self.shape[self.axis]

    @property
    def memory(self):
        """A stretch of memory with the elements in it (bfloat16's as float32), and where the first element lies."""
        first = self.start + sum((n - 1) * -s for n, s in zip(self.shape, self.strides, strict=True) if s < 0 and n)
        last = first + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True) if s > 0 and n)
        held = np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)
        poison = np.nan if held.kind == "f" else 1 if held.kind == "b" else np.iinfo(held).max
        memory = np.full(last + 3, poison, held)
        self._view(memory, first)[...] = contents(self)
        return memory, first

    def _view(self, memory, first):
        return as_strided(memory[first:], self.shape, tuple(s * memory.itemsize for s in self.strides))

    def numpy(self):
        """The array as it lies."""
        return self._view(*self.memory)

    def plain(self):
        """Its numbers in C order, as float64."""
        x = self.numpy()
        if self.dtype == "bfloat16":
            import torch

            return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().double().numpy()
        return np.array(x, dtype=np.float64, order="C")

    def torch(self, *, negated=False):
        """The same as a tensor; `negated`: as one whose sign PyTorch has yet to apply."""
        import torch

        memory, first = self.memory
        base = torch.from_numpy(memory)
        base = base.bfloat16() if self.dtype == "bfloat16" else base
        if negated:
            base = torch.complex(torch.zeros_like(base), -base)
        x = base.as_strided(self.shape, self.strides, first)
        return x.conj().imag if negated else x


def contents(laid):
    """Values of the kind named, float64 of the array's shape."""
    rng = np.random.default_rng(laid.seed)
    shape, kind = laid.shape, laid.values
    if laid.dtype not in LIMITS:
        top = 1 if laid.dtype == "bool" else np.iinfo(laid.dtype).max
        low = 0 if laid.dtype == "bool" else np.iinfo(laid.dtype).min
        span = (low, top) if kind == "huge" else (max(low, -9), min(top, 9))
        return rng.integers(*span, shape, endpoint=True) * (kind != "zeros")
    _, tiny, most = LIMITS[laid.dtype]
    along = [1] * len(shape)
    along[laid.axis] = -1

    def each(values):
        return np.asarray(values, dtype=np.float64).reshape(along)

    c = laid.channels
    x = rng.normal(size=shape) * each(rng.uniform(0.5, 2, c)) + each(rng.uniform(-2, 2, c))
    flat = x.reshape(-1)
    some = rng.random(c) < 0.5
    if kind == "zeros":
        x = x * each(some)
    elif kind == "constant":
        x = np.where(each(some), each(np.round(rng.normal(size=c), 2)), x)
    elif kind == "few":
        x = np.round(x)
    elif kind == "far":
        x = x + each(rng.choice([-1, 1], c) * min(10 ** rng.uniform(3, 7), most / 100))
    elif kind == "scales":
        x = x * each(10 ** rng.uniform(*((-2, 2) if laid.dtype == "float16" else (-12, 12)), c))
    elif kind == "tiny":
        x = x * (tiny * 2.0 ** rng.integers(-8, 4))
    elif kind == "huge":
        x = rng.uniform(-0.9, 0.9, shape) * min(most, 1e150)  # squares of the deviations are float64
    elif kind == "end":
        x = rng.uniform(-0.9, 0.9, shape) * most
    elif flat.size and kind == "outlier":
        flat[rng.integers(flat.size)] = min(1e6, most / 8)
    elif flat.size and kind in BROKEN:
        spots = rng.integers(flat.size, size=1 if kind == "nan" else 2)
        flat[spots] = {"nan": np.nan, "inf": rng.choice([np.inf, -np.inf]), "both": [np.inf, -np.inf][: len(spots)]}[
            kind
        ]
    return x


@st.composite
def strides(draw, shape, *, negative=True, repeated=True):
    """Steps in elements between neighbours along each axis: dense or with gaps, backwards, repeated, overlapping."""
    style = draw(st.sampled_from(["C", "channels last", "any", "any", "any"]))
    order = list(range(len(shape)))
    if style == "channels last" and len(shape) > 1:
        order = [0, *order[2:], 1]
    if style == "any":
        order = draw(st.permutations(order))
    kinds = ["dense"] * 4 + ["gap"] + ["negative"] * negative + ["zero", "overlap"] * repeated
    found, extent = [0] * len(shape), 1
    for i in reversed(order):
        kind = draw(st.sampled_from(kinds)) if style == "any" else "dense"
        step = {"zero": 0, "overlap": max(1, extent // 2), "negative": -extent, "dense": extent}.get(kind)
        found[i] = extent + draw(st.integers(1, 3)) if step is None else step
        extent += max(shape[i] - 1, 0) * abs(found[i])
    return tuple(found)


@st.composite
def arrays(
    draw, *, dtypes=FLOATS[:2], values=FINITE, ndim=(1, 5), axis=None, negative=True, repeated=True, shapes=None
):
    """An array of some axes, one of them the channels'; of one of a few shapes, where each costs a compilation."""
    axes = draw(st.integers(*ndim)) if shapes is None else 0
    shape = [draw(st.sampled_from([1, 2, 3, 4, 5, 7, 13])) for _ in range(axes)]
    shape = shape if shapes is None else list(draw(st.sampled_from(shapes)))
    axis = draw(st.integers(0, axes - 1)) if axis is None else axis
    if shapes is None:
        shape[axis] = draw(st.sampled_from([3, 4, 5, 1, 2, 7]))
    for i in sorted(range(axes), key=shape.__getitem__, reverse=True):  # an oracle in plain Python takes its time
        if np.prod(shape) > 3000 and i != axis:
            shape[i] = 2
    steps = draw(strides(tuple(shape), negative=negative, repeated=repeated))
    return Laid(
        dtype=draw(st.sampled_from(dtypes)),
        shape=tuple(shape),
        strides=steps,
        start=draw(st.sampled_from([0, 0, 1, 3])),
        axis=axis,
        values=draw(st.sampled_from(values)),
        seed=draw(st.integers(0, 2**16)),
    )


def like(laid, *, strides, seed, values="ordinary"):
    """Another array of the same shape and dtype."""
    return replace(laid, strides=strides, seed=seed, values=values, start=0)
