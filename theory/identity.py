"""What a rule is made of, in words that a file can keep: the same words, the same rule.

A rule of the user's is code, and what the code looks up: defaults, closures, globals, the fields of objects, their
classes' methods. All of that is followed. What comes with Python, with an installed package or with this one is taken
by its name.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...))
# Of a class: what Python and dataclasses write. Fields are read from the object.
WRITTEN = {
    "__init__",
    "__repr__",
    "__eq__",
    "__hash__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__setattr__",
    "__delattr__",
    "__replace__",
    "__annotate_func__",
}


def digest(value: Any) -> str:
    """A few letters that differ between rules that differ.

    Raises
    ------
    ValueError
        If the value depends on what cannot be told.
    """
    sha = hashlib.sha256()
    try:
        for word in _words(value, {}):
            sha.update(f"{len(word)}:{word}".encode("utf-8", "backslashreplace"))
    except RecursionError as error:
        raise ValueError(f"{type(value).__qualname__} is nested too deeply for a file; leave path= out") from error
    return sha.hexdigest()[:12]


def is_ours(value: Any) -> bool:
    """Whether a function, class or object is known by its name: that of Python or of an installed package."""
    # Decorators copy the name of a function's module, not where it looks up its globals.
    module = value.__globals__.get("__name__") if isinstance(value, FunctionType) else value.__module__
    top = module.partition(".")[0] if isinstance(module, str) else ""
    return bool(top) and _is_installed(top)


def _is_installed(top: str) -> bool:
    if top == "shrinkstats" or top in sys.stdlib_module_names:
        return True
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # __main__ has none
        return False
    file = spec.origin if spec else None
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _words(value: Any, seen: dict[int, Any], names: frozenset[str] = frozenset()) -> Iterator[str]:
    """`names` are those that a function looks up in a module that it uses."""
    if isinstance(value, SIMPLE) and type(value) in SIMPLE:
        yield f"{type(value).__name__} {value!r}"
        return
    if type(value) not in (tuple, frozenset, CodeType):  # compilers may make one of equal ones
        if id(value) in seen:
            yield f"again {list(seen).index(id(value))}"
            return
        seen[id(value)] = value  # held, so that no other object gets its id
    kind = type(value)
    yield kind.__qualname__
    if kind in (tuple, list):
        for v in value:
            yield from _words(v, seen)
    elif kind in (set, frozenset):
        yield from sorted(" ".join(_words(v, {})) for v in value)
    elif kind is dict:
        for item in value.items():
            yield from _words(item, seen)
    elif isinstance(value, ModuleType):
        yield from _module(value, seen, names)
    elif isinstance(value, CodeType):
        yield from _code(value, seen)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, MethodType):
        yield from _words((value.__func__, value.__self__), seen)
    elif kind in (staticmethod, classmethod):
        yield from _words(value.__func__, seen)
    elif kind is property:
        yield from _words((value.fget, value.fset, value.fdel), seen)
    elif kind is functools.cached_property:
        yield from _words(value.func, seen)
    elif kind is functools.partial:
        yield from _words((value.func, value.args, value.keywords), seen)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.hasobject:
            yield from _words(array.tolist(), seen)
        else:
            yield f"{array.dtype.str} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    elif is_ours(kind):
        yield _name(value)
    else:
        yield from _object(value, seen)


def _name(value: Any) -> str:
    """What an object of an installed package calls itself, if that says all."""
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | type | None):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text or "..." in text or "(vectorized)" in text:  # the last of np.frompyfunc
        raise ValueError(f"{text} has no name that a file could keep; write it as a dataclass, or leave path= out")
    return text


def _module(module: ModuleType, seen: dict[int, Any], names: frozenset[str]) -> Iterator[str]:
    yield module.__name__
    if not _is_installed(module.__name__.partition(".")[0]):
        del seen[id(module)]  # the next function may look up other names in it
        for name in sorted(names & vars(module).keys()):
            yield name
            if vars(module)[name] is not module:
                yield from _words(vars(module)[name], seen, names)


def _code(code: CodeType, seen: dict[int, Any]) -> Iterator[str]:
    """What it does; neither its file nor its lines."""
    yield f"{code.co_name} {code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    yield f"{code.co_code.hex()} {code.co_exceptiontable.hex()}"
    yield f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
    for constant in code.co_consts:
        yield from _words(constant, seen)


def _function(function: FunctionType, seen: dict[int, Any]) -> Iterator[str]:
    ours = is_ours(function)
    yield f"{function.__module__ if ours else ''} {function.__qualname__}"
    if not ours:
        yield from _words(function.__code__, seen)
        yield from _words((function.__defaults__, function.__kwdefaults__), seen)
    # A decorator of a package holds a function of the user's.
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name
        try:
            content = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
        yield from _words(content, seen)
    if ours:
        return
    looked_up, names, imported = _looked_up(function.__code__)
    for name in sorted(imported):
        if not _is_installed(name.partition(".")[0]):
            raise ValueError(
                f"{function.__qualname__} imports {name or 'a module'} when it is called: a file cannot tell whether "
                "it is the same; import it at the top of the file, or leave path= out"
            )
    for name in sorted(looked_up & function.__globals__.keys()):
        yield name
        yield from _words(function.__globals__[name], seen, names)


def _looked_up(code: CodeType) -> tuple[set[str], frozenset[str], set[str]]:
    """Names of globals, all names, and modules imported, of a function's code and the code within."""
    instructions = list(dis.get_instructions(code))
    found = {i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")}
    imported = {i.argval for i in instructions if i.opname == "IMPORT_NAME"}
    names = frozenset(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            more, more_names, more_imported = _looked_up(constant)
            found, names, imported = found | more, names | more_names, imported | more_imported
    return found, names, imported


def _class(cls: type, seen: dict[int, Any]) -> Iterator[str]:
    """Its members and those of the classes that it is derived from."""
    for base in cls.__mro__:
        yield f"{base.__module__ if is_ours(base) else ''} {base.__qualname__}"
        if is_ours(base):
            continue
        for name, member in sorted(vars(base).items()):
            dunder = name.startswith("__") and name.endswith("__")
            code = isinstance(member, FunctionType | staticmethod | classmethod | property)
            if name in WRITTEN or name.startswith("_abc_") or (dunder and not code):
                continue
            if type(member).__name__ in ("member_descriptor", "getset_descriptor"):  # slots, of the object
                continue
            yield name
            yield from _words(member, seen)


def _object(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The class of an object of the user's, and what pickle would keep of it."""
    yield from _words(type(value), seen)
    try:
        parts = value.__reduce_ex__(4)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{type(value).__qualname__}: a file cannot tell whether it is the same ({error}); "
            "write it as a dataclass, or leave path= out"
        ) from error
    if isinstance(parts, str):
        yield parts
        return
    for part in parts:
        yield from _words(list(part) if hasattr(part, "__next__") else part, seen)
