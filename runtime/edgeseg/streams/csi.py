"""A Jetson's CSI cameras, which FFmpeg cannot open: GStreamer through OpenCV.

print(gstreamer_pipeline(0))

JetPack's own OpenCV has GStreamer, the wheels on PyPI do not. A camera that works answers to
``gst-launch-1.0`` with the same pipeline, and ``fakesink`` in place of ``appsink ...``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DeviceError, InputError, UsageError, show
from edgeseg.streams.source import Frame, Timeline

# A mode that the usual sensors have (IMX219, IMX477).
WIDTH, HEIGHT, RATE = 1920, 1080, 30
MICROSECOND = Fraction(1, 1_000_000)


def sensor_of(word: str) -> int | None:
    """Return N of ``csi://N``, None for anything else.

    Raises:
        UsageError: N is no sensor id.
    """
    scheme, found, sensor = word.partition("://")
    if not found or scheme.lower() != "csi":
        return None
    if not re.fullmatch(r"[0-9]{1,2}", sensor):
        raise UsageError(f"{show(word)} names no camera; expected csi://N, for example csi://0")
    return int(sensor)


def gstreamer_pipeline(sensor: int) -> str:
    """Return the pipeline that gives frames of a CSI camera to OpenCV.

    ``nvarguscamerasrc`` hands frames over in the GPU's memory, and ``nvvidconv`` copies them out.
    The sink keeps one frame, the newest: a slow reader never sees an old one.
    """
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width={WIDTH}, height={HEIGHT}, framerate={RATE}/1 ! "
        "nvvidconv ! video/x-raw, format=BGRx ! "
        "videoconvert ! video/x-raw, format=BGR ! "
        "appsink max-buffers=1 drop=true sync=false"
    )


class CsiCamera:
    """A CSI camera; see ``Source``. Its times are those at which frames arrived."""

    def __init__(self, sensor: int) -> None:
        """Start the camera.

        Raises:
            DeviceError: no OpenCV, one without GStreamer, or GStreamer cannot open the camera.
        """
        self.name = f"csi://{sensor}"
        self.live, self.has_audio = True, False
        self.expected: int | None = None
        self.damaged = 0
        self.rate, self.time_base = Fraction(RATE), MICROSECOND
        self._capture = _capture(gstreamer_pipeline(sensor))
        if not self._capture.isOpened():
            self.close()
            raise DeviceError(
                f"GStreamer cannot open camera {self.name}; see whether nvarguscamerasrc finds it: "
                f"gst-launch-1.0 nvarguscamerasrc sensor-id={sensor} num-buffers=30 ! fakesink"
            )

    def frames(self) -> Iterator[Frame]:
        """See ``Source``."""
        timeline = Timeline(round(1 / (self.rate * self.time_base)))
        while True:
            good, pixels = self._capture.read()
            if not good:
                raise InputError(f"camera {self.name} gives no more frames")
            arrived = time.perf_counter()
            pts = timeline.place(int(arrived / self.time_base))
            yield Frame(pts, arrived, partial(_bgr_to_rgb, pixels))

    def close(self) -> None:
        """Stop the camera; calling it again does nothing."""
        self._capture.release()


def _capture(pipeline: str) -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise DeviceError(
            "a CSI camera needs OpenCV with GStreamer, and no OpenCV is installed; "
            "JetPack has it: use a virtual environment made with --system-site-packages"
        ) from error
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise DeviceError(
            "a CSI camera needs OpenCV with GStreamer, and this OpenCV has none; "
            "uninstall opencv-python so that JetPack's own is found"
        )
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)


def _bgr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[..., ::-1])
