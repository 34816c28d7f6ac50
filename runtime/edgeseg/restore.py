"""From logits to a class map and its confidence, at the network's size or at the picture's.

ranked = rank(logits_chw)
ranked = rank_smooth(logits_chw, 1080, 1920, margin=True)

``rank_smooth`` interpolates the logits and takes the best class after that, so that contours run
between the network's pixels. Bilinear with half-pixel centres: the centre of output pixel i lies
at (i + 0.5) * h / H - 0.5 of the input, the border continues outwards, and nothing is
antialiased when shrinking. It is what PyTorch's ``interpolate(mode="bilinear",
align_corners=False)``, ONNX's Resize (linear, half_pixel) and OpenCV's INTER_LINEAR compute.

150 classes at 12 megapixels would be 7 GB of interpolated logits. So the picture is done tile by
tile, and in each only for classes that can win there: an interpolated value lies between the lowest
and the highest of the network's values around, thus a class whose highest is below another one's
lowest has lost everywhere in the tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 128  # pixels per side: what is computed stays in the processor's cache


@dataclass(frozen=True)
class Ranked:
    """The best class per pixel, and by how much.

    Attributes:
        class_map: uint8 (H, W); of equal classes the lowest id.
        margin: float32 (H, W), the best logit minus the second best, 0 or more; inf where there is
            only one class. None where it was not asked for.
    """

    class_map: NDArray[np.uint8]
    margin: NDArray[np.float32] | None = None


def rank(logits_chw: NDArray[np.float32], *, margin: bool = False) -> Ranked:
    """Return the best class per pixel of logits, float32 (C, H, W)."""
    return rank_planes(enumerate(logits_chw), logits_chw.shape[1:], margin=margin)


def rank_smooth(
    logits_chw: NDArray[np.float32], height: int, width: int, *, margin: bool = False
) -> Ranked:
    """Return the best class per pixel of logits float32 (C, h, w), interpolated to (height, width).

    Beyond the results this needs a few megabytes, whatever the size.
    """
    if logits_chw.shape[1:] == (height, width):
        return rank(logits_chw, margin=margin)
    rows, columns = _axis(logits_chw.shape[1], height), _axis(logits_chw.shape[2], width)
    class_map = np.empty((height, width), dtype=np.uint8)
    margins = np.empty((height, width), dtype=np.float32) if margin else None
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            window = slice(top, top + TILE), slice(left, left + TILE)
            tile = _rank_tile(logits_chw, rows.part(window[0]), columns.part(window[1]), margin)
            class_map[window] = tile.class_map
            if margins is not None:
                margins[window] = tile.margin
    return Ranked(class_map, margins)


def resize_margin(margin: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize a float32 (h, w) margin map as class maps are: nearest, each value with its class."""
    if margin.shape == (height, width):
        return margin
    contiguous = np.ascontiguousarray(margin)
    resized = Image.fromarray(contiguous).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


def rank_planes(
    planes: Iterable[tuple[int, NDArray[np.float32]]],
    shape: tuple[int, ...],
    *,
    margin: bool = False,
) -> Ranked:
    """Rank (class id, logits) pairs given in the order of ids, one pass per class.

    numpy's argmax over the first axis takes ten times as long.
    """
    best = np.full(shape, -np.inf, dtype=np.float32)
    second = best.copy()
    winner = np.zeros(shape, dtype=np.uint8)
    for i, plane in planes:
        if margin:
            np.maximum(second, np.minimum(best, plane), out=second)
        np.copyto(winner, np.uint8(i), where=plane > best)
        np.maximum(best, plane, out=best)
    return Ranked(winner, best - second if margin else None)


@dataclass(frozen=True)
class _Axis:
    """Where along one axis each output pixel lies: between two input pixels, and how far."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]  # of the upper one, 0..1

    def part(self, window: slice) -> _Axis:
        return _Axis(self.lower[window], self.upper[window], self.weight[window])

    @property
    def reach(self) -> slice:
        """The input pixels that are needed."""
        return slice(int(self.lower[0]), int(self.upper[-1]) + 1)


def _axis(size: int, wanted: int) -> _Axis:
    center = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
    center = center.clip(0, size - 1)
    lower = np.floor(center).astype(np.intp)
    return _Axis(lower, np.minimum(lower + 1, size - 1), (center - lower).astype(np.float32))


def _rank_tile(
    logits_chw: NDArray[np.float32], rows: _Axis, columns: _Axis, margin: bool
) -> Ranked:
    around = logits_chw[:, rows.reach, columns.reach]
    ids = _candidates(around, 2 if margin else 1)
    planes = ((i, _interpolate(around[i], rows, columns)) for i in ids)
    return rank_planes(planes, (len(rows.lower), len(columns.lower)), margin=margin)


def _candidates(around: NDArray[np.float32], places: int) -> list[int]:
    """Return the ids of the classes that can take one of the first ``places`` anywhere here."""
    lowest, highest = around.min(axis=(1, 2)), around.max(axis=(1, 2))
    places = min(places, len(lowest))
    needed = np.partition(lowest, -places)[-places]
    found: list[int] = np.flatnonzero(~(highest < needed)).tolist()
    return found


def _interpolate(plane: NDArray[np.float32], rows: _Axis, columns: _Axis) -> NDArray[np.float32]:
    """Interpolate one class, from the part within ``reach``; first along the rows: fewer values."""
    left, top = columns.reach.start, rows.reach.start
    wide = _mix(plane[:, columns.lower - left], plane[:, columns.upper - left], columns.weight)
    return _mix(wide[rows.lower - top], wide[rows.upper - top], rows.weight[:, np.newaxis])


def _mix(
    lower: NDArray[np.float32], upper: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return ``lower + weight * (upper - lower)``; between equal values there is no rounding."""
    upper -= lower
    upper *= weight
    upper += lower
    return upper
