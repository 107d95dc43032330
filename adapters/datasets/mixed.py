"""Several sets shuffled into one: a control in which no batch has a shift of its own (Schneider et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Mixed(NamedTuple):
    """Some images of a mixed set, their labels, and the names of the sets they come from."""

    images: NDArray[Any]
    labels: NDArray[np.int64]
    names: NDArray[np.str_]


class MixedSet:
    """The images of all sets in a random order.

    Parameters
    ----------
    sets : mapping from name to (images, labels)
        Arrays of shapes (n, ...) and (n,); images of all sets have the same shape. They are not copied, so that arrays
        in files stay there.
    seed : int
        Chooses the order.

    Raises
    ------
    ValueError
        If there is no set, or numbers of images and labels, or shapes or types of images, differ.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.adapters.datasets import MixedSet
    >>> mixed = MixedSet({"ones": (np.ones((3, 1)), np.arange(3)), "twos": (2 * np.ones((2, 1)), np.arange(2))})
    >>> len(mixed)
    5
    >>> images, labels, names = mixed[:4]
    >>> images.shape, sorted(set(names.tolist()))
    ((4, 1), ['ones', 'twos'])
    """

    def __init__(self, sets: Mapping[str, tuple[NDArray[Any], NDArray[np.int64]]], *, seed: int = 0) -> None:
        if not sets:
            raise ValueError("expected at least one set")
        self._sets = dict(sets)
        kinds = {name: (images.dtype, images.shape[1:]) for name, (images, _) in sets.items()}
        first = next(iter(kinds))
        for name, (images, labels) in sets.items():
            if len(images) != len(labels):
                raise ValueError(f"{name}: {len(images)} images and {len(labels)} labels")
            if kinds[name] != kinds[first]:
                raise ValueError(f"images must be alike: {first} has {kinds[first]}, {name} has {kinds[name]}")
        sizes = [len(labels) for _, labels in sets.values()]
        order = np.random.default_rng(seed).permutation(sum(sizes))
        self._set = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._index = np.concatenate([np.arange(size) for size in sizes])[order]

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, places: slice | NDArray[np.int64]) -> Mixed:
        """Images, labels and names of sets at some places, which are a slice or an array of indices."""
        which, index = self._set[places], self._index[places]
        images, labels = next(iter(self._sets.values()))
        mixed = Mixed(
            np.empty((len(index), *images.shape[1:]), images.dtype),
            np.empty(len(index), np.int64),
            np.array(list(self._sets))[which],
        )
        for number, (images, labels) in enumerate(self._sets.values()):
            here = which == number
            mixed.images[here], mixed.labels[here] = images[index[here]], labels[index[here]]
        return mixed
