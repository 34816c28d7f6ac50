"""Procedural indoor and outdoor scenes with ADE20K class ids: a data set without a download.

A scene is a function of (split, index, size) and has the same bytes on every machine, operating
system, processor and library version. So it uses integer arithmetic in NumPy alone, draws from
`numpy.random.RandomState` (whose stream is frozen, unlike that of `default_rng`) and rasterises its
own shapes: floating point and drawing libraries do not give that guarantee.

Objects are placed in a room or landscape in millimetres and seen through a pinhole camera, with
occlusion, textures in perspective, directional light, contact shadows and sensor noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import city, indoor, outdoor
from .canvas import Canvas
from .classes import SCENE_CLASSES
from .sensor import expose
from .textures import Dice

__all__ = ["SCENE_CLASSES", "SCENE_KINDS", "render_scene", "scene_kind"]

Scene = Callable[[Canvas, Dice], None]

_SCENES: dict[str, Scene] = {
    "living room": indoor.living_room,
    "street": city.street,
    "bedroom": indoor.bedroom,
    "park": outdoor.park,
    "kitchen": indoor.kitchen,
    "coast": outdoor.coast,
    "dining room": indoor.dining_room,
    "suburb": city.suburb,
    "mountain": outdoor.mountain,
    "cafe": indoor.cafe,
    "bus stop": city.bus_stop,
    "entrance hall": indoor.entrance_hall,
    "farmland": outdoor.farmland,
}
SCENE_KINDS: tuple[str, ...] = tuple(_SCENES)

_SIZES = (
    (256, 256),
    (240, 320),
    (320, 240),
    (192, 288),
    (256, 384),
    (288, 192),
    (288, 384),
    (384, 288),
)
_SEED = 20_170_808


def scene_kind(index: int, split: str = "train") -> str:
    """Kind of place of a scene; any len(SCENE_KINDS) consecutive indices show every kind once."""
    return SCENE_KINDS[(index + _key(split)) % len(SCENE_KINDS)]


def render_scene(
    index: int, split: str = "train", size: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render one scene.

    Args:
        index: Number of the scene in its split, >= 0.
        split: Any name; different names give different scenes.
        size: (height, width), each at least 16 pixels, or None for a size and orientation that
            the index selects.

    Returns:
        The image, uint8 (H, W, 3) RGB, and the class map, uint8 (H, W) with the zero-based ADE20K
        ids of SCENE_CLASSES. Every pixel has a class.
    """
    dice = Dice((_SEED, _key(split), index))
    chosen = dice.pick(_SIZES)
    height, width = chosen if size is None else size
    canvas = Canvas(height, width)
    _SCENES[scene_kind(index, split)](canvas, dice)
    return expose(canvas.image, dice), canvas.labels


def _key(split: str) -> int:
    return zlib.crc32(split.encode())
