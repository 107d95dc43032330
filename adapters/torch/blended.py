"""The forward pass of an adapted layer without gradients: two passes, and one compiled call on vectors between them.

It computes what :mod:`~shrinkstats.adapters.torch.fused` does step by step. In evaluation there is little else to do,
so that the steps would be what adaptation costs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shrinkstats.adapters.torch import fused, memory, openmp
from shrinkstats.adapters.torch.addresses import DTYPES, address, dense, readable
from shrinkstats.adapters.torch.agreement import vector_of
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS
from shrinkstats.kernels import team

BUFFERS, PARAMETERS = ("running_mean", "running_var", *NOISE_BUFFERS), ("weight", "bias")


def fits(layer: Any, x: Tensor) -> bool:
    """Whether nobody wants a gradient, and the layer was calibrated and has vectors that NumPy can read."""
    if vector_of(layer, "noise_mean") is None or vector_of(layer, "running_mean") is None or not fused.fits(x):
        return False
    parameters = [vector_of(layer, name) for name in PARAMETERS]
    wanted = torch.is_grad_enabled() and (x.requires_grad or any(v is not None and v.requires_grad for v in parameters))
    return not wanted and all(map(readable, parameters)) and all(readable(vector_of(layer, name)) for name in BUFFERS)


def normalize(layer: Any, x: Tensor, adapted_lines: Callable[..., bool], any_order: bool) -> Tensor | None:
    """Normalized by what a rule says of its lines; None where its numbers are for the general way."""
    data = dense(x)
    shape, strides, dtype = data.shape, data.stride(), DTYPES[data.dtype]
    groups = gcd(shape[0], team.CHUNKS)  # of images; threads take one at a time
    size = shape[0] // groups
    # (n, c, ...) as (groups, c, images of a group, ...)
    grouped = (groups, shape[1], size, *shape[2:])
    job = team.plan("moments", dtype, grouped, ((size * strides[0], strides[1], strides[0], *strides[2:]),), 0)
    sums = np.empty((3, groups, shape[1]))
    openmp.run(job, job.table(address(data), 0, 0, fused._NONE, sums), data.nbytes)
    y = memory.empty_like(data, data.dtype, any_order=any_order)
    job = team.plan("affine", dtype, shape, (strides, y.stride()), None)
    lines = np.empty((3, job.copies * job.channels), dtype)
    if not adapted_lines(
        sums, data.numel() // (groups * shape[1]), shape[0], float(layer.eps),
        *(fused._vector(vector_of(layer, name)) for name in (*BUFFERS, *PARAMETERS)), lines,
    ):  # fmt: skip
        return None
    openmp.run(job, job.table(address(data), address(y), 0, lines, fused._NOTHING), data.nbytes)
    return y if y.dtype == x.dtype else y.to(x.dtype)
