"""Arrays at the edge of memory that nobody may touch: one element too far, and the process ends.

With SHRINKSTATS_GUARD_PAGES=1 in the environment (`make bounds`) `place` puts arrays there; otherwise it puts them
between sentinels. The page after the array guards its end, or the page before it its beginning.
"""

import ctypes
import mmap
import os

import numpy as np

PAGES = os.environ.get("SHRINKSTATS_GUARD_PAGES") == "1"
ROOM = 64  # elements on either side

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_spare = {}  # places that were left, by their pages


def guarded(size, at_end=True):
    """`size` bytes as an array, right before a page that may not be touched, or right after one."""
    pages = max(1, -(-size // mmap.PAGESIZE))
    return _within(_mapping(pages), size, at_end)


def _mapping(pages):
    """So many pages between two that may not be touched."""
    whole = np.frombuffer(mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE), np.uint8)
    for page in (0, pages + 1):
        if _libc.mprotect(whole.ctypes.data + page * mmap.PAGESIZE, mmap.PAGESIZE, 0):  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    return whole[mmap.PAGESIZE : (pages + 1) * mmap.PAGESIZE]


def _within(inside, size, at_end):
    begin = inside.size - size if at_end else 0
    return inside[begin : begin + size]


class Place:
    """Where arrays lie while one call is watched; `values` and `sentinel` fill their surroundings."""

    def __init__(self, sentinel=0.0, at_end=True):
        self.sentinel, self.at_end, self.surroundings, self.mappings = sentinel, at_end, [], []

    def __call__(self, values):
        """A C-ordered copy of values at this place."""
        values = np.asarray(values)
        if PAGES:
            pages = max(1, -(-values.nbytes // mmap.PAGESIZE))
            inside = _spare.setdefault(pages, []).pop() if _spare.get(pages) else _mapping(pages)
            self.mappings.append((pages, inside))
            lying = _within(inside, values.nbytes, self.at_end).view(values.dtype).reshape(values.shape)
        else:
            room = np.full(values.size + 2 * ROOM, self.sentinel).astype(values.dtype)
            lying = room[ROOM : ROOM + values.size].reshape(values.shape)
            self.surroundings.append((room, values.size))
        lying[...] = values
        return lying

    def leave(self):
        """Let others use the place. (Compiled code that raises an error keeps its arrays for ever.)"""
        for pages, inside in self.mappings:
            _spare.setdefault(pages, []).append(inside)
        self.mappings = []

    def untouched(self):
        """Whether nothing was written beside the arrays."""
        for room, size in self.surroundings:
            expected = np.full(ROOM, self.sentinel).astype(room.dtype).tobytes()
            if not room[:ROOM].tobytes() == room[ROOM + size :].tobytes() == expected:
                return False
        return True
