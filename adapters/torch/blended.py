"""The forward pass of an adapted layer without gradients: two passes, and one compiled call on vectors between them.

It computes what :mod:`~shrinkstats.adapters.torch.fused` does step by step. In evaluation there is little else to do,
so that the steps would be what adaptation costs.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shrinkstats.adapters.torch import fused, memory, openmp
from shrinkstats.adapters.torch.noise import NOISE_BUFFERS
from shrinkstats.kernels import blend, team

BUFFERS = ("running_mean", "running_var", *NOISE_BUFFERS)


def fits(layer: Any, x: Tensor) -> bool:
    """Whether nobody wants a gradient, and the layer was calibrated and has buffers that NumPy can read."""
    mean = layer._buffers["running_mean"]  # not layer.running_mean: a module looks for attributes slowly
    return (
        layer._buffers["noise_mean"] is not None
        and mean is not None
        and mean.dtype in fused.FULL
        and mean.device.type == "cpu"
        and not (
            torch.is_grad_enabled()
            and (x.requires_grad or any(v is not None and v.requires_grad for v in layer._parameters.values()))
        )
        and fused.fits(x)
    )


def normalize(layer: Any, x: Tensor, kappa: float) -> Tensor | None:
    """Normalized with a Stein blend; None where its numbers are for the general way."""
    data = fused._dense(x)
    shape, strides, dtype = data.shape, data.stride(), fused.DTYPES[data.dtype]
    groups = gcd(shape[0], team.CHUNKS)  # of images; threads take one at a time
    size = shape[0] // groups
    # (n, c, ...) as (groups, c, images of a group, ...)
    grouped = (groups, shape[1], size, *shape[2:])
    job = team.plan("moments", dtype, grouped, ((size * strides[0], strides[1], strides[0], *strides[2:]),), 0)
    sums = np.empty((3, groups, shape[1]))
    openmp.run(job, job.table(data.data_ptr(), 0, 0, fused._NONE, sums), data.nbytes)
    y = memory.empty_like(x, data.dtype)
    job = team.plan("affine", dtype, shape, (strides, y.stride()), None)
    lines = np.empty((3, job.copies * job.channels), dtype)
    buffers, parameters = layer._buffers, layer._parameters
    if not blend.adapted_lines(
        sums, data.numel() // (groups * shape[1]), shape[0], kappa, layer.eps,
        *(buffers[name].numpy() for name in BUFFERS),
        *(fused._vector(parameters[name]) for name in ("weight", "bias")), lines,
    ):  # fmt: skip
        return None
    openmp.run(job, job.table(data.data_ptr(), y.data_ptr(), 0, lines, fused._NOTHING), data.nbytes)
    return y if y.dtype == x.dtype else y.to(x.dtype)
