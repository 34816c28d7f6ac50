"""Image to tensor, once for all stages.

The exported graph takes uint8 NHWC and normalises inside, so what remains here is
resizing. Training evaluation, calibration, parity, runtime and benchmarks call the
same function; therefore their numbers are comparable.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgeseg.errors import UsageError, show

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 8192

Positive = Annotated[float, Field(gt=0)]


class Preprocessing(BaseModel):
    """How an image becomes the network's input; stored in run folders and bundles.

    The graph computes ``(pixel / 255 - mean) / std`` per RGB channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height: int = Field(ge=1, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    resize: Literal["stretch"] = "stretch"
    interpolation: Literal["bilinear"] = "bilinear"  # Pillow's: antialiased when shrinking
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD


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
    resized = Image.fromarray(class_map).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)
