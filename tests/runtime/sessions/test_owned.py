"""Closing waits for who is inside; what is over stays over, and why is said."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from edgeseg.errors import DeviceError
from edgeseg.sessions.owned import Owned

CLOSED = "the session is closed; open a new one"


class Native:
    """Something that is freed when nobody holds it."""


def test_closing_frees_the_object_and_closing_again_does_nothing() -> None:
    native = Native()
    freed = weakref.ref(native)
    owned = Owned(native)
    del native
    with owned.use() as inside:
        assert inside is freed()
    del inside
    owned.close()
    gc.collect()
    assert freed() is None
    owned.close()
    with pytest.raises(DeviceError, match=CLOSED), owned.use():
        pass


def test_closing_waits_for_a_call_that_runs_and_refuses_new_ones() -> None:
    owned = Owned(Native())
    inside, leave, closed = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        with owned.use() as native:
            inside.set()
            assert leave.wait(30)
            assert isinstance(native, Native)

    def close() -> None:
        owned.close()
        closed.set()

    caller, closer = threading.Thread(target=call), threading.Thread(target=close)
    caller.start()
    assert inside.wait(30)
    closer.start()
    while owned._over is None:  # until the closer has begun
        pass
    with pytest.raises(DeviceError, match=CLOSED), owned.use():
        pass
    assert not closed.is_set()
    leave.set()
    closer.join(30)
    caller.join(30)
    assert closed.is_set()


def test_a_body_that_fails_does_not_keep_the_object_from_being_closed() -> None:
    owned = Owned(Native())
    with pytest.raises(ZeroDivisionError), owned.use():
        _ = 1 / 0
    owned.close()


def test_what_is_lost_says_why_for_ever() -> None:
    owned = Owned(Native())
    owned.lose("the GPU fell off the bus")
    owned.close()
    for _ in range(2):
        with pytest.raises(DeviceError, match="the GPU fell off the bus"), owned.use():
            pass
