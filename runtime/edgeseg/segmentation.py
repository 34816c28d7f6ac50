"""The answer for one picture: class map, coverage, confidence, mask file, overlay.

``edgeseg.outputs`` writes it in more formats.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import UsageError, show
from edgeseg.files import atomic_write
from edgeseg.images import ImageSource, read_image
from edgeseg.labels import Labels

# zlib's default, 6, takes 2.6 times as long for a mask and saves a sixth of its bytes.
COMPRESS_LEVEL = 3


@dataclass(frozen=True)
class Segmentation:
    """What the model saw in one image.

    Attributes:
        class_map: uint8 (H, W) at the size of the original image, ids 0 .. C-1.
        labels: names and colours of the ids.
        original: the picture, decoded or not; see ``image``.
        timings_ms: milliseconds per stage: ``decode``, ``pre``, ``compute``, ``post``.
            In a batch, ``compute`` is the batch's time divided by its size.
        confidence: float32 (H, W), how far the best class is ahead of the second best, in logits,
            0 or more; None unless the segmenter was loaded with ``confidence=True``.
        name: the picture's file name, "" where it did not come from a file.
    """

    class_map: NDArray[np.uint8]
    labels: Labels
    original: ImageSource
    timings_ms: dict[str, float]
    confidence: NDArray[np.float32] | None = None
    name: str = ""

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The picture, uint8 (H, W, 3) RGB; decoded now if the network needed less detail.

        Raises:
            InputError: its file is not there any more.
        """
        return read_image(self.original)

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the image per class found, 0..1, largest first."""
        counts = np.bincount(self.class_map.ravel(), minlength=self.labels.num_classes)
        order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (-counts[i], i))
        return {self.labels.names[i]: float(counts[i] / self.class_map.size) for i in order}

    def mask(self) -> Image.Image:
        """Return the class map as a palette image: pixel values are ids, colours are for eyes."""
        return palette_image(self.class_map, self.labels)

    def overlay(self, alpha: float = 0.55) -> Image.Image:
        """Return the image with the class colours blended over it; ``alpha`` 0..1 is their weight.

        Raises:
            UsageError: alpha is outside 0..1.
        """
        if not 0 <= alpha <= 1:
            raise UsageError(f"overlay alpha {alpha} is outside 0..1")
        return Image.blend(Image.fromarray(self.image), self.mask().convert("RGB"), alpha)

    def save(self, path: str | Path) -> None:
        """Write the class map as a palette PNG: pixel values are class ids.

        Raises:
            UsageError: the name does not end in .png (other formats would change ids).
        """
        save_png(self.mask(), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return size, coverage and timings as plain values."""
        height, width = self.class_map.shape
        return {
            "height": height,
            "width": width,
            "coverage": {name: round(share, 6) for name, share in self.coverage.items()},
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
        }

    def to_json(self) -> str:
        """Return ``to_dict`` as one JSON document."""
        return json.dumps(self.to_dict())


def palette_image(class_map: NDArray[np.uint8], labels: Labels) -> Image.Image:
    """Return a mode-P image of a uint8 (H, W) class map with the labels' colours; 255 is black."""
    image = Image.fromarray(class_map).convert("L")
    colors = bytes(channel for color in labels.palette for channel in color)
    image.putpalette(colors.ljust(768, b"\0"))  # all 256: with fewer, PNG would cut high ids off
    return image


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, whole or not at all; the parent folder must exist.

    Raises:
        UsageError: the name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"output {show(path)} must end in .png: other formats change class ids")
    atomic_write(path, encode_png(image))


def encode_png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file; ids and colours come back exactly.

    In a colour picture little repeats but neighbouring pixels: looking for more than runs takes
    five times as long and saves a fiftieth of the bytes.
    """
    buffer = io.BytesIO()
    strategy = zlib.Z_RLE if image.mode == "RGB" else zlib.Z_DEFAULT_STRATEGY
    image.save(buffer, format="PNG", compress_level=COMPRESS_LEVEL, compress_type=strategy)
    return buffer.getvalue()
