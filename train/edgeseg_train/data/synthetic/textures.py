"""Surface textures as integer functions of position, and the random draws of a scene.

A texture maps two position arrays in millimetres on its surface to a brightness level around 128
(1/128 steps), so that it follows perspective with the surface. Irregular ones read a periodic noise
tile. The tile and all draws come from `numpy.random.RandomState`, whose stream NumPy has frozen,
with explicit integer dtypes; `default_rng` streams may change between NumPy releases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .canvas import FULL, RGB, IntArray

T = TypeVar("T")
Texture = Callable[[IntArray, IntArray], IntArray]

_TILE_BITS = 8
_TILE_MASK = (1 << _TILE_BITS) - 1
_BLOCK = 256


class Dice:
    """Integer random draws of one scene, fixed by its seed."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._state = np.random.RandomState(list(seed))
        self._drawn: list[int] = []

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        if not self._drawn:
            self._drawn = self._state.randint(0, 1 << 31, _BLOCK, dtype=np.int64).tolist()
        return low + self._drawn.pop() % (high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in percent of 100 draws."""
        return self.between(0, 99) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.between(0, len(items) - 1)]

    def colour(self, items: Sequence[RGB], spread: int = 10) -> RGB:
        """One of the colours, each channel moved by up to spread."""
        red, green, blue = self.pick(items)
        return (self._near(red, spread), self._near(green, spread), self._near(blue, spread))

    def bytes(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Independent values 0..255, uint8 of the given shape."""
        return self._state.randint(0, 256, shape, dtype=np.uint8)

    def _near(self, value: int, spread: int) -> int:
        return min(max(value + self.between(-spread, spread), 0), 255)


def noise(u: IntArray, v: IntArray) -> IntArray:
    """Smooth noise, about -64..63, int32; repeats every 256 steps of u and of v."""
    return _TILE.take(((v & _TILE_MASK) << _TILE_BITS) | (u & _TILE_MASK))


def soft_noise(u: IntArray, v: IntArray) -> IntArray:
    """Noise for enlargement: u and v in 1/16 of its steps, bilinear between them, int32."""
    left, top, right, below = u >> 4, v >> 4, u & 15, v & 15
    upper = noise(left, top) * (16 - right) + noise(left + 1, top) * right
    lower = noise(left, top + 1) * (16 - right) + noise(left + 1, top + 1) * right
    mixed: IntArray = upper * (16 - below) + lower * below >> 8
    return mixed


def jitter(cell: IntArray) -> IntArray:
    """Unrelated values -64..63 for neighbouring integers, int32."""
    return _JITTER.take(cell & _TILE_MASK)


def plain(u: IntArray, v: IntArray) -> IntArray:
    """Painted or woven surface: faint blotches."""
    return FULL + (noise(u >> 4, v >> 4) >> 3)


def boards(u: IntArray, v: IntArray) -> IntArray:
    """Floor boards that run along v, with grain, joints and a tone for each board."""
    board = u // 190
    gap = (u % 190 < 16) | ((v + jitter(board) * 40) % 1600 < 16)
    wood = 122 + (jitter(board) >> 2) + (noise(u >> 3, v >> 6) >> 2)
    return np.where(gap, 84, wood)


def wood(u: IntArray, v: IntArray) -> IntArray:
    """Wood grain that runs along u."""
    return 124 + (noise(u >> 6, v >> 2) >> 2)


def gingham(u: IntArray, v: IntArray) -> IntArray:
    """Checked cloth: crossing bands of two widths of thread."""
    bands: IntArray = 108 + (u // 90 & 1) * 12 + (v // 90 & 1) * 12
    return bands + (noise(u >> 4, v >> 4) >> 4)


def tiles(size: int) -> Texture:
    """Square tiles of the given size with grout lines."""

    def texture(u: IntArray, v: IntArray) -> IntArray:
        joint = size // 18
        grout = (u % size < joint) | (v % size < joint)
        tone = 126 + (jitter(u // size * 7 + v // size * 31) >> 3)
        return np.where(grout, 94, tone + (noise(u >> 4, v >> 4) >> 3))

    return texture


def bricks(u: IntArray, v: IntArray) -> IntArray:
    """Brick courses, larger than life so that they survive a small image."""
    course = v // 240
    along = u + (course & 1) * 300
    mortar = (v % 240 < 45) | (along % 600 < 45)
    return np.where(mortar, 152, 116 + (jitter(along // 600 * 5 + course * 17) >> 2))


def siding(u: IntArray, v: IntArray) -> IntArray:
    """Horizontal boards of a house wall."""
    lap: IntArray = np.where(v % 300 < 60, 102, 126) + (noise(u >> 5, v >> 5) >> 4)
    return lap


def shingles(u: IntArray, v: IntArray) -> IntArray:
    """Rows of roof tiles."""
    row = v // 330
    along = u + (row & 1) * 200
    edge = (v % 330 < 70) | (along % 400 < 60)
    return np.where(edge, 96, 122 + (jitter(along // 400 + row * 13) >> 2))


def pleats(u: IntArray, v: IntArray) -> IntArray:
    """Folds of a hanging cloth: bright ridges along v."""
    fold = u + (noise(u >> 5, v >> 5) >> 1)
    return 88 + abs(fold % 180 - 90) * 60 // 90 + (noise(u >> 3, v >> 5) >> 4)


def asphalt(u: IntArray, v: IntArray) -> IntArray:
    """Fine grit with worn patches."""
    return 124 + (noise(u >> 4, v >> 4) >> 2) + (noise(u >> 7, v >> 8) >> 3)


def turf(u: IntArray, v: IntArray) -> IntArray:
    """Grass: tufts over larger patches."""
    return 118 + (noise(u >> 4, v >> 5) >> 1) + (noise(u >> 7, v >> 8) >> 2)


def crops(u: IntArray, v: IntArray) -> IntArray:
    """Rows of a field that run along v."""
    row = u % 1300
    level: IntArray = np.where(row < 420, 84, 128) + (noise(u >> 5, v >> 6) >> 2)
    return level


def dunes(u: IntArray, v: IntArray) -> IntArray:
    """Sand ripples."""
    return 122 + (noise(u >> 6, v >> 4) >> 2) + (noise(u >> 2, v >> 2) >> 3)


def _octave(state: np.random.RandomState, cell: int) -> IntArray:
    """Values -64..63 on a lattice, bilinear between its points, periodic; int32 (256, 256)."""
    side = (_TILE_MASK + 1) // cell
    grid = state.randint(-64, 64, (side, side), dtype=np.int32)
    steps = np.arange(cell, dtype=np.int32)
    for axis in (0, 1):
        following = np.roll(grid, -1, axis=axis)
        ramp = steps[None, :, None] if axis == 0 else steps[None, None, :]
        start = np.expand_dims(grid, axis + 1)
        mixed = (start * (cell - ramp) + np.expand_dims(following, axis + 1) * ramp) // cell
        grid = mixed.reshape((-1, grid.shape[1]) if axis == 0 else (grid.shape[0], -1))
    return grid


def _build_tile() -> IntArray:
    state = np.random.RandomState(20177)
    weights = {64: 3, 32: 4, 16: 4, 8: 4, 4: 3, 2: 3}
    total = np.zeros((_TILE_MASK + 1, _TILE_MASK + 1), dtype=np.int32)
    for cell, weight in weights.items():
        total += _octave(state, cell) * weight
    # The octaves partly cancel, so the sum is stretched back to the range of one of them.
    return np.clip(total // 8, -64, 63).astype(np.int32)


_TILE = _build_tile().ravel()
_JITTER = np.random.RandomState(150).randint(-64, 64, _TILE_MASK + 1, dtype=np.int32)
