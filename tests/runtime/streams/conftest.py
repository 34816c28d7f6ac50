"""Videos that PyAV writes, cameras that yield what a test wants, a network that a test drives."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.segmenter import Segmenter
from edgeseg.streams.source import Frame

Pixels = NDArray[np.uint8]
WriteVideo = Callable[..., Path]
ReadVideo = Callable[[Path], list[tuple[Fraction, Pixels]]]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Write pictures as a video: ``write_video("a.mp4", pictures, times_ms=..., rotation=...)``."""
    av = pytest.importorskip("av", reason="needs PyAV, the extra [video]")

    def write(
        name: str,
        pictures: Sequence[Pixels],
        *,
        times_ms: Sequence[int] | None = None,
        rotation: int = 0,
        audio: bool = False,
        codec: str = "libx264",
        container: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        times = times_ms or [40 * i for i in range(len(pictures))]
        height, width = pictures[0].shape[:2]
        with av.open(f"file:{path}", "w", options=container or {}) as file:
            stream = file.add_stream(codec, rate=25)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            if codec == "libx264":
                stream.codec_context.options = {"crf": "10"}
            if rotation and not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a display matrix")
            if rotation:
                stream.set_display_rotation(rotation)
            sound = file.add_stream("aac", rate=16000) if audio else None
            for pixels, at in zip(pictures, times, strict=True):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = at, Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
            if sound is not None:
                zeros = np.zeros((1, 1024), np.float32)
                silence = av.AudioFrame.from_ndarray(zeros, format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 16000, 0
                file.mux(sound.encode(silence))
                file.mux(sound.encode())
        return path

    return write


@pytest.fixture
def read_video() -> ReadVideo:
    """Decode all of a video, without our code: the time in seconds and the pixels of each frame."""
    av = pytest.importorskip("av", reason="needs PyAV, the extra [video]")

    def read(path: Path) -> list[tuple[Fraction, Pixels]]:
        with av.open(str(path)) as file:
            return [
                (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
                for frame in file.decode(video=0)
            ]

    return read


@dataclass
class FakeCamera:
    """A source that yields what ``pictures`` gives, until that ends; see ``Source``."""

    pictures: Iterator[Pixels]
    live: bool = True
    name: str = "rtsp://camera/1"
    rate: Fraction = Fraction(25)
    time_base: Fraction = Fraction(1, 25)
    expected: int | None = None
    damaged: int = 0
    has_audio: bool = False
    closed: bool = False

    def frames(self) -> Iterator[Frame]:
        for i, pixels in enumerate(self.pictures):
            yield Frame(i, time.perf_counter(), partial(_same, pixels))

    def close(self) -> None:
        self.closed = True


def _same(pixels: Pixels) -> Pixels:
    return pixels


@dataclass
class FakeSession:
    """A network that calls ``meanwhile`` with its input and answers class 0; see ``Session``."""

    meanwhile: Callable[[Pixels], object] = lambda images: None
    backend: str = "fake"
    variant: str = "fp32"
    fallback: str | None = None
    seen: list[int] = field(default_factory=list)

    def infer(self, images_nhwc_u8: Pixels) -> Pixels:
        self.seen += images_nhwc_u8[:, 0, 0, 0].tolist()
        self.meanwhile(images_nhwc_u8)
        return np.zeros(images_nhwc_u8.shape[:3], np.uint8)

    def infer_logits(self, images_nhwc_u8: Pixels) -> NDArray[np.float32]:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture
def fake_segmenter(tiny_bundle: Path) -> Callable[[Any], Segmenter]:
    """Give a segmenter that runs on a session of the test's."""
    manifest = Bundle.open(tiny_bundle).manifest
    return lambda session: Segmenter(session, manifest.labels, manifest.preprocessing)


@pytest.fixture
def fake_camera() -> type[FakeCamera]:
    """A camera for what a test wants to see: ``fake_camera(pictures)``."""
    return FakeCamera


@pytest.fixture
def fake_session() -> type[FakeSession]:
    """A network that a test drives: ``fake_session(meanwhile)``."""
    return FakeSession


def _transport_stream(pictures: Sequence[Pixels]) -> bytes:
    import av

    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "10", "tune": "zerolatency"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return data.getvalue()


class RtspCamera:
    """An RTSP server (RFC 2326) for one client: MPEG-TS in RTP packets in its connection.

    After the pictures it hangs up, or with ``stalls`` says nothing more until it is closed.
    """

    SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
    ANSWERS = (
        ("DESCRIBE", f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n", SDP),
        ("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", b""),
    )

    def __init__(self, pictures: Sequence[Pixels], *, stalls: bool) -> None:
        self._data, self._stalls = _transport_stream(pictures), stalls
        self._closed = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://user:secret@127.0.0.1:{self._server.getsockname()[1]}/1"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # the client or the test has gone
            client, _ = self._server.accept()
            with client, client.makefile("rwb") as file:
                while request := file.readline().decode().split():
                    self._answer(file, request[0])

    def _answer(self, file: Any, method: str) -> None:
        headers = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        extra, body = next(((e, b) for name, e, b in self.ANSWERS if name == method), ("", b""))
        file.write(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}\r\n".encode() + body)
        file.flush()
        if method == "PLAY":
            self._play(file)

    def _play(self, file: Any) -> None:
        for number, start in enumerate(range(0, len(self._data), 7 * 188)):
            packet = struct.pack(">BBHII", 0x80, 33, number, 50 * start, 1)
            packet += self._data[start : start + 7 * 188]
            file.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
            file.flush()
            self._closed.wait(0.002)
        if self._stalls:
            self._closed.wait(20)
        raise OSError("hangs up")

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._server.close()
        self._thread.join()


@pytest.fixture
def rtsp_camera() -> Iterator[Callable[..., RtspCamera]]:
    """Start an RTSP server on this machine: ``rtsp_camera(pictures, stalls=False)``."""
    pytest.importorskip("av", reason="needs PyAV, the extra [video]")
    cameras: list[RtspCamera] = []

    def start(pictures: Sequence[Pixels], *, stalls: bool) -> RtspCamera:
        cameras.append(RtspCamera(pictures, stalls=stalls))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.close()
