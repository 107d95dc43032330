"""Pickles of numbers, texts, lists, dictionaries and arrays of bytes, read without Python's unpickler.

The unpickler runs what a file names, and NumPy believes the state that a file gives to a dtype: a pointer, if it
says so. Here a file is only taken apart. It can name nothing that is called.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECONSTRUCT, NDARRAY, DTYPE = "numpy _reconstruct", "numpy ndarray", "numpy dtype"
NAMES = {
    "numpy.core.multiarray _reconstruct": RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": RECONSTRUCT,
    NDARRAY: NDARRAY,
    DTYPE: DTYPE,
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
AS_THEY_STAND = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
AS_THEY_STAND |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = {"PROTO", "FRAME", "STOP"}


@dataclass(frozen=True)
class Name:
    """One of NumPy's names in a file, and nothing of NumPy's."""

    text: str


@dataclass(eq=False)
class Recorded:
    """A call that a file asks for, and the state it gives to what comes of it: both only remembered."""

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None


def read(data: bytes) -> Any:
    """What a pickle holds; its arrays as `Recorded`.

    Raises
    ------
    ValueError, LookupError, TypeError or AttributeError
        If it is cut short, asks for anything else, or goes on after its end.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}  # not a list: a changed number of an entry would ask for gigabytes
    end = 0
    argument: Any

    def from_(start: int) -> list[Any]:
        """The stack's end, taken off."""
        if start < (marks[-1] if marks else 0):
            raise ValueError("a list or tuple lacks items")
        taken = stack[start:]
        del stack[start:]
        return taken

    for opcode, argument, place in pickletools.genops(data):
        code, end = opcode.name, (place or 0) + 1
        if code in AS_THEY_STAND:
            stack.append(argument)
        elif code in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2's, which does not tell texts from bytes
            stack.append(str(argument).encode("latin-1"))
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in EMPTY:
            stack.append(EMPTY[code]())
        elif code == "MARK":
            marks.append(len(stack))
        elif code in TUPLES:
            stack.append(tuple(from_(len(stack) - TUPLES[code])))
        elif code == "TUPLE":
            stack.append(tuple(from_(marks.pop())))
        elif code in ("APPEND", "APPENDS"):
            items = from_(marks.pop() if code == "APPENDS" else len(stack) - 1)
            _the(list, stack).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = from_(marks.pop() if code == "SETITEMS" else len(stack) - 2)
            _set(_the(dict, stack), items)
        elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code == "GLOBAL":
            stack.append(_name(argument))
        elif code == "STACK_GLOBAL":
            stack.append(_name(" ".join(from_(len(stack) - 2))))
        elif code == "REDUCE":
            name, arguments = from_(len(stack) - 2)
            if not (isinstance(name, Name) and isinstance(arguments, tuple)):
                raise ValueError("the file calls what cannot be called")
            stack.append(Recorded(name, arguments))
        elif code == "BUILD":
            [state] = from_(len(stack) - 1)
            _the(Recorded, stack).state = state
        elif code not in NOTHING:
            raise ValueError(f"the file uses {code}, which no such file needs")
    if end < len(data):
        raise ValueError("something follows the images")
    if len(stack) != 1 or marks:
        raise ValueError("something is left over")
    return stack[0]


def array(found: Recorded) -> NDArray[np.uint8]:
    """An array of bytes.

    Raises
    ------
    ValueError
        If it is recorded as anything else.
    """
    if found.name.text != RECONSTRUCT or found.arguments != (Name(NDARRAY), (0,), b"b"):
        raise ValueError("an array that is not made as NumPy makes its own")
    if not isinstance(found.state, tuple) or len(found.state) != 5:
        raise ValueError("an array without contents")
    _, shape, dtype, fortran, content = found.state
    _check_bytes(dtype)
    if not isinstance(shape, tuple) or {type(n) for n in shape} - {int} or min(shape, default=0) < 0:
        raise ValueError("an array whose shape is none")
    if not isinstance(content, bytes) or math.prod(shape) != len(content):
        size = len(content) if isinstance(content, bytes) else "no"
        raise ValueError(f"an array of shape {shape} with {size} bytes")
    if not isinstance(fortran, int):
        raise ValueError("an array whose order is neither C nor Fortran")
    flat = np.frombuffer(bytearray(content), np.uint8)  # which may be written to, as any array
    return flat.reshape(shape, order="F" if fortran else "C")


def _check_bytes(dtype: Any) -> None:
    if not isinstance(dtype, Recorded) or dtype.name.text != DTYPE or not dtype.arguments:
        raise ValueError("an array without a dtype")
    code = dtype.arguments[0]
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if code != "u1":
        raise ValueError(f"an array of dtype {code!r}, not 'u1' (uint8)")
    # The version of the format; order, and what records, texts and objects would need.
    if dtype.state not in ((3, mark, None, None, None, -1, -1, 0) for mark in ("|", b"|")):
        raise ValueError("a dtype 'u1' that claims to be more than bytes")


def _the(kind: type, stack: list[Any]) -> Any:
    """The topmost item, which must be of this kind."""
    if type(stack[-1]) is not kind:
        raise ValueError(f"found {type(stack[-1]).__name__} in place of {kind.__name__}")
    return stack[-1]


def _set(target: dict[Any, Any], items: list[Any]) -> None:
    if len(items) % 2 or not all(isinstance(key, (bytes, str, int)) for key in items[::2]):
        raise ValueError("a dictionary whose keys are not names")
    target.update(zip(items[::2], items[1::2], strict=True))


def _name(text: str) -> Name:
    if text not in NAMES:
        raise ValueError(f"the file asks for {text.replace(' ', '.', 1)}, which no such file needs")
    return Name(NAMES[text])
