"""A window on the screen that shows a stream, through OpenCV (``--show``).

with Window("street") as window:
    while window.show(pixels):
        ...
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DeviceError, first_line

_CLOSING_KEYS = (27, ord("q"))  # Esc, q


class Window:
    """A window; Esc, q or its close button end the stream. One thread only, the main one."""

    def __init__(self, title: str) -> None:
        """Open the window.

        Raises:
            DeviceError: no screen, no OpenCV, or one without windows.
        """
        # Without this check the toolkits under OpenCV abort the whole process.
        if sys.platform == "linux" and not _has_screen():
            raise DeviceError(
                "--show needs a screen, and neither DISPLAY nor WAYLAND_DISPLAY is set; "
                "leave --show out and watch the file"
            )
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise DeviceError(
                "--show needs OpenCV, which is not installed; run: pip install opencv-python"
            ) from error
        self._cv2, self._title = cv2, title
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise DeviceError(
                f"this OpenCV cannot open windows ({first_line(error)}); "
                "opencv-python can, opencv-python-headless cannot"
            ) from error

    def show(self, pixels: NDArray[np.uint8]) -> bool:
        """Show uint8 (H, W, 3) RGB; return False when the user closed the window."""
        self._cv2.imshow(self._title, pixels[..., ::-1])
        key = self._cv2.waitKey(1) & 0xFF
        visible = self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1
        return visible and key not in _CLOSING_KEYS

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cv2.destroyAllWindows()


def _has_screen() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
