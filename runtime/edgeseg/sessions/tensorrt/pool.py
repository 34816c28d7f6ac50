"""Contexts for several threads: each is lent to one thread at a time, and their number is bounded.

with pool.lend() as context:
    context.run(images, "class_map")
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeseg.errors import DeviceError, ResourceError
from edgeseg.sessions.tensorrt.context import Context


class ContextPool:
    """Makes contexts when they are needed, up to a number; who comes later waits."""

    def __init__(self, make: Callable[[], Context], most: int) -> None:
        """Make the first context, so that what fails fails now.

        Raises:
            ResourceError, DeviceError: see ``Context``.
        """
        self._make, self._most = make, most
        self._changed = threading.Condition()
        self._idle = [make()]
        self._count = 1
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Context]:
        """Give a context to the body; one in which the body failed is never given again.

        Raises:
            DeviceError: the pool is closed.
            ResourceError: memory ran out before there was any context.
        """
        context = self._take()
        try:
            yield context
        except BaseException:
            context.close()
            self._give_up_place()
            raise
        with self._changed:
            self._idle.append(context)  # taken from the end again: its graph is for the last shape
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until no context is lent and free them all; calling it again does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._count == len(self._idle))
            contexts, self._idle, self._count = self._idle, [], 0
        for context in contexts:
            context.close()

    def _take(self) -> Context:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._idle or self._count < self._most
                )
                if self._closed:
                    raise DeviceError("the session is closed; open a new one")
                if self._idle:
                    return self._idle.pop()
                self._count += 1
            if context := self._new():
                return context

    def _new(self) -> Context | None:
        """Return a new context, or None if memory is too small for one more beside the others."""
        try:
            return self._make()
        except ResourceError:
            self._give_up_place()
            with self._changed:
                if not self._count:
                    raise
                self._most = self._count
        except BaseException:
            self._give_up_place()
            raise
        return None

    def _give_up_place(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()
