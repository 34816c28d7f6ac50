"""SIGINT and SIGTERM while training: finish the step, save, end; a second one ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the first signal only sets ``number``; 0 means none has come."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        """Start listening; other threads than the main one cannot."""
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._received) for s in WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _received(self, number: int, _: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it came from signal.signal
        self._before = {}
