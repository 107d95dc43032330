"""The first use of a library, which imports or compiles it: neither a signal nor a fork may leave it half done."""

from __future__ import annotations

import logging  # noqa: F401 - whose own lock is to be taken after ours when a process forks
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_lock = threading.RLock()
_forking = ExitStack()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it signals are held back, and answered at the end; a fork in another thread waits for the end.

    An exception from within an import (of Ctrl-C, an alarm) would leave a library in pieces, which Python never puts
    together again; compilers lose it on its way out.
    """
    calls: list[tuple[int, Any]] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # where Python answers signals
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with ExitStack() as late:
        late.callback(_answer, calls, handlers)
        for number, handler in handlers.items():
            if callable(handler):
                late.callback(signal.signal, number, handler)
                signal.signal(number, lambda *call: calls.append(call))
        with _lock:
            yield


def _answer(calls: list[tuple[int, Any]], handlers: dict[int, Any]) -> None:
    """One after the other, also if they raise."""
    with ExitStack() as answers:
        for number, frame in reversed(calls):
            answers.callback(handlers[number], number, frame)


def _settle() -> None:
    """Before a fork: a child would wait for ever for locks of threads that it does not have."""
    _forking.enter_context(_lock)
    compiler = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if compiler is not None:  # others compile too
        _forking.enter_context(compiler)


def _go_on() -> None:
    _forking.pop_all().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_settle, after_in_parent=_go_on, after_in_child=_go_on)
