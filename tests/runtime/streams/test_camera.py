"""A camera that is faster than the network: what is dropped, what is late, what is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.segmenter import Segmenter
from edgeseg.streams.camera import LatestFrames
from edgeseg.streams.source import Frame
from edgeseg.streams.video import LATEST_DEPTH, Wish, segment_stream

PATIENCE_S = 20.0
SPEED = 5  # frames that the camera takes while the network runs once
TOTAL = 100

Segmenters = Callable[[Any], Segmenter]


@dataclass
class Paced:
    """A camera on the network's clock: it takes ``SPEED`` frames during each run, not one more.

    Attributes:
        taken: frames so far; the first channel of each frame is its number.
        lags: for each run of the network, how many frames ago its frame was taken.
    """

    taken: int = 0
    lags: list[int] = field(default_factory=list)
    allowed: int = 1
    drop: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        while self.taken < TOTAL:
            with self.changed:
                assert self.changed.wait_for(lambda: self.taken < self.allowed, PATIENCE_S)
                self.taken += 1
                self.changed.notify_all()
            yield np.full((48, 64, 3), self.taken - 1, np.uint8)

    def run(self, images: NDArray[np.uint8]) -> None:
        with self.changed:
            self.lags.append(self.taken - 1 - int(images[0, 0, 0, 0]))
            self.allowed = min(TOTAL, self.allowed + SPEED)
            self.changed.notify_all()
            if self.drop:
                assert self.changed.wait_for(lambda: self.taken == self.allowed, PATIENCE_S)


def stream(
    paced: Paced, fake_camera: Any, fake_session: Any, fake_segmenter: Segmenters
) -> tuple[Any, Any]:
    camera, session = fake_camera(paced.pictures()), fake_session(paced.run)
    outcome = segment_stream(camera, fake_segmenter(session), Wish(drop=paced.drop))
    assert outcome.error is None
    return outcome.report, session


def test_with_drop_no_frame_is_old_and_the_dropped_are_counted(
    fake_camera: Any, fake_session: Any, fake_segmenter: Segmenters
) -> None:
    paced = Paced()
    report, session = stream(paced, fake_camera, fake_session, fake_segmenter)
    assert report.frames_in == TOTAL
    assert report.frames_done == len(session.seen) < TOTAL / 2
    assert report.frames_dropped == TOTAL - report.frames_done > 0
    assert session.seen == sorted(set(session.seen))
    # A frame may wait for those under way before it, and each of them takes SPEED frames' time.
    assert max(paced.lags) <= SPEED * LATEST_DEPTH
    assert session.seen[-1] == TOTAL - 1


def test_without_drop_every_frame_is_done_in_order(
    fake_camera: Any, fake_session: Any, fake_segmenter: Segmenters
) -> None:
    report, session = stream(Paced(drop=False), fake_camera, fake_session, fake_segmenter)
    assert session.seen == list(range(TOTAL))
    assert (report.frames_in, report.frames_done, report.frames_dropped) == (TOTAL, TOTAL, 0)


def frames(count: int) -> list[Frame]:
    return [Frame(i, 0.0, lambda: np.zeros((1, 1, 3), np.uint8)) for i in range(count)]


def test_the_newest_frame_is_given_and_the_others_are_dropped() -> None:
    given, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[Frame]:
        yield from frames(5)
        given.set()
        assert go_on.wait(PATIENCE_S)
        yield Frame(5, 0.0, lambda: np.zeros((1, 1, 3), np.uint8))

    with LatestFrames(source()) as latest:
        assert given.wait(PATIENCE_S)
        assert next(latest).pts == 4
        assert latest.dropped == 4
        go_on.set()
        assert next(latest).pts == 5
        assert list(latest) == []
    assert latest.dropped == 4


def test_the_last_frame_comes_before_the_error_that_ended_the_source() -> None:
    def source() -> Iterator[Frame]:
        yield from frames(1)
        raise InputError("unplugged")

    with LatestFrames(source()) as latest:
        assert next(latest).pts == 0
        with pytest.raises(InputError, match="unplugged"):
            next(latest)


def test_leaving_stops_an_endless_camera_and_its_thread() -> None:
    before = threading.active_count()

    def source() -> Iterator[Frame]:
        while True:
            yield from frames(1)

    with LatestFrames(source()) as latest:
        next(latest)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_packets_that_were_damaged_are_reported(
    fake_camera: Any, fake_session: Any, fake_segmenter: Segmenters
) -> None:
    camera = fake_camera(iter([np.zeros((48, 64, 3), np.uint8)]), damaged=7)
    outcome = segment_stream(camera, fake_segmenter(fake_session()), Wish())
    assert (outcome.report.frames_done, outcome.report.frames_damaged) == (1, 7)
