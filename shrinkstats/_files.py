"""Files that are not trusted, and results written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUM = "checksum"
LONGEST_SUFFIX = 32  # bytes; what is longer is no format that a writer would know


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Whatever a parser raises on a malformed file, as one ValueError; the list of its exceptions is open."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # not of a parser gone astray
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not an array of numbers: {reason}") from error


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a .npy file, mapped, not loaded: a header that promises terabytes then fails instead of allocating.

    Raises
    ------
    ValueError
        If the file is damaged, longer than its header says, or holds objects.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    # Not np.load, which takes whatever lacks the magic string for a pickle and suggests to allow that.
    with damage(path):
        mapped = np.lib.format.open_memmap(path, mode="r")
        more = path.stat().st_size - mapped.offset - mapped.nbytes
        if more:
            raise ValueError(f"it is {more} bytes longer than its header says")
        return np.asarray(mapped)


def check_sums(path: Path) -> None:
    """Compare the content of a zip file with its checksums, for readers that do not; other files have none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {name} does not fit")


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a JSON file, and a number by which `verified` sees that none of it has changed."""
    return {**content, SUM: _sum(content)}


def verified(content: dict[str, Any]) -> bool:
    """Take that number away again: whether there was one, as older files have none; ValueError if it does not fit."""
    if SUM not in content:
        return False
    if content.pop(SUM) != _sum(content):
        raise ValueError("it was damaged or changed after it was written: its checksum does not fit")
    return True


def _sum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def read_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
    """The numbered rows of a file of JSON lines, none if there is no file, and whether the last one was cut off.

    A row that is damaged, or no dictionary, is empty.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else [""]
    return [(number, _row(line)) for number, line in enumerate(lines, 1) if line], bool(lines[-1])


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Keep a row, with its checksum, from now on; written at once, so that rows of two processes do not mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{json.dumps(signed(row))}\n".encode())
    finally:
        os.close(file)


def _row(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
        if isinstance(content, dict):
            verified(content)
            return content
    except (ValueError, RecursionError):
        pass
    return {}


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name to write under, renamed to `path` once everything is written and on disk.

    The name is nobody else's, and ends as `path` does. A link stays one, and what it points to is replaced; a file that
    exists keeps its permissions. A pipe or a device gets the bytes once all are there.
    """
    path = Path(path)
    try:
        before = path.stat()  # of what a link points to
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        target = Path(os.path.realpath(path)) if stat.S_ISREG(before.st_mode) else None
    except FileNotFoundError:
        before, target = None, Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if target is None else target.parent
    ending = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
    temporary = folder / f".{secrets.token_hex(8)}{ending}"
    mode = _mode_of_new(temporary, path)
    try:
        yield temporary
        if target is None:
            with temporary.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        temporary.chmod(stat.S_IRUSR | stat.S_IWUSR)
        _onto_disk(temporary)
        if before is not None:
            mode = stat.S_IMODE(before.st_mode)
            if os.name == "posix":
                with suppress(OSError):  # another's file, in a folder that is ours
                    os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(mode)
        os.replace(temporary, target)
        if os.name == "posix":
            with suppress(OSError):  # some file systems know no such thing
                _onto_disk(folder)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _mode_of_new(temporary: Path, path: Path) -> int:
    """The permissions that a new file gets there; an error names the path that was asked for."""
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    mode = stat.S_IMODE(temporary.stat().st_mode)
    temporary.unlink()  # so that a writer that wrote elsewhere is noticed
    return mode


def _onto_disk(path: Path) -> None:
    """Wait until a file, or a folder's names, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
