"""The camera behind the lens: exposure, colour temperature, softness, vignette and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .canvas import IntArray
from .textures import Dice

Light = NDArray[np.uint16]


def expose(image: IntArray, dice: Dice) -> NDArray[np.uint8]:
    """Turn scene colours, int32 (3, H, W) around 0..255, into a photo, uint8 (H, W, 3) RGB."""
    _, height, width = image.shape
    brightness, warmth = dice.between(116, 138), dice.between(-7, 7)
    light = np.clip(image, 0, 255).astype(np.uint16)
    falloff = _vignette(height, width)
    for plane, gain in zip(
        light, (brightness + warmth, brightness, brightness - warmth), strict=True
    ):
        # At most 255 * 145, which 16 bits hold: half the memory of the canvas, twice the speed.
        plane *= falloff * gain >> 7
        plane >>= 7
    grain = dice.bytes((4, height, width)).astype(np.int16)
    grain = (grain[:3] + grain[3] - 255) * dice.between(6, 12) >> 8
    noisy = np.clip(_soften(light).view(np.int16) + grain, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(noisy.transpose(1, 2, 0))


def _vignette(height: int, width: int) -> Light:
    """Brightness 104..128 that falls off towards the corners, uint16 (H, W)."""
    down = (2 * np.arange(height, dtype=np.int32) - height)[:, None] * 64 // height
    across = (2 * np.arange(width, dtype=np.int32) - width)[None, :] * 64 // width
    return (128 - (down * down * 24 >> 13) - (across * across * 24 >> 13)).astype(np.uint16)


def _soften(light: Light) -> Light:
    """Blur with (1 2 1) / 4 in both directions: no lens gives edges one pixel wide."""
    tall = light * 2
    tall[:, 1:] += light[:, :-1]
    tall[:, :-1] += light[:, 1:]
    tall[:, 0] += light[:, 0]
    tall[:, -1] += light[:, -1]
    wide = tall * 2
    wide[..., 1:] += tall[..., :-1]
    wide[..., :-1] += tall[..., 1:]
    wide[..., 0] += tall[..., 0]
    wide[..., -1] += tall[..., -1]
    wide >>= 4
    return wide
