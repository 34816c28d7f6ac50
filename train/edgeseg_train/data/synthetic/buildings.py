"""City blocks and family houses."""

from __future__ import annotations

import numpy as np

from . import classes as ids
from .canvas import RGB, IntArray, Point
from .stage import Plane, Range, Stage
from .textures import Texture, bricks, jitter, noise, plain, shingles, siding

FACADES: tuple[RGB, ...] = ((176, 124, 100), (190, 168, 140), (164, 148, 136), (186, 140, 112))
HOUSES: tuple[RGB, ...] = ((236, 216, 176), (232, 206, 158), (240, 224, 192))
ROOFS: tuple[RGB, ...] = ((132, 62, 50), (120, 58, 56))
EAVES = 3000
RIDGE = 5400


def facade(height: int, storey: int, bay: int, brick: bool) -> Texture:
    """Wall with a grid of windows over shops, and a cornice; u along the street, v upwards."""

    def texture(u: IntArray, v: IntArray) -> IntArray:
        wall = bricks(u, v) if brick else plain(u, v)
        pane = (u % bay > bay // 4) & (u % bay < bay * 3 // 4)
        pane = pane & (v % storey > storey // 4) & (v % storey < storey * 4 // 5)
        glass = 52 + (jitter(u // bay * 3 + v // storey * 11) >> 1)
        shop = np.where(u % (bay * 2) < bay * 2 - 500, 56 + (noise(u >> 5, v >> 5) >> 3), 150)
        ledge = np.where(v % storey < 160, 146, np.where(pane, glass, wall))
        ledge = np.where(v > height - 600, 158, ledge)
        return np.where(v < storey * 9 // 10, shop, ledge)

    return texture


def building(stage: Stage, x: Range, z: Range, height: int) -> None:
    """City block with storeys of windows over a shop floor and a cornice."""
    dice = stage.dice
    storey, bay = dice.between(3000, 3400), dice.between(2200, 3000)
    texture = facade(height, storey, bay, dice.chance(50))
    stage.box(x, (0, height), z, ids.BUILDING, dice.colour(FACADES, 12), texture)


def house(stage: Stage, x: Range, z: int) -> None:
    """Family house: boarded walls, windows, a door, a tiled roof, a chimney."""
    stage.shadow(x, (z, z + 6000), 70, 900)
    flue, depth = (x[1] - 1700, x[1] - 900), (z + 3000, z + 3600)
    stage.box(flue, (EAVES, RIDGE + 700), depth, ids.HOUSE, (150, 80, 64), bricks)
    walls = stage.dice.colour(HOUSES, 8)
    stage.box(x, (0, EAVES), (z, z + 7000), ids.HOUSE, walls, siding)
    _roof(stage, x, z - 300, walls)
    _house_front(stage, x, Plane("z", z))


def _roof(stage: Stage, x: Range, z: int, walls: RGB) -> None:
    """Roof slope that faces the camera, or a gable under the edge of a roof."""
    sixth, middle = (x[1] - x[0]) // 6, (x[0] + x[1]) // 2

    def cover(points: list[Point], colour: RGB, texture: Texture) -> None:
        shape = stage.outline(z, points)
        level = texture(*stage.positions(Plane("z", z), shape))
        stage.canvas.paint(shape, ids.HOUSE, colour, level)

    tiled = stage.dice.colour(ROOFS)
    brim = [(x[0] - 500, EAVES - 150), (x[1] + 500, EAVES - 150)]
    if stage.dice.chance(50):
        cover([*brim, (x[1] - sixth, RIDGE), (x[0] + sixth, RIDGE)], tiled, shingles)
    else:
        cover([*brim, (middle, RIDGE + 500)], tiled, shingles)
        gable = [(x[0] + 400, EAVES), (x[1] - 400, EAVES), (middle, RIDGE - 150)]
        cover(gable, walls, siding)


def _house_front(stage: Stage, x: Range, face: Plane) -> None:
    tenth, middle = (x[1] - x[0]) // 10, (x[0] + x[1]) // 2
    door = middle + stage.dice.between(-600, 600)
    stage.surface(face, (door - 550, door + 550), (0, 2250), ids.HOUSE, (120, 44, 40))
    for pane in ((x[0] + tenth, door - 1100), (door + 1100, x[1] - tenth)):
        stage.surface(face, pane, (850, 2350), ids.HOUSE, (250, 250, 244))
        half = (pane[0] + pane[1]) // 2
        for glass in ((pane[0] + 120, half - 50), (half + 50, pane[1] - 120)):
            stage.surface(face, glass, (970, 2230), ids.HOUSE, (76, 92, 116))
