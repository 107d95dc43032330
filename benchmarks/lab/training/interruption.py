"""Ctrl-C and SIGTERM wait for the end of a step, so that what is kept is never half a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: a second request does not wait."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def stop_if_requested(self) -> None:
        """Raise KeyboardInterrupt if it was; for the places where everything is kept."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Within the context a first request to stop is only noted; nothing is changed outside of the main thread."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
