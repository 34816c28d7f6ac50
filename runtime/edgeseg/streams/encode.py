"""Write a video, whole or not at all, with the times of its frames.

    with whole_video(Path("out.mp4"), rate, time_base) as video:
        video.write(encodable(pixels, video.encoder), pts)

H.264 for mp4, mov and mkv, VP9 for webm. The file gets its name when it is finished, so a file
that is there can be played.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, ResourceError, UsageError, needs_extra, show
from edgeseg.streams.decode import BT709, HD_HEIGHT, explain

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.video.stream import VideoStream

BT601 = 5  # FFmpeg's AVColorSpace
LIMITED_RANGE = 1  # 16..235, what players expect


@dataclass(frozen=True)
class Encoder:
    """An encoder, and options that favour speed at good quality."""

    name: str
    options: dict[str, str]


_H264 = Encoder("libx264", {"preset": "veryfast", "crf": "20"})
_VP9 = Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "7", "crf": "30", "b": "0"})
ENCODERS = {".mp4": _H264, ".mov": _H264, ".mkv": _H264, ".webm": _VP9}


def check_video_name(target: Path) -> None:
    """Check that a video can be written under this name.

    Raises:
        UsageError: another suffix than those of ``ENCODERS``.
    """
    if target.suffix.lower() not in ENCODERS:
        raise UsageError(
            f"output {show(target)} is no name for a video; expected one that ends in "
            f"{', '.join(ENCODERS)}"
        )


def encodable(pixels: NDArray[np.uint8], encoder: Encoder) -> av.VideoFrame:
    """Return uint8 (H, W, 3) RGB as a frame that an encoder takes.

    Both colour planes have half the size, as players expect, where the size is even or the encoder
    can round up; H.264 cannot, so it gets whole planes rather than a picture that lacks a row.
    """
    import av

    height, width = pixels.shape[:2]
    odd = height % 2 or width % 2
    whole = odd and encoder is _H264
    return av.VideoFrame.from_numpy_buffer(pixels, format="rgb24").reformat(
        format="yuv444p" if whole else "yuv420p",
        dst_colorspace=colorspace(height),
        dst_color_range=LIMITED_RANGE,
    )


def colorspace(height: int) -> int:
    """Return how a video of this height stores colours, as players assume."""
    return BT709 if height >= HD_HEIGHT else BT601


class Video:
    """A video file that is being written; see ``whole_video``."""

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction) -> None:
        """Write to ``path``; nothing is created before the first frame."""
        self.encoder = ENCODERS[path.suffix.lower()]
        self._path, self._rate, self._time_base = path, rate, time_base
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def write(self, picture: av.VideoFrame, pts: int) -> None:
        """Encode one frame; ``pts`` in units of the time base, later than the frame before.

        Raises:
            InputError: the frame has another size than the first.
            ResourceError: the file cannot be written.
        """
        stream = self._stream or self._begin(picture)
        if (picture.width, picture.height) != (stream.width, stream.height):
            raise InputError(
                f"the stream changes its size from {stream.width}x{stream.height} to "
                f"{picture.width}x{picture.height}; a video has one size"
            )
        picture.pts, picture.time_base = pts, self._time_base
        self._mux(picture)

    def _begin(self, picture: av.VideoFrame) -> VideoStream:
        import av

        self._container = av.open(f"file:{self._path}", "w")
        stream = self._container.add_stream(
            self.encoder.name, rate=self._rate, options=dict(self.encoder.options)
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = picture.width, picture.height
        stream.pix_fmt = picture.format.name
        stream.codec_context.time_base = self._time_base
        stream.codec_context.colorspace = colorspace(picture.height)
        stream.codec_context.color_range = LIMITED_RANGE
        self._stream = stream
        return stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._stream is not None
        assert self._container is not None
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> bool:
        """Write what the encoder still holds and close the file; False if there was no frame."""
        if self._container is None:
            return False
        self._mux(None)
        self._container.close()
        return True

    def close(self) -> None:
        """Close the file as it is; after ``finish`` this does nothing."""
        if self._container is not None:
            self._container.close()


@contextmanager
def whole_video(target: Path, rate: Fraction, time_base: Fraction) -> Iterator[Video]:
    """Give a video to write; it becomes ``target`` when the body succeeds and wrote a frame.

    Args:
        target: the file; the parent folder must exist.
        rate: frames per second, for the encoder; the times of the frames may differ.
        time_base: seconds per unit of the frames' times.

    Raises:
        DeviceError: PyAV is not installed.
        ResourceError: the file cannot be written.
    """
    with needs_extra("video"):
        import av

    unique = f"{os.getpid()}-{threading.get_ident()}"
    # The suffix stays last, because it tells FFmpeg the format.
    temporary = target.with_name(f".{target.stem[:40]}.partial-{unique}{target.suffix}")
    video = Video(temporary, rate, time_base)
    try:
        yield video
        if video.finish():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
    except av.FFmpegError as error:
        raise ResourceError(f"cannot write {show(target)}: {explain(error)}") from error
    finally:
        with suppress(av.FFmpegError):  # the disk is full, which is what brought us here
            video.close()
        temporary.unlink(missing_ok=True)
