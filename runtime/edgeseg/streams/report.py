"""What a stream cost: frames in, done and dropped, frames per second, latency.

meter = Meter()
...
meter.report(...).to_dict()
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeseg.streams.source import Frame

KEPT_LATENCIES = 100_000  # of the last frames: an hour at 30 frames per second


@dataclass(frozen=True)
class Report:
    """How a stream went.

    Attributes:
        frames_in: frames that the source gave.
        frames_done: frames that were segmented and written or shown.
        frames_dropped: frames that a newer one replaced before the network was free.
        frames_damaged: packets that a live stream sent and that could not be decoded.
        seconds: from the first frame that came to the last that was done.
        fps: frames done per second.
        latency_ms_p50, latency_ms_p90: from the moment when a frame came out of the camera or the
            decoder until it was written or shown; nearest rank, over the last 100,000 frames;
            None where no frame was done.
    """

    frames_in: int
    frames_done: int
    frames_dropped: int
    frames_damaged: int
    seconds: float
    fps: float
    latency_ms_p50: float | None
    latency_ms_p90: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, times rounded to microseconds."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        dropped = f", {self.frames_dropped} dropped" if self.frames_dropped else ""
        damaged = f", {self.frames_damaged} damaged" if self.frames_damaged else ""
        latency = (
            f"; latency p50 {self.latency_ms_p50:.0f} ms, p90 {self.latency_ms_p90:.0f} ms"
            if self.latency_ms_p50 is not None and self.latency_ms_p90 is not None
            else ""
        )
        return (
            f"{self.frames_done} of {self.frames_in} frames{dropped}{damaged} "
            f"in {self.seconds:.1f} s ({self.fps:.1f} frames/s{latency})"
        )


class Meter:
    """Counts frames and keeps their latencies; memory does not grow with the stream."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._taken = self._frames_done = 0
        self._first = self._last = 0.0
        self._latencies_ms: deque[float] = deque(maxlen=KEPT_LATENCIES)

    def count(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on, and count them as taken."""
        for frame in frames:
            if not self._taken:
                self._first = frame.arrived
            self._taken += 1
            yield frame

    def done(self, frame: Frame) -> None:
        """Count a frame that was written or shown just now."""
        self._last = time.perf_counter()
        self._frames_done += 1
        self._latencies_ms.append(1000 * (self._last - frame.arrived))

    def report(self, *, dropped: int, damaged: int) -> Report:
        """Return the figures up to now."""
        seconds = self._last - self._first if self._frames_done else 0.0
        ordered = sorted(self._latencies_ms)
        return Report(
            frames_in=self._taken + dropped,
            frames_done=self._frames_done,
            frames_dropped=dropped,
            frames_damaged=damaged,
            seconds=seconds,
            fps=self._frames_done / seconds if seconds else 0.0,
            latency_ms_p50=nearest_rank(ordered, 0.5) if ordered else None,
            latency_ms_p90=nearest_rank(ordered, 0.9) if ordered else None,
        )


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """Return the percentile x[ceil(n * share)], counted from 1, of sorted values."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
