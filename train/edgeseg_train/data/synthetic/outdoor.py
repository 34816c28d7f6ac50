"""Open country: park, coast, mountain meadow and farmland."""

from __future__ import annotations

from . import classes as ids
from . import nature, traffic
from .buildings import house
from .canvas import FULL, RGB, Canvas
from .stage import Plane
from .textures import Dice, crops, dunes

FIELDS: tuple[RGB, ...] = ((222, 184, 62), (212, 170, 54))
SANDS: tuple[RGB, ...] = ((232, 208, 158), (226, 198, 146))
WATERS: tuple[RGB, ...] = ((34, 104, 132), (28, 92, 128), (40, 116, 130))
ROCKS: tuple[RGB, ...] = ((112, 104, 132), (104, 104, 124))


def park(canvas: Canvas, dice: Dice) -> None:
    """Lawn with a winding path, trees and people."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(1700, 2000), (380, 460))
    nature.treeline(stage, 36_000, 7000)
    nature.lawn(stage)
    side = dice.pick((-1, 1))
    centre = (side * dice.between(200, 700), -side * dice.between(3000, 6000))
    nature.trail(stage, centre, dice.between(2400, 3000), 26_000)
    for z in (21_000, 15_000, 10_500):
        for edge in (-1, 1):
            if dice.chance(70):
                reach = stage.reach(z)[0 if edge < 0 else 1]
                x = reach * dice.between(45, 95) // 100
                nature.leafy_tree(stage, x, z, dice.between(5500, 8000))
    traffic.person(stage, side * dice.between(100, 700), dice.between(4000, 5000))
    if dice.chance(50):
        traffic.person(stage, -side * dice.between(1100, 1700), dice.between(5000, 6500))


def coast(canvas: Canvas, dice: Dice) -> None:
    """Beach with the sea to the horizon, sailing boats, a headland, people."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(2300, 2900), (360, 450))
    if dice.chance(50):
        nature.mountains(stage, dice.between(250, 420), dice.colour(ROCKS), 40, 2000)
    nature.ground(stage, ids.SAND, dice.colour(SANDS, 8), dunes)
    shore = dice.between(7500, 10_500)
    nature.sea(stage, dice.colour(WATERS, 8), shore)
    places = [dice.between(14, 38), dice.between(62, 86)]
    for z, chance in ((32_000, 60), (dice.between(18_000, 24_000), 100)):
        if dice.chance(chance):
            low, high = stage.reach(z)
            x = low + (high - low) * places.pop(dice.between(0, len(places) - 1)) // 100
            traffic.boat(stage, x, z, dice.between(7000, 8500))
    if dice.chance(70):
        low, high = stage.reach(5200)
        x = low + (high - low) * dice.between(15, 85) // 100
        traffic.person(stage, x, dice.between(4700, 5600))


def mountain(canvas: Canvas, dice: Dice) -> None:
    """Snow-capped range over a meadow with spruces and a trail."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(2000, 2600), (480, 580))
    nature.mountains(stage, dice.between(620, 760), dice.colour(ROCKS), 40, dice.between(430, 520))
    if dice.chance(50):
        nature.mountains(stage, dice.between(300, 400), dice.colour(ROCKS), 0, 2000)
    nature.lawn(stage)
    side = dice.pick((-1, 1))
    centre = (side * dice.between(300, 1200), -side * dice.between(3000, 7000))
    nature.trail(stage, centre, dice.between(2200, 2800), 24_000)
    for z in (26_000, 20_000, 15_000, 11_000):
        for edge in (0, 1):
            if dice.chance(70):
                x = stage.reach(z)[edge] * dice.between(40, 100) // 100
                nature.conifer(stage, x, z, dice.between(5500, 8500))


def farmland(canvas: Canvas, dice: Dice) -> None:
    """Crop rows that run to the horizon, a farmhouse, trees, hills or a wood behind."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(2000, 2600), (400, 480))
    if dice.chance(60):
        nature.mountains(stage, dice.between(260, 420), dice.colour(ROCKS), 40, 2000)
    nature.treeline(stage, 60_000, 7000)
    nature.lawn(stage)
    nature.ground(stage, ids.FIELD, dice.colour(FIELDS, 8), crops, (1000, 16_500))
    z = dice.between(17_500, 20_000)
    low, high = stage.reach(z)
    edge = dice.pick((low, high))
    middle = edge * 55 // 100
    house(stage, (middle - 3900, middle + 3900), z)
    nature.leafy_tree(stage, -edge * dice.between(40, 80) // 100, z, dice.between(6000, 8500))
    if dice.chance(50):
        track, gravel = Plane("y", 0), dice.colour(nature.GRAVEL, 6)
        stage.surface(track, (-1300, 1300), (500, 40_000), ids.PATH, gravel, FULL, dunes)
