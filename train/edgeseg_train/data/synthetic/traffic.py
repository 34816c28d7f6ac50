"""People, cars, buses and boats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import classes as ids
from .canvas import RGB, Point
from .furniture import split
from .stage import Plane, Range, Stage
from .textures import noise

CARS: tuple[RGB, ...] = ((28, 62, 168), (40, 92, 190), (22, 50, 140), (60, 104, 170))
BUSES: tuple[RGB, ...] = ((206, 26, 30), (194, 22, 40))
SHIRTS: tuple[RGB, ...] = ((236, 52, 130), (244, 70, 150), (220, 44, 150))
SKINS: tuple[RGB, ...] = ((238, 190, 156), (200, 146, 108), (140, 94, 66))
GLASS: RGB = (38, 48, 62)
RUBBER: RGB = (22, 22, 24)


def person(stage: Stage, x: int, z: int, y: int = 0) -> None:
    """Standing or walking person, 1.6 to 1.8 m: shoes, legs, arms, shirt, head, hair."""
    dice = stage.dice
    tall = dice.between(1620, 1820)
    stage.shadow((x - 150, x + 150), (z - 120, z + 120), 80, 260, y)
    shirt, skin = dice.colour(SHIRTS), dice.colour(SKINS, 8)
    trousers = dice.colour([(44, 40, 78), (58, 44, 70)], 8)
    stride = dice.between(60, 190)

    def limb(colour: RGB, points: Sequence[Point]) -> None:
        corners = [(x + a, y + b * tall // 1750) for a, b in points]
        shape = stage.outline(z, corners)
        stage.canvas.paint(shape, ids.PERSON, colour, stage.rounded(z, shape, x, 260))

    for foot in (-stride, stride):
        limb(trousers, [(-150, 880), (150, 880), (foot + 95, 60), (foot - 95, 60)])
        limb(RUBBER, [(foot - 110, 0), (foot + 130, 0), (foot + 95, 90), (foot - 95, 90)])
    for side in (-1, 1):
        limb(shirt, [(side * 170, 1460), (side * 270, 1400), (side * 360, 900), (side * 260, 880)])
        limb(skin, [(side * 262, 900), (side * 358, 910), (side * 350, 790), (side * 280, 790)])
    limb(shirt, [(-250, 1470), (250, 1470), (210, 820), (-210, 820)])
    limb(skin, [(-70, 1540), (70, 1540), (70, 1440), (-70, 1440)])
    for colour, up, half in (
        (dice.pick([(50, 34, 24), (120, 78, 38)]), 1650, 130),
        (skin, 1615, 108),
    ):
        head = stage.disc(z, x, y + up * tall // 1750, half, half * 5 // 4)
        stage.canvas.paint(head, ids.PERSON, colour, stage.rounded(z, head, x, 200))


def car_along(stage: Stage, x: int, z: int, colour: RGB) -> None:
    """Car on its way down the road, seen from behind and from one side."""
    length = 4000
    stage.shadow((x - 880, x + 880), (z, z + length), 100, 300)
    stage.box((x - 880, x + 880), (300, 880), (z, z + length), ids.CAR, colour)
    side = -1 if x > 0 else 1
    _cabin_along(stage, x, z, side, colour)
    for axle in (z + 750, z + length - 800):
        ring = ((-330, 120), (-230, 560), (230, 560), (330, 120), (150, 0), (-150, 0))
        wheel = stage.facet([(x + side * 885, b, axle + a) for a, b in ring])
        stage.canvas.paint(wheel, ids.CAR, RUBBER)
    face = Plane("z", z)
    for a in ((x - 860, x - 600), (x + 600, x + 860)):
        stage.surface(face, a, (0, 320), ids.CAR, RUBBER)
        stage.surface(face, a, (660, 830), ids.CAR, (232, 40, 30))
    stage.surface(face, (x - 860, x + 860), (290, 430), ids.CAR, (46, 46, 50))
    stage.surface(face, (x - 260, x + 260), (500, 640), ids.CAR, (236, 234, 214))


def _cabin_along(stage: Stage, x: int, z: int, side: int, colour: RGB) -> None:
    canvas, z0, z1 = stage.canvas, z + 350, z + 3000
    low, high, roof = side * 860, side * 660, 1440
    side_level = stage.side_level(side)
    flank = [
        (x + low, 880, z),
        (x + high, roof, z0),
        (x + high, roof, z1),
        (x + low, 880, z1 + 600),
    ]
    canvas.paint(stage.facet(flank), ids.CAR, colour, side_level)
    pane = [(x + low, 920, z0), (x + high, 1370, z0 + 200), (x + high, 1370, z1 - 150)]
    canvas.paint(stage.facet([*pane, (x + low, 920, z1 + 200)]), ids.CAR, GLASS)
    top = [(x - 660, roof, z0), (x + 660, roof, z0), (x + 660, roof, z1), (x - 660, roof, z1)]
    canvas.paint(stage.facet(top), ids.CAR, colour, 134)
    back = [(x - 860, 880, z), (x + 860, 880, z), (x + 660, roof, z0), (x - 660, roof, z0)]
    canvas.paint(stage.facet(back), ids.CAR, colour, 108)
    rear = [(x - 740, 930, z), (x + 740, 930, z), (x + 590, 1370, z0), (x - 590, 1370, z0)]
    canvas.paint(stage.facet(rear), ids.CAR, (70, 84, 100))


def wheel(stage: Stage, z: int, x: int, radius: int, label: int) -> None:
    """Tyre and hub of a vehicle seen from the side."""
    for part, colour in ((radius, RUBBER), (radius * 55 // 100, (150, 152, 158))):
        stage.canvas.paint(stage.disc(z, x, radius, part, part), label, colour)


def car_across(stage: Stage, x: int, z: int, colour: RGB, facing: int) -> None:
    """Car seen from the side, about 4.3 m long; facing is -1 (left) or 1 (right)."""
    stage.shadow((x - 2050, x + 2050), (z, z + 1700), 100, 300)

    def panel(paint: RGB, points: Sequence[Point], shade: int = 112) -> None:
        shape = stage.outline(z, [(x + facing * a, b) for a, b in points])
        stage.canvas.paint(shape, ids.CAR, paint, shade)

    panel(colour, [(-1500, 850), (-1150, 1430), (450, 1430), (1100, 850)], 118)
    panel(GLASS, [(-1330, 890), (-1080, 1370), (-420, 1370), (-420, 890)])
    panel(GLASS, [(-330, 890), (-330, 1370), (400, 1370), (920, 890)])
    panel(colour, [(-2130, 560), (-2080, 900), (1150, 900), (2050, 720), (2150, 330), (-2120, 330)])
    panel(colour, [(-2130, 330), (2150, 330), (2120, 520), (-2130, 520)], 84)
    panel((34, 34, 38), [(-2100, 220), (2100, 220), (2130, 340), (-2120, 340)])
    panel(colour, [(-390, 340), (-360, 340), (-360, 880), (-390, 880)], 60)
    panel((250, 236, 170), [(1860, 600), (2090, 600), (2060, 710), (1880, 740)])
    panel((220, 40, 34), [(-2130, 640), (-1960, 640), (-1960, 800), (-2110, 800)])
    for axle in (-1330, 1330):
        wheel(stage, z, x + axle, 350, ids.CAR)


def bus_across(stage: Stage, x: Range, z: int, colour: RGB) -> None:
    """Bus seen from the side: window band, doors, stripe and wheels."""
    stage.shadow(x, (z, z + 2400), 100, 400)
    stage.box(x, (320, 3050), (z, z + 2400), ids.BUS, colour)
    face = Plane("z", z)
    stage.surface(face, x, (2860, 3050), ids.BUS, (250, 250, 244))
    stage.surface(face, x, (760, 1000), ids.BUS, (250, 224, 150))
    stage.surface(face, x, (320, 460), ids.BUS, (60, 52, 40))
    for pane in split((x[0] + 150, x[1] - 150), 7, 45):
        shape = stage.quad(face, pane, (1450, 2650))
        a, b = stage.positions(face, shape)
        level = np.clip(40 + (b - 1450 + a - pane[0]) // 22, 0, 128)
        stage.canvas.blend(shape, ids.BUS, (40, 52, 66), (130, 152, 172), level)
    step = (x[1] - x[0]) // 4
    stage.surface(
        face, (x[0] + step * 2, x[0] + step * 2 + 900), (420, 2650), ids.BUS, (70, 66, 60)
    )
    for axle in (x[0] + step * 3 // 4, x[1] - step * 3 // 4):
        wheel(stage, z, axle, 500, ids.BUS)


def bus_along(stage: Stage, x: int, z: int, colour: RGB) -> None:
    """Bus on its way down the road, seen from behind and from one side."""
    a, depth = (x - 1250, x + 1250), (z, z + 9500)
    stage.shadow(a, depth, 100, 400)
    stage.box(a, (320, 3050), depth, ids.BUS, colour)
    side = -1 if x > 0 else 1
    flank = Plane("x", x + side * 1250)
    for pane in split((z + 200, z + 9300), 7, 60):
        stage.surface(flank, pane, (1450, 2650), ids.BUS, GLASS, 150)
    stage.surface(flank, depth, (760, 1000), ids.BUS, (250, 224, 150), 96)
    face = Plane("z", z)
    stage.surface(face, (x - 1080, x + 1080), (1550, 2650), ids.BUS, GLASS, 170)
    stage.surface(face, (x - 1250, x + 1250), (320, 520), ids.BUS, (60, 52, 40))
    for lamp in ((x - 1180, x - 880), (x + 880, x + 1180)):
        stage.surface(face, lamp, (900, 1250), ids.BUS, (255, 120, 60))
        stage.surface(face, lamp, (0, 340), ids.BUS, RUBBER)


def boat(stage: Stage, x: int, z: int, size: int) -> None:
    """Sailing boat: violet hull, mast, two bright sails, reflection in the water."""
    unit = size // 10
    mirror = stage.outline(
        z,
        [
            (x - 5 * unit, 0),
            (x + 5 * unit, 0),
            (x + 3 * unit, -2 * unit),
            (x - 3 * unit, -2 * unit),
        ],
    )
    stage.canvas.relight(mirror, 92)

    def part(colour: RGB, points: Sequence[Point], level: int = 118) -> None:
        shape = stage.outline(z, [(x + a * unit // 10, b * unit // 10) for a, b in points])
        a, b = stage.positions(Plane("z", z), shape)
        shade = level + (noise(a >> 5, b >> 5) >> 3)
        stage.canvas.paint(shape, ids.BOAT, colour, shade)

    part((206, 58, 226), [(6, 22), (6, 112), (52, 24)], 126 if stage.sun > 0 else 108)
    part((188, 44, 214), [(-6, 24), (-6, 100), (-44, 24)], 108 if stage.sun > 0 else 126)
    part((96, 66, 44), [(-3, 0), (-3, 118), (4, 118), (4, 0)])
    part((116, 34, 150), [(-52, 19), (60, 21), (44, -4), (-42, -4)])
    part((250, 248, 244), [(-52, 19), (60, 21), (57, 15), (-50, 14)])
