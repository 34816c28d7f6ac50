"""Image to tensor and back, once for all stages.

The exported graph takes uint8 NHWC and normalises inside, so what remains here is
fitting a picture of any size into the network's. Training evaluation, calibration, parity,
runtime and benchmarks call the same functions; therefore their numbers are comparable.

    stretch     to the network's size, whatever the picture's shape
    letterbox   as large as fits, centred, the rest filled with the mean colour
    none        pixel by pixel, at the top left, the rest filled with the mean colour
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgeseg.errors import InputError, UsageError, show
from edgeseg.images import ImageSource, read_image, read_reduced
from edgeseg.labels import IGNORE_INDEX

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 8192

Positive = Annotated[float, Field(gt=0)]
ResizeRule = Literal["stretch", "letterbox", "none"]
Decode = Literal["full", "draft"]  # draft: JPEGs in no more detail than the network needs


@dataclass(frozen=True)
class Placement:
    """The part of the network's input that shows the picture, in pixels of the input."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns, to index (H, W) arrays with."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


class Preprocessing(BaseModel):
    """How an image becomes the network's input; stored in run folders and bundles.

    The graph computes ``(pixel / 255 - mean) / std`` per RGB channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height: int = Field(ge=1, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    resize: ResizeRule = "stretch"
    decode: Decode = "full"
    interpolation: Literal["bilinear"] = "bilinear"  # Pillow's: antialiased when shrinking
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD

    @property
    def size(self) -> tuple[int, int]:
        """The network's (height, width)."""
        return self.height, self.width

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour around a picture that does not cover the input: it normalises to about 0."""
        red, green, blue = (round(255 * channel) for channel in self.mean)
        return red, green, blue

    def at(self, size: tuple[int, int]) -> Preprocessing:
        """Return the same preprocessing for another (height, width)."""
        return self.model_copy(update={"height": size[0], "width": size[1]})

    def place(self, height: int, width: int) -> Placement:
        """Return where a picture of this size goes.

        Raises:
            InputError: the rule is ``none`` and the picture is larger than the network's size.
        """
        if self.resize == "stretch":
            return Placement(0, 0, self.height, self.width)
        if self.resize == "none":
            if height > self.height or width > self.width:
                raise InputError(
                    f"a picture of {height}x{width} does not fit the network's {self.height}x"
                    f"{self.width}, and its pixels are not to be resized; cut it into tiles"
                )
            return Placement(0, 0, height, width)
        scale = min(self.height / height, self.width / width)
        shown = max(1, round(height * scale)), max(1, round(width * scale))
        return Placement((self.height - shown[0]) // 2, (self.width - shown[1]) // 2, *shown)

    def read(self, source: ImageSource) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Decode a picture as these rules say.

        Returns:
            uint8 (h, w, 3) RGB, and the (H, W) of the whole picture: the same, unless ``decode`` is
            ``draft`` and the picture is a JPEG that is larger than the network needs.

        Raises:
            InputError: see ``edgeseg.images.read_image``.
        """
        if self.decode == "full":
            image = read_image(source)
            return image, image.shape[:2]
        return read_reduced(source, self._shown)

    def _shown(self, height: int, width: int) -> tuple[int, int]:
        placement = self.place(height, width)
        return placement.height, placement.width

    def fit_image(
        self, image_hwc_u8: NDArray[np.uint8], whole: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Return the network's input, uint8 (height, width, 3), for a uint8 (h, w, 3) image.

        ``whole`` is the (H, W) of the picture where the image shows it in less detail.

        Raises:
            InputError: see ``place``.
        """
        placement = self.place(*(whole or image_hwc_u8.shape[:2]))
        resized = resize_image(image_hwc_u8, placement.height, placement.width)
        if resized.shape[:2] == self.size:
            return resized
        padded = np.full((*self.size, 3), self.fill, dtype=np.uint8)
        padded[placement.window] = resized
        return padded

    def fit_class_map(self, class_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a truth (H, W) as the network should see it: (height, width), 255 around it."""
        placement = self.place(*class_map.shape)
        resized = resize_class_map(class_map, placement.height, placement.width)
        if resized.shape == self.size:
            return resized
        whole = np.full(self.size, IGNORE_INDEX, dtype=np.uint8)
        whole[placement.window] = resized
        return whole

    def restore_class_map(
        self, class_map: NDArray[np.uint8], height: int, width: int
    ) -> NDArray[np.uint8]:
        """Return the network's class map (height, width) at the size of the picture, (H, W)."""
        shown = class_map[self.place(height, width).window]
        return resize_class_map(shown, height, width)


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``HxW`` (``512x512``, or ``512`` for a square) into (height, width).

    Raises:
        UsageError: not two whole numbers between 1 and 8192.
    """
    parts = text.lower().split("x")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) < 9 for p in parts):
        raise UsageError(f"size {show(text)} is not HEIGHTxWIDTH, for example 512x512")
    height, width = int(parts[0]), int(parts[1])
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UsageError(f"size {show(text)} is outside 1 .. {MAX_SIDE}")
    return height, width


def resize_image(image_hwc_u8: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Stretch a uint8 (H, W, 3) image to (height, width, 3) with Pillow's bilinear filter."""
    if image_hwc_u8.shape[:2] == (height, width):
        return image_hwc_u8
    resized = Image.fromarray(image_hwc_u8).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_class_map(class_map: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a uint8 (H, W) class map; nearest, because class ids must not be mixed."""
    if class_map.shape == (height, width):
        return class_map
    contiguous = np.ascontiguousarray(class_map)
    resized = Image.fromarray(contiguous).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)
