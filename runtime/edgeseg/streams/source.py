"""What a stream is, and opening one: a video file, a network stream or a camera.

with closing(open_source("rtsp://camera/1")) as source:
    for frame in source.frames():
        frame.rgb()  # uint8 (H, W, 3)

video.mp4         a file (mp4, mov, mkv, webm, avi, ts ...)
rtsp://HOST/PATH  a network stream; also rtsps, rtp, udp, srt, rtmp, http and https
/dev/video0       a V4L2 camera
csi://0           a CSI camera of a Jetson, by its sensor id
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import UsageError, show

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mjpeg", ".h264", ".h265"),
)
LIVE_SCHEMES = ("rtsp", "rtsps", "rtp", "udp", "srt", "rtmp")
SCHEMES = (*LIVE_SCHEMES, "http", "https", "csi")

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CAMERA = re.compile(r"/dev/video\d+")
_SECRET = re.compile(r"(?<=://)[^/]*@")


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        pts: when it is to be shown, in units of the source's ``time_base``; the first frame has
            0, and every frame more than the one before.
        arrived: ``time.perf_counter()`` when it came out of the camera or the decoder.
        rgb: returns uint8 (H, W, 3) RGB, upright; may be called in any thread, converts each time.
    """

    pts: int
    arrived: float
    rgb: Callable[[], NDArray[np.uint8]]


class Source(Protocol):
    """An open stream.

    Attributes:
        name: for messages, without user name and password.
        live: comes in real time and has no end of its own.
        rate: frames per second, as the stream declares them.
        time_base: seconds per unit of ``Frame.pts``.
        expected: number of frames, None where the stream does not say.
        damaged: packets that could not be decoded so far; a live stream goes on after them.
        has_audio: whether there is sound, which nobody reads.
    """

    name: str
    live: bool
    rate: Fraction
    time_base: Fraction
    expected: int | None
    damaged: int
    has_audio: bool

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown; one thread at a time.

        Raises:
            InputError: the stream broke off or is damaged.
        """

    def close(self) -> None:
        """Free the decoder or the camera; calling it again does nothing."""


class Timeline:
    """Gives every frame a time: the first 0, each later than the one before."""

    def __init__(self, step: int) -> None:
        """Count in units of a time base; ``step`` is the usual distance of two frames."""
        self._step = step
        self._last: int | None = None
        self._start = 0

    def place(self, pts: int | None) -> int:
        """Return the time of the next frame, which the stream says is ``pts``.

        A stream that gives no time, repeats one or begins anew goes on a step after the last.
        """
        if self._last is None:
            time = 0
        elif pts is None or pts - self._start <= self._last:
            time = self._last + self._step
        else:
            time = pts - self._start
        if pts is not None:
            self._start = pts - time
        self._last = time
        return time


def is_stream(word: str) -> bool:
    """Whether a source on the command line is a stream; everything else is pictures.

    Raises:
        UsageError: an address of a kind that nothing here reads.
    """
    if address := _ADDRESS.match(word):
        if (scheme := address[1].lower()) not in SCHEMES:
            raise UsageError(
                f"cannot read {show(redacted(word))}: no streams of kind {scheme}; "
                f"known are {', '.join(SCHEMES)}"
            )
        return True
    path = Path(word)
    named = path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()
    return named or bool(_CAMERA.fullmatch(word))


def is_local(word: str) -> bool:
    """Whether a stream is a file, not an address or a camera."""
    return not (_ADDRESS.match(word) or _CAMERA.fullmatch(word))


def open_source(word: str) -> Source:
    """Open a stream.

    Raises:
        InputError: it is not there, does not answer, or holds no video.
        DeviceError: the package that reads it is missing or lacks the means.
    """
    from edgeseg.streams.csi import CsiCamera, sensor_of
    from edgeseg.streams.decode import open_address

    if (sensor := sensor_of(word)) is not None:
        return CsiCamera(sensor)
    if _CAMERA.fullmatch(word):
        return open_address(word, word, format="v4l2", live=True)
    if address := _ADDRESS.match(word):
        scheme = address[1].lower()
        options = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
        live = scheme in LIVE_SCHEMES
        return open_address(word, redacted(word), options=options, live=live)
    return open_address(f"file:{word}", word)  # with a prefix, because 12:30.mp4 is no address


def redacted(address: str) -> str:
    """Return an address without the user name and password that it may hold."""
    return _SECRET.sub("", address)
