"""Sky, ground, water, mountains and trees of the outdoor scenes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from . import classes as ids
from .canvas import FULL, RGB, Canvas, IntArray, Shape
from .stage import Plane, Range, Stage
from .textures import Dice, Texture, dunes, noise, soft_noise, turf

SKIES: tuple[tuple[RGB, RGB], ...] = (
    ((206, 226, 246), (78, 138, 222)),
    ((224, 232, 240), (120, 160, 212)),
    ((246, 222, 196), (110, 146, 206)),
    ((214, 222, 232), (150, 172, 200)),
)
GRASS: tuple[RGB, ...] = ((92, 150, 52), (84, 142, 50), (102, 154, 58))
GRAVEL: tuple[RGB, ...] = ((208, 160, 118), (196, 150, 116))
GROUND = Plane("y", 0)


def outdoor_stage(canvas: Canvas, dice: Dice, eye: int, horizon: Range) -> Stage:
    """Stage under an open sky; horizon is a range in 1/1000 of the height."""
    focal = (canvas.height + canvas.width) * dice.between(44, 50) // 100
    stage = Stage(canvas, dice, focal, canvas.height * dice.between(*horizon) // 1000, eye)
    sky(stage)
    return stage


def sky(stage: Stage) -> None:
    """Gradient from the horizon to the zenith with drifting clouds, over the whole frame."""
    canvas, dice = stage.canvas, stage.dice
    low, high = dice.pick(SKIES)
    shape = Shape(0, min(stage.horizon + 2, canvas.height), 0, canvas.width)
    up = np.maximum(stage.horizon - shape.rows, 1)
    canvas.blend(shape, ids.SKY, low, high, np.minimum(up * 160 // stage.horizon, FULL))
    # Clouds lie on a level sheet overhead, so they flatten towards the horizon.
    sheet = stage.horizon * 640 // (up + stage.horizon // 6)
    across = (shape.cols - stage.middle) * sheet // canvas.height
    puffs = soft_noise(across + dice.between(0, 4095), sheet * 2 + dice.between(0, 4095))
    cover = np.clip((puffs - dice.between(-8, 28)) * 4, 0, 110)
    for plane in canvas.image:
        part = plane[shape.window]
        part += (250 - part) * cover >> 7


def ground(stage: Stage, label: int, colour: RGB, texture: Texture, z: Range | None = None) -> None:
    """Level ground from the horizon to the lower border, or between two depths."""
    canvas = stage.canvas
    top, bottom = stage.horizon, canvas.height
    if z is not None:
        rise = stage.focal * stage.eye
        top, bottom = min(top + rise // z[1], bottom), min(top + rise // z[0], bottom)
    shape = Shape(top, bottom, 0, canvas.width)
    a, b = stage.positions(GROUND, shape)
    canvas.paint(shape, label, colour, haze(texture(a, b), b))


def haze(level: IntArray, z: IntArray) -> IntArray:
    """Texture contrast that fades with distance, where pixels are wider than its details."""
    return FULL + ((level - FULL) * np.minimum(12_000 * 128 // z, 128) >> 7)


def lawn(stage: Stage) -> None:
    """Grass up to the horizon."""
    ground(stage, ids.GRASS, stage.dice.colour(GRASS, 8), turf)


def trail(stage: Stage, centre: Range, width: int, far: int) -> None:
    """Winding gravel path from x = centre[0] at the camera to centre[1] at depth far."""
    canvas = stage.canvas
    shape = Shape(stage.horizon, canvas.height, 0, canvas.width)
    a, z = stage.positions(GROUND, shape)
    near = np.minimum(z, far)
    # 0 at the camera to 2**14 at the far end, where the way runs straight on.
    bend = (near * 128 // far) * ((2 * far - near) * 128 // far)
    middle = centre[0] + ((centre[1] - centre[0]) * bend >> 14)
    edge = abs(a - middle) + noise(a >> 4, z >> 4)
    way = shape.only((edge < width // 2) & (z < far))
    canvas.paint(way, ids.PATH, stage.dice.colour(GRAVEL, 6), haze(dunes(a, z), z))


def sea(stage: Stage, colour: RGB, shore: int) -> None:
    """Water up to the horizon with wave crests, glitter and a foam line on the beach."""
    canvas = stage.canvas
    shape = Shape(stage.horizon, canvas.height, 0, canvas.width)
    a, z = stage.positions(GROUND, shape)
    line = shore + ridge(stage, 4, 1000) * 2
    wet = shape.only(z > line)
    waves = noise(a >> 6, z >> 4) + noise(a >> 8, z >> 6)
    level = 116 + (haze(FULL + waves, z) - FULL >> 1) + np.minimum(z >> 11, 24)
    canvas.paint(wet, ids.SEA, colour, level)
    foam = wet.only(z < line + 700 + noise(a >> 6, z >> 6) * 9)
    canvas.paint(foam, None, (232, 240, 240), 120 + (noise(a >> 3, z >> 3) >> 2))


def mountains(stage: Stage, height: int, rock: RGB, haze_share: int, snow: int) -> None:
    """Range along the horizon: ridge line, lit and shaded slopes, snow above a level.

    height and snow are in 1/1000 of the part of the frame above the horizon.
    """
    canvas, dice = stage.canvas, stage.dice
    shape = Shape(0, min(stage.horizon + 2, canvas.height), 0, canvas.width)
    peaks = ridge(stage, dice.between(4, 6), 1000)
    top = stage.horizon - stage.horizon * height * (peaks + 350) // 1_350_000
    below = (shape.rows - top) * 1000 // stage.horizon
    u = shape.cols * 600 // max(canvas.width, canvas.height) + dice.between(0, 255)
    # Folds of the rock run down the slopes, away from the peaks.
    fold = noise(u + (below * stage.sun >> 3), (below >> 4) + (peaks >> 5))
    slope = fold + (noise(u, below >> 2) >> 1)
    level = 104 + (slope * 3 >> 2) * stage.contrast // 24
    body = shape.only(below >= 0)
    pale = tuple(c + (200 - c) * haze_share // 128 for c in rock)
    canvas.paint(body, ids.MOUNTAIN, (pale[0], pale[1], pale[2]), level)
    cap = (stage.horizon - shape.rows) * 1000 // stage.horizon > snow + (slope << 1)
    canvas.paint(body.only(cap), None, (240, 244, 252), 112 + (slope >> 2))


def ridge(stage: Stage, peaks: int, height: int) -> IntArray:
    """Jagged profile 0..height for each column, int32 (1, W): midpoints displaced ever less."""
    dice, width = stage.dice, stage.canvas.width
    heights = [height * (dice.between(0, 35) + 60 * (i & 1)) // 100 for i in range(peaks + 1)]
    rough = height * 2 // 3
    while len(heights) < 200:
        rough = rough * 55 // 100
        middles = [(a + b + dice.between(-rough, rough)) // 2 for a, b in pairwise(heights)]
        pairs = zip(heights, [*middles, 0], strict=True)
        heights = [value for pair in pairs for value in pair][:-1]
    profile = np.clip(np.array(heights, dtype=np.int32), 0, height)
    at = np.arange(width, dtype=np.int32) * ((len(heights) - 1) * 16) // width
    left, part = at >> 4, at & 15
    row: IntArray = (profile[left] * (16 - part) + profile[left + 1] * part) >> 4
    return row[None, :]


def treeline(stage: Stage, z: int, height: int) -> None:
    """Distant wood: a ragged dark band behind everything else on the ground."""
    canvas = stage.canvas
    top = stage.horizon - stage.focal * (height - stage.eye) // z
    foot = min(stage.horizon + stage.focal * stage.eye // z + 1, canvas.height)
    tall = max(foot - top, 1)
    shape = Shape(max(top - tall // 2, 0), foot, 0, canvas.width)
    scale = 9_000 // max(canvas.width, canvas.height)
    u, v = shape.cols * scale, shape.rows * scale
    start = stage.dice.between(0, 255)
    rim = top + (500 - ridge(stage, 14, 500)) * tall // 900
    crowns = noise(u + start, v + start)
    wood = shape.only(shape.rows >= rim + (crowns * tall >> 9))
    lift = (foot - shape.rows) * 44 // tall
    canvas.blend(wood, ids.TREE, (26, 58, 34), (94, 134, 66), 24 + lift + crowns)


def leafy_tree(stage: Stage, x: int, z: int, height: int, y: int = 0) -> None:
    """Broad-leaved tree: trunk and a crown of several overlapping leafy balls."""
    radius = height * 30 // 100
    stage.shadow((x - radius, x + radius), (z - 600, z + 600), 60, 900, y)
    half = max(height // 22, 120)
    foot = [(x - half * 4 // 3, y), (x + half * 4 // 3, y)]
    trunk = stage.outline(z, [*foot, (x + half, y + height // 2), (x - half, y + height // 2)])
    stage.canvas.paint(trunk, ids.TREE, (104, 78, 56), stage.rounded(z, trunk, x, half))
    dark: RGB = (14, 44, 18)
    light = stage.dice.colour([(96, 142, 56), (108, 140, 52), (84, 136, 64)], 8)
    balls = ((0, 62, 30), (-52, 52, 24), (54, 50, 24), (-28, 74, 25), (30, 76, 24), (2, 86, 17))
    for across, up, share in balls:
        wiggle = stage.dice.between(-4, 4)
        centre = x + across * height * 40 // 10_000 + wiggle * height // 100
        size = (share * height * 9 // 1000, share * height * 8 // 1000)
        up_mm = y + (up + wiggle // 2) * height // 100
        stage.blob(z, centre, up_mm, size, ids.TREE, dark, light)


def conifer(stage: Stage, x: int, z: int, height: int) -> None:
    """Spruce: a short trunk and four ragged tiers."""
    stage.shadow((x - height // 6, x + height // 6), (z - 400, z + 400), 60, 700)
    stage.surface(
        Plane("z", z),
        (x - height // 30, x + height // 30),
        (0, height // 6),
        ids.TREE,
        (86, 64, 48),
    )
    for low, high, half in ((10, 46, 24), (30, 64, 20), (50, 82, 15), (68, 100, 10)):
        wide = half * height // 100
        tier = stage.outline(
            z,
            [
                (x - wide, low * height // 100),
                (x + wide, low * height // 100),
                (x, high * height // 100),
            ],
        )
        a, b = stage.positions(Plane("z", z), tier)
        needles = noise(a * 400 // height, b * 300 // height)
        ragged = tier.only(abs(a - x) * 100 < wide * (100 + needles))
        lit = (a - x) * stage.sun * 34 // wide
        stage.canvas.blend(ragged, ids.TREE, (10, 40, 26), (70, 116, 64), 56 + lit + needles)
