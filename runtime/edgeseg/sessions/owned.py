"""A library's object that several threads use and one of them closes: nobody is left halfway.

owned = Owned(native)
with owned.use() as native:
    native.run(...)
owned.close()  # waits for the body above

Threads do not survive a fork. A child that ran or freed an object whose threads stayed behind
would hang or crash (ONNX Runtime 1.32 does both), so in a child the object cannot be used and is
never freed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeseg.errors import DeviceError

_FORKED = (
    "this session was opened before the process forked, and its threads did not survive that; "
    "start workers with multiprocessing's 'spawn', or open a session in each"
)


class Owned:
    """One native object, its users, and why it cannot be used any more."""

    def __init__(self, native: Any) -> None:
        """Take ``native``; nobody else may keep it."""
        self._native = native
        self._users = 0
        self._changed = threading.Condition()
        self._over: str | None = None
        _alive.add(self)

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Give the object to the body; it is not freed before the body ends.

        Raises:
            DeviceError: the session is closed, lost, or of another process.
        """
        with self._changed:
            if self._over:
                raise DeviceError(self._over)
            native = self._native
            self._users += 1
        try:
            yield native
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def lose(self, reason: str) -> None:
        """Let every later ``use`` fail at once; the first reason stays."""
        with self._changed:
            self._over = self._over or reason

    def close(self) -> None:
        """Refuse new users, wait for those that are in, free the object; again does nothing."""
        self.lose("the session is closed; open a new one")
        with self._changed:
            self._changed.wait_for(lambda: not self._users)
            self._native = None

    def disown(self) -> None:
        """In a child process: never use and never free what belongs to the parent."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._native))
        self._native, self._users = None, 0
        self._changed = threading.Condition()  # another thread may have held it at the fork
        self._over = self._over or _FORKED


_alive: weakref.WeakSet[Owned] = weakref.WeakSet()


def _disown_all() -> None:
    for owned in list(_alive):
        owned.disown()


os.register_at_fork(after_in_child=_disown_all)
