"""Frames of files, network streams and V4L2 cameras, through PyAV (FFmpeg).

source = open_address("file:street.mp4", "street.mp4")
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, needs_extra, show
from edgeseg.streams.source import Frame, Timeline

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
HD_HEIGHT = 720  # untagged video from here on is BT.709, below it BT.601
DEFAULT_RATE = Fraction(30)

UNSPECIFIED, BT709 = 2, 1  # FFmpeg's AVColorSpace


def open_address(
    address: str,
    name: str,
    *,
    format: str | None = None,  # noqa: A002 - PyAV's own name
    options: dict[str, str] | None = None,
    live: bool = False,
) -> AvSource:
    """Open what FFmpeg can open.

    Args:
        address: for FFmpeg.
        name: for messages.
        format: FFmpeg's name of the input format, where the address does not say.
        options: FFmpeg's.
        live: decode each frame at once, and go on after damage.

    Raises:
        InputError: it is not there, does not answer within 10 s, or holds no video.
        DeviceError: PyAV is not installed.
    """
    with needs_extra("video"):
        import av
    timeout = None if address.startswith("file:") else (OPEN_TIMEOUT_S, READ_TIMEOUT_S)
    start = time.monotonic()
    try:
        container = av.open(address, "r", format, options or {}, timeout=timeout)
    except (av.FFmpegError, ValueError) as error:
        # FFmpeg reports a timeout as whatever it was doing at that time.
        late = timeout is not None and time.monotonic() - start >= OPEN_TIMEOUT_S
        reason = f"no answer within {OPEN_TIMEOUT_S:g} s" if late else explain(error)
        raise InputError(f"cannot open {show(name)}: {reason}") from error
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        container.close()
        raise InputError(f"{show(name)} holds no video")
    return AvSource(container, stream, name, live=live)


def explain(error: Exception) -> str:
    """Return FFmpeg's reason in a few words; its own message repeats the address."""
    import av

    if isinstance(error, av.error.ExitError):  # what PyAV's timeouts look like
        return f"nothing came for {READ_TIMEOUT_S:g} s"
    return str(getattr(error, "strerror", None) or error)


class AvSource:
    """A stream that FFmpeg decodes; see ``Source``."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, name: str, *, live: bool
    ) -> None:
        """Take an open container and the one of its streams to read."""
        self.name = name
        self.live = live
        self.rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        self.time_base = stream.time_base or 1 / self.rate
        self.expected = stream.frames or None
        self.damaged = 0
        self.has_audio = bool(container.streams.audio)
        self._container, self._stream = container, stream
        # Decoding several frames at once is faster, and makes each of them late.
        stream.thread_type = "SLICE" if live else "AUTO"

    def frames(self) -> Iterator[Frame]:
        """See ``Source``."""
        import av

        timeline = Timeline(max(1, round(1 / (self.rate * self.time_base))))
        count = 0
        try:
            for picture in self._pictures():
                yield Frame(
                    timeline.place(picture.pts), time.perf_counter(), partial(to_rgb, picture)
                )
                count += 1
        except (av.FFmpegError, _DamagedError) as error:
            raise InputError(
                f"{show(self.name)} is damaged or broke off after {count} frames: {explain(error)}"
            ) from error
        if not count:
            raise InputError(f"{show(self.name)} holds no frame that can be decoded")

    def _pictures(self) -> Iterator[av.VideoFrame]:
        import av

        for packet in self._container.demux(self._stream):
            damage = "a packet is cut short" if packet.is_corrupt else None
            try:
                pictures = packet.decode()
            except av.error.InvalidDataError as error:
                pictures, damage = [], explain(error)
            yield from pictures
            if damage and not self.live:
                yield from self._stream.codec_context.decode(None)  # what the decoder still holds
                raise _DamagedError(damage)
            self.damaged += damage is not None

    def close(self) -> None:
        """Free the decoder; calling it again does nothing."""
        self._container.close()


class _DamagedError(Exception):
    """A file cannot be decoded any further, because of this."""


def to_rgb(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Return a decoded picture as uint8 (H, W, 3) RGB, turned as its display matrix says."""
    untagged_hd = picture.colorspace == UNSPECIFIED and picture.height >= HD_HEIGHT
    matrix = BT709 if untagged_hd else None  # None: as the picture is tagged, else BT.601
    pixels = np.asarray(picture.to_ndarray(format="rgb24", src_colorspace=matrix), dtype=np.uint8)
    turns = round(picture.rotation / 90) % 4  # counterclockwise, as of numpy's rot90
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
