"""Training that can be stopped at any moment and goes on to the same weights."""

import warnings

from .loop import Epoch, Step, fit
from .weights import save_weights

__all__ = ["Epoch", "Step", "fit", "save_weights"]

if not __name__.startswith("benchmarks."):  # installed for one release more by its old name, hence no full names above
    warnings.warn(
        f"{__name__} is benchmarks.lab.training of the repository now; the next release does not install it",
        DeprecationWarning,
        stacklevel=2,
    )
