"""A picture on its way: what the segmenter's stages hand from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.images import ImageSource
from edgeseg.preprocess import Preprocessing
from edgeseg.restore import Ranked, rank_smooth, resize_margin


@dataclass(frozen=True)
class Prepared:
    """A picture on its way to the network.

    Attributes:
        original: uint8 (H, W, 3) RGB, or where it was decoded in less detail the source itself.
        size: (H, W) of the original.
        pixels: uint8 (h, w, 3), the network's input.
        preprocessing: how ``pixels`` came from the original, at the size (h, w).
        timings_ms: ``decode`` and ``pre``.
        name: the picture's file name, "" where it does not come from a file.
    """

    original: ImageSource
    size: tuple[int, int]
    pixels: NDArray[np.uint8]
    preprocessing: Preprocessing
    timings_ms: dict[str, float]
    name: str = ""


@dataclass(frozen=True)
class Answer:
    """What the network said of a picture, at the network's size.

    Attributes:
        prepared: the picture.
        class_map: uint8 (h, w).
        timings_ms: ``decode``, ``pre`` and ``compute``.
        margin: float32 (h, w), the confidence; None unless asked for.
        logits: float32 (C, h, w); None unless they will be interpolated.
    """

    prepared: Prepared
    class_map: NDArray[np.uint8]
    timings_ms: dict[str, float]
    margin: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None

    def restored(self) -> Ranked:
        """Return the class map, and the margin where there is one, at the picture's own size."""
        rules, size = self.prepared.preprocessing, self.prepared.size
        shown = rules.place(*size).window
        if self.logits is not None:
            visible = self.logits[(slice(None), *shown)]
            return rank_smooth(visible, *size, margin=self.margin is not None)
        class_map = rules.restore_class_map(self.class_map, *size)
        if self.margin is None:
            return Ranked(class_map)
        return Ranked(class_map, resize_margin(self.margin[shown], *size))
