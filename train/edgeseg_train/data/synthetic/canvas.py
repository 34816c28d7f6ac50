"""Integer raster primitives: a canvas of colours and class ids, and the shapes painted on it.

Everything is int32/int64 arithmetic on purpose. Floating-point results depend on the CPU, the
compiler and the library version in their last bits, and drawing libraries change their edge rules
between releases; integers do not, so a scene has the same bytes on every machine. For the same
reason every array names its dtype: NumPy's default integer is not the same on all systems.

Positions are in 1/16 pixel, with pixel (i, j) centred at (16 i + 8, 16 j + 8).
Brightness levels and gains are in 1/128: 128 leaves a colour as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
RGB = tuple[int, int, int]
Point = tuple[int, int]
Level = int | IntArray

UNIT = 16
FULL = 128
BLACK: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Shape:
    """Pixels of one shape: a window of the canvas, and a mask in it (None means all of it)."""

    top: int
    bottom: int
    left: int
    right: int
    mask: BoolArray | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices of the rows and columns of the window."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def rows(self) -> IntArray:
        """Pixel rows of the window, int32 (h, 1)."""
        return np.arange(self.top, self.bottom, dtype=np.int32)[:, None]

    @property
    def cols(self) -> IntArray:
        """Pixel columns of the window, int32 (1, w)."""
        return np.arange(self.left, self.right, dtype=np.int32)[None, :]

    def only(self, mask: BoolArray) -> Shape:
        """The part of this shape where mask, bool (h, w), is true."""
        both = mask if self.mask is None else self.mask & mask
        return Shape(self.top, self.bottom, self.left, self.right, both)


class Canvas:
    """Colours, int32 (3, H, W) around 0..255, and class ids, uint8 (H, W).

    Colour planes come first because NumPy's inner loops run along the last axis.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self.image: IntArray = np.zeros((3, height, width), dtype=np.int32)
        self.labels: NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)

    def blend(self, shape: Shape, label: int | None, dark: RGB, light: RGB, level: Level) -> None:
        """Paint the mix of two colours, level 0 = dark .. 128 = light; label None keeps labels."""
        for plane, low, high in zip(self.image, dark, light, strict=True):
            value = low + ((high - low) * level >> 7)
            _assign(plane[shape.window], value, shape.mask)
        if label is not None:
            _assign(self.labels[shape.window], label, shape.mask)

    def paint(self, shape: Shape, label: int | None, colour: RGB, level: Level = FULL) -> None:
        """Paint a colour at a brightness level; label None keeps the class ids."""
        self.blend(shape, label, BLACK, colour, level)

    def relight(self, shape: Shape, gain: Level) -> None:
        """Darken or brighten what is painted; light and shadow never change class ids."""
        for plane in self.image:
            part = plane[shape.window]
            _assign(part, part * gain >> 7, shape.mask)

    def rectangle(self, x0: int, y0: int, x1: int, y1: int) -> Shape:
        """Pixels whose centres lie in [x0, x1) x [y0, y1)."""
        left, right = _span(x0, x1, self.width)
        top, bottom = _span(y0, y1, self.height)
        return Shape(top, bottom, left, right)

    def polygon(self, points: Sequence[Point]) -> Shape:
        """Pixels of a convex polygon, corners in either turning direction."""
        box, xs, ys = self._grid(points)
        sign = 1 if _doubled_area(points) >= 0 else -1
        mask: BoolArray = np.ones((box.bottom - box.top, box.right - box.left), dtype=np.bool_)
        for (xa, ya), (xb, yb) in zip(points, [*points[1:], points[0]], strict=True):
            if xa == xb:
                mask &= sign * (yb - ya) * (xs - xa) <= 0
            elif ya == yb:
                mask &= sign * (xb - xa) * (ys - ya) >= 0
            else:
                mask &= sign * (xb - xa) * (ys - ya) >= sign * (yb - ya) * (xs - xa)
        return box.only(mask)

    def ellipse(self, x: int, y: int, a: int, b: int) -> Shape:
        """Pixels of an axis-parallel ellipse with centre (x, y) and half axes a, b."""
        box, xs, ys = self._grid([(x - a, y - b), (x + a, y + b)])
        return box.only(((xs - x) * b) ** 2 + ((ys - y) * a) ** 2 <= (a * b) ** 2)

    def _grid(self, points: Sequence[Point]) -> tuple[Shape, LongArray, LongArray]:
        across = [x for x, _ in points]
        down = [y for _, y in points]
        box = self.rectangle(min(across), min(down), max(across) + 1, max(down) + 1)
        # Corners behind the frame lie far outside it: their products need 64 bits.
        xs = box.cols.astype(np.int64) * UNIT + UNIT // 2
        ys = box.rows.astype(np.int64) * UNIT + UNIT // 2
        return box, xs, ys


def radial(shape: Shape, x: int, y: int, a: int, b: int) -> IntArray:
    """Squared distance from (x, y) in units of the half axes, 4096 on the rim; int32 (h, w)."""
    across = (shape.cols * UNIT + (UNIT // 2 - x)) * 64 // max(a, 1)
    down = (shape.rows * UNIT + (UNIT // 2 - y)) * 64 // max(b, 1)
    return across * across + down * down


def _span(start: int, stop: int, limit: int) -> tuple[int, int]:
    low = min(max((start + 7) >> 4, 0), limit)
    return low, min(max((stop + 7) >> 4, low), limit)


def _doubled_area(points: Sequence[Point]) -> int:
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    return sum(xa * yb - xb * ya for (xa, ya), (xb, yb) in pairs)


def _assign(
    target: NDArray[np.int32] | NDArray[np.uint8], value: Level, mask: BoolArray | None
) -> None:
    if mask is None:
        target[...] = value
    else:
        np.copyto(target, value, where=mask)
