"""Weights in a file that holds numbers alone."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from shrinkstats._files import whole


def save_weights(net: nn.Module, path: str | Path) -> None:
    """Write the state dict of a network as safetensors, whole or not at all.

    Parameters
    ----------
    net : torch.nn.Module
        On any device. Tensors that share memory are written once each.
    path : path
        The file; its folder must exist.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from safetensors.torch import load_file
    >>> from torch import nn
    >>> from benchmarks.lab.training import save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.safetensors"
    ...     save_weights(nn.Linear(3, 2), path)
    ...     {name: tuple(value.shape) for name, value in sorted(load_file(path).items())}
    {'bias': (2,), 'weight': (2, 3)}
    """
    state = {name: value.detach().cpu().clone().contiguous() for name, value in net.state_dict().items()}
    with whole(Path(path)) as temporary:
        save_file(state, temporary)
