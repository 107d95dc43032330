"""Training that can be stopped at any moment and goes on to the same weights."""

from shrinkstats.adapters.training.loop import Epoch, Step, fit
from shrinkstats.adapters.training.weights import save_weights

__all__ = ["Epoch", "Step", "fit", "save_weights"]
