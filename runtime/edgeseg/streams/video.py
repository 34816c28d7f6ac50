"""Segment a stream: decode, prepare, infer, draw and encode, each while the others work.

    with closing(open_source("street.mp4")) as source:
        with whole_video(Path("out.mp4"), source.rate, source.time_base) as video:
            outcome = segment_stream(source, segmenter, Wish(), video=video)
    print(outcome.report)

The frames of the result are the stream's, with the colours of the classes over them, at the same
times and in the same size. There is no sound in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgeSegError
from edgeseg.segmenter import Answer, Prepared, Segmenter
from edgeseg.streams.camera import LatestFrames
from edgeseg.streams.encode import Video, encodable
from edgeseg.streams.pipeline import Stages, pipelined
from edgeseg.streams.report import Meter, Report
from edgeseg.streams.source import Frame, Source
from edgeseg.streams.window import Window

if TYPE_CHECKING:
    import av

LATEST_DEPTH = 3  # one frame is prepared, one in the network, one drawn: none waits long


@dataclass(frozen=True)
class Wish:
    """How a stream is to be segmented.

    Attributes:
        alpha: weight of the class colours, 0..1.
        drop: always take the newest frame and drop those that came meanwhile.
        batch: frames per call of the network.
        frames: end after so many frames were taken.
        seconds: end after so many seconds of the stream.
    """

    alpha: float = 0.55
    drop: bool = False
    batch: int = 1
    frames: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a stream went; ``error`` ended it early if there is one, else ``stopped`` if true."""

    report: Report
    error: EdgeSegError | None
    stopped: bool


@dataclass(frozen=True)
class _Drawn:
    """A frame with its overlay, uint8 (H, W, 3) RGB, and the same for the encoder."""

    pixels: NDArray[np.uint8]
    encodable: av.VideoFrame | None


def segment_stream(
    source: Source,
    segmenter: Segmenter,
    wish: Wish,
    *,
    video: Video | None = None,
    window: Window | None = None,
    stop: threading.Event | None = None,
    advance: Callable[[int], object] = lambda frames: None,
) -> Outcome:
    """Segment a stream until it ends, breaks off, or somebody ends it.

    What was done until then is in ``video`` in any case, so that it can be finished.

    Args:
        source: an open stream.
        segmenter: runs in a thread of its own.
        wish: how.
        video: gets the frames.
        window: shows the frames; closing it ends the stream.
        stop: set from outside, it ends the stream after the next frame.
        advance: called with the number of frames done since the last call.
    """
    stop, meter = stop or threading.Event(), Meter()
    error: EdgeSegError | None = None
    with ExitStack() as stack:
        frames: Iterable[Frame] = takewhile(lambda _: not stop.is_set(), source.frames())
        latest = stack.enter_context(LatestFrames(frames)) if wish.drop else None
        taken = meter.count(_limited(latest or frames, wish, source))
        stages = _stages(segmenter, wish, video)
        depth = LATEST_DEPTH if wish.drop else None
        results = stack.enter_context(
            closing(pipelined(taken, stages, batch=wish.batch, depth=depth))
        )
        try:
            for done in results:
                if isinstance(done.outcome, EdgeSegError):
                    raise done.outcome
                go_on = _deliver(done.item, done.outcome, video, window)
                meter.done(done.item)
                advance(1)
                if not go_on:
                    stop.set()
                    break
        except EdgeSegError as raised:
            error = raised
        stopped = stop.is_set()
        stop.set()  # so that the source's thread ends with the next frame
    dropped = latest.dropped if latest else 0
    return Outcome(meter.report(dropped=dropped, damaged=source.damaged), error, stopped)


def _limited(frames: Iterable[Frame], wish: Wish, source: Source) -> Iterator[Frame]:
    chosen = islice(frames, wish.frames)
    if wish.seconds is None:
        return chosen
    end = wish.seconds / float(source.time_base)
    return takewhile(lambda frame: frame.pts < end, chosen)


def _stages(
    segmenter: Segmenter, wish: Wish, video: Video | None
) -> Stages[Frame, Prepared, Answer, _Drawn]:
    def prepare(frame: Frame) -> Prepared:
        return segmenter.prepare(frame.rgb())

    def finish(_: Frame, answer: Answer) -> _Drawn:
        pixels = np.asarray(segmenter.finish(answer).overlay(wish.alpha))
        return _Drawn(pixels, encodable(pixels, video.encoder) if video else None)

    return Stages(prepare, segmenter.infer, finish)


def _deliver(frame: Frame, drawn: _Drawn, video: Video | None, window: Window | None) -> bool:
    """Write and show a frame; False when the window was closed."""
    if video is not None and drawn.encodable is not None:
        video.write(drawn.encodable, frame.pts)
    return window is None or window.show(drawn.pixels)
