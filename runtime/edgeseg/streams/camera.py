"""The newest frame of a stream that is faster than the network: the others are dropped.

    with LatestFrames(source.frames()) as frames:
        for frame in frames:  # never older than the last one that came
            ...

A queue between a camera and a slower network would fill up, and from then on every frame would be
as old as the queue is long. This holds one frame.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from types import TracebackType

from edgeseg.streams.source import Frame


class LatestFrames:
    """Reads frames in a thread of its own and gives each reader the newest one.

    Attributes:
        dropped: frames that were replaced before anybody took them.
    """

    def __init__(self, frames: Iterable[Frame]) -> None:
        """Begin to read at once."""
        self.dropped = 0
        self._frames = frames
        self._latest: Frame | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="edgeseg-camera")
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._ended)
            frame, self._latest = self._latest, None
        if frame is not None:
            return frame
        raise self._error or StopIteration

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if self._closed:
                    break
                self._keep(frame)
        except BaseException as error:  # whatever it is, who takes the frames gets it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _keep(self, frame: Frame) -> None:
        with self._changed:
            self.dropped += self._latest is not None
            self._latest = frame
            self._changed.notify_all()

    def __enter__(self) -> LatestFrames:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading; waits for the frame that the source is at."""
        self._closed = True
        self._thread.join()
