"""Means and variances by shrinkage, and batch normalization that uses them.

Arrays of NumPy, Dask, CuPy, PyTorch or JAX go in, arrays of the same kind come out, on the same device. A vector of
channels is the last axis; leading axes are a stack of independent problems.
"""

from importlib.metadata import version as _version

from shrinkstats import estimators
from shrinkstats.mean import Shrunk, channel_james_stein, james_stein
from shrinkstats.moments import moments
from shrinkstats.normalize import normalize
from shrinkstats.prior import blend, stein_blend
from shrinkstats.regularized import ridge, soft_threshold
from shrinkstats.values import Moments, Prior, SamplingNoise, Statistics
from shrinkstats.variance import gamma_stein
from shrinkstats.wasserstein import best_strength, wasserstein2, wasserstein_bounds

__all__ = [
    "Moments",
    "Prior",
    "SamplingNoise",
    "Shrunk",
    "Statistics",
    "best_strength",
    "blend",
    "channel_james_stein",
    "estimators",
    "gamma_stein",
    "james_stein",
    "moments",
    "normalize",
    "ridge",
    "soft_threshold",
    "stein_blend",
    "wasserstein2",
    "wasserstein_bounds",
]

__version__ = _version("shrinkstats")
