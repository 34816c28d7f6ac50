"""Streets: down a city street, across a city road with its bus stop, and in a suburb."""

from __future__ import annotations

from . import classes as ids
from . import nature, traffic
from .buildings import building, house
from .canvas import FULL, RGB, Canvas
from .stage import Plane, Range, Stage
from .textures import Dice, asphalt, dunes, plain, tiles

ASPHALT: tuple[RGB, ...] = ((88, 88, 94), (76, 78, 84))
PAVING: tuple[RGB, ...] = ((178, 172, 168), (164, 162, 160))


def street(canvas: Canvas, dice: Dice) -> None:
    """City street along the line of sight: blocks, sidewalks, traffic, people."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(1750, 2100), (400, 480))
    half, walk = dice.between(2700, 3200), dice.between(2200, 2800)
    nature.treeline(stage, 60_000, 9000)
    _street_ground(stage, half)
    _blocks(stage, half + walk)
    for z in (19_000, 12_500):
        if dice.chance(60):
            side = dice.pick((-1, 1))
            nature.leafy_tree(stage, side * (half + 900), z, dice.between(5500, 7000))
    _street_traffic(stage, half)


def _blocks(stage: Stage, clearance: int) -> None:
    """Buildings on both sides, from far to near."""
    for start in (44_000, 33_000, 22_000, 11_000, 1000):
        for x in ((-clearance - 9000, -clearance), (clearance, clearance + 9000)):
            building(stage, x, (start, start + 10_600), stage.dice.between(9000, 19_000))


def _street_ground(stage: Stage, half: int) -> None:
    dice = stage.dice
    paving, far = dice.colour(PAVING, 6), 60_000
    nature.ground(stage, ids.SIDEWALK, paving, tiles(900))
    road = Plane("y", 0)
    stage.surface(road, (-half, half), (500, far), ids.ROAD, dice.colour(ASPHALT, 6), FULL, asphalt)
    for side in (-1, 1):
        kerb = sorted((side * half, side * (half + 220)))
        stage.surface(road, (kerb[0], kerb[1]), (500, far), ids.SIDEWALK, paving, 82)
    for start in range(7000, 30_000, 4200):
        stage.surface(road, (-90, 90), (start, start + 2300), ids.ROAD, (236, 234, 220))
    for bar in range(-half + 300, half - 300, 900):
        stage.surface(road, (bar, bar + 480), (4300, 6400), ids.ROAD, (226, 226, 220))
    for edge in (-half + 320, half - 320):
        stage.surface(road, (edge - 60, edge + 60), (500, 40_000), ids.ROAD, (214, 212, 200))


def _street_traffic(stage: Stage, half: int) -> None:
    dice = stage.dice
    lane = dice.pick((-1, 1)) * half // 2
    if dice.chance(55):
        traffic.bus_along(stage, lane, dice.between(9500, 12_000), dice.colour(traffic.BUSES))
    else:
        traffic.car_along(stage, lane, dice.between(10_000, 14_000), dice.colour(traffic.CARS))
    traffic.car_along(stage, -lane, dice.between(7000, 8000), dice.colour(traffic.CARS))
    low, high = stage.reach(5000)
    for share in (dice.between(10, 45), dice.between(55, 90)):
        if dice.chance(75):
            traffic.person(stage, low + (high - low) * share // 100, dice.between(4500, 5600))


def bus_stop(canvas: Canvas, dice: Dice) -> None:
    """Across a city road: a row of buildings, a sidewalk with people, a bus or cars passing."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(2500, 2900), (400, 470))
    back = 17_000
    left, right = stage.reach(back)
    start = left - dice.between(0, 4000)
    while start < right:
        end = start + dice.between(7000, 11_000)
        building(stage, (start, end), (back, back + 9000), dice.between(6500, 10_500))
        start = end
    _crossing_road(stage, (5600, 10_000), back)
    _kerbside(stage)


def _crossing_road(stage: Stage, road: Range, back: int) -> None:
    """Road from left to right between two sidewalks, the far one up to depth back."""
    dice = stage.dice
    paving, middle = dice.colour(PAVING, 6), (road[0] + road[1]) // 2
    nature.ground(stage, ids.SIDEWALK, paving, tiles(900), (1000, back))
    nature.ground(stage, ids.ROAD, dice.colour(ASPHALT, 6), asphalt, road)
    nature.ground(stage, ids.SIDEWALK, (120, 116, 112), plain, (road[1], road[1] + 400))
    for x in range(-9000, 9000, 3600):
        dash = (middle - 120, middle + 120)
        stage.surface(Plane("y", 0), (x, x + 2000), dash, ids.ROAD, (236, 234, 220))


def _kerbside(stage: Stage) -> None:
    dice = stage.dice
    left, right = stage.reach(12_000)
    if dice.chance(60):
        nature.leafy_tree(
            stage, dice.pick((left, right)) * 7 // 10, 13_500, dice.between(5200, 6500)
        )
    if dice.chance(70):
        length = dice.between(7000, 8000)
        start = left + (right - left - length) * dice.between(0, 100) // 100
        traffic.bus_across(stage, (start, start + length), 8300, dice.colour(traffic.BUSES))
    else:
        for side in (-1, 1):
            x = dice.between(2300, 3000) * side
            traffic.car_across(stage, x, 7600, dice.colour(traffic.CARS), dice.pick((-1, 1)))
    low, high = stage.reach(5000)
    for share in (dice.between(8, 35), dice.between(65, 92)):
        traffic.person(stage, low + (high - low) * share // 100, dice.between(4500, 5100))


def suburb(canvas: Canvas, dice: Dice) -> None:
    """Residential street seen across the road: a house on its lawn, trees, a parked car."""
    stage = nature.outdoor_stage(canvas, dice, dice.between(2800, 3300), (420, 480))
    nature.treeline(stage, 40_000, 7500)
    nature.lawn(stage)
    z = dice.between(14_500, 16_500)
    low, high = stage.reach(z)
    middle = (low + high) // 2 + (high - low) * dice.between(-12, 12) // 100
    half = dice.between(4000, 4800)
    for side in (-1, 1):
        beside = middle + side * (half + dice.between(2300, 3200))
        nature.leafy_tree(stage, beside, z + 1500, dice.between(6500, 8500))
    house(stage, (middle - half, middle + half), z)
    way = (middle - 700, middle + 700)
    gravel = dice.colour(nature.GRAVEL, 6)
    stage.surface(Plane("y", 0), way, (10_000, z), ids.PATH, gravel, FULL, dunes)
    _crossing_road(stage, (1000, 8000), 10_800)
    at = middle + dice.pick((-1, 1)) * dice.between(1200, 2600)
    traffic.car_across(stage, at, 6300, dice.colour(traffic.CARS), dice.pick((-1, 1)))
