"""Furnished rooms in one-point perspective.

Every room is planned in millimetres from the space that the frame leaves at the back wall, so a
portrait frame gets a narrow room and a landscape frame a wide one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import classes as ids
from . import furniture as make
from .canvas import FULL, RGB, Canvas, IntArray
from .stage import NEAR, Plane, Range, Stage
from .textures import Dice, boards, plain, tiles

WALLS: tuple[RGB, ...] = ((222, 210, 188), (206, 214, 218), (214, 220, 200), (226, 206, 200))
BOARDS: tuple[RGB, ...] = ((168, 122, 82), (146, 104, 72), (184, 140, 98))
STONE: tuple[RGB, ...] = ((176, 158, 138), (164, 150, 136))
CURTAINS: tuple[RGB, ...] = ((64, 186, 184), (78, 176, 190))
CABINETS: tuple[RGB, ...] = ((96, 152, 138), (112, 160, 140), (90, 146, 150))
SOFAS: tuple[RGB, ...] = ((126, 66, 160), (112, 62, 158), (134, 72, 150))
BEDS: tuple[RGB, ...] = ((196, 158, 226), (206, 160, 220), (188, 154, 230))
CHAIRS: tuple[RGB, ...] = ((202, 58, 36), (190, 50, 36), (208, 66, 42))
CLOTHS: tuple[RGB, ...] = ((246, 148, 34), (240, 140, 44))
RUGS: tuple[RGB, ...] = ((150, 30, 44), (136, 28, 56))
DOORS: tuple[RGB, ...] = ((112, 66, 40), (100, 58, 38))


@dataclass(frozen=True)
class Room:
    """A stage with the extent of the room on it, in millimetres.

    open_side tells which side wall (-1 left, 1 right, 0 neither) is seen wide enough for an object.
    """

    stage: Stage
    x: Range
    height: int
    back: int
    open_side: int

    @property
    def walls(self) -> tuple[Plane, Plane, Plane]:
        """Left, back and right wall."""
        return Plane("x", self.x[0]), Plane("z", self.back), Plane("x", self.x[1])

    def share(self, percent: int) -> int:
        """World x at a share of the width, counted from the left wall."""
        return self.x[0] + (self.x[1] - self.x[0]) * percent // 100


def empty_room(canvas: Canvas, dice: Dice, tiled: bool = False) -> Room:
    """Floor, ceiling and three walls, with darker corners and skirting boards."""
    height = dice.between(2600, 2800)
    back = dice.between(4700, 5300)
    # Pixels per kilometre at the back wall; the width bounds it, or portrait rooms get too narrow.
    scale = min(canvas.height * dice.between(47, 52) * 100 // 27, canvas.width * 205)
    stage = Stage(
        canvas,
        dice,
        focal=scale * back // 1_000_000,
        horizon=canvas.height * dice.between(37, 43) // 100,
        eye=dice.between(1400, 1550),
    )
    left, right = stage.reach(back)
    open_side = dice.pick((-1, 0, 1))
    shares = [
        dice.between(58, 64) if side == open_side else dice.between(76, 86) for side in (-1, 1)
    ]
    room = Room(stage, (left * shares[0] // 100, right * shares[1] // 100), height, back, open_side)
    _shell(room, tiled)
    _side_wall(room)
    return room


def _shell(room: Room, tiled: bool) -> None:
    stage, depth = room.stage, (NEAR, room.back)
    dice = stage.dice
    paint = dice.colour(WALLS, 8)
    floor = stage.quad(Plane("y", 0), room.x, depth)
    a, z = stage.positions(Plane("y", 0), floor)
    texture = tiles(420) if tiled else boards
    shade = _corner(a - room.x[0]) * _corner(room.x[1] - a) >> 7
    level = texture(a, z) * (shade * _corner(room.back - z) >> 7) >> 7
    stage.canvas.paint(floor, ids.FLOOR, dice.colour(STONE if tiled else BOARDS), level)
    stage.surface(Plane("y", room.height), room.x, depth, ids.CEILING, (240, 238, 232), 116)
    for index, wall in enumerate(room.walls):
        _wall(room, wall, paint, 112 if index == 1 else stage.side_level(1 if index == 0 else -1))


def _side_wall(room: Room) -> None:
    dice = room.stage.dice
    if room.open_side == 0:
        return
    wall = room.walls[1 + room.open_side]
    if dice.chance(60):
        make.door(room.stage, wall, room.back - dice.between(1350, 1550), dice.colour(DOORS))
    else:
        a = (room.back - 1500, room.back - 600)
        make.window(room.stage, wall, a, (950, 2200))
        make.curtains(room.stage, wall, a, 2350, 400, dice.colour(CURTAINS))


def _wall(room: Room, wall: Plane, colour: RGB, level: int) -> None:
    stage = room.stage
    span = room.x if wall.axis == "z" else (NEAR, room.back)
    shape = stage.quad(wall, span, (0, room.height))
    a, b = stage.positions(wall, shape)
    ends = _corner(span[1] - a)
    if wall.axis == "z":
        ends = ends * _corner(a - span[0]) >> 7
    shade = ends * (_corner(room.height - b) * _corner(b) >> 7) >> 7
    stage.canvas.paint(shape, ids.WALL, colour, plain(a, b) * (shade * level >> 7) >> 7)
    stage.surface(wall, span, (0, 110), ids.WALL, (236, 232, 224), level - 8)


def _corner(distance: IntArray) -> IntArray:
    """Brightness near an edge between two surfaces, where less light arrives."""
    return FULL - np.clip(600 - distance, 0, 600) * 34 // 600


def _daylight(room: Room, a: Range, b: Range, width: int) -> None:
    """Window with curtains on the back wall, and its light on the floor in front."""
    stage, (_, wall, _) = room.stage, room.walls
    make.window(stage, wall, a, b)
    colour = stage.dice.colour(CURTAINS)
    make.curtains(stage, wall, a, min(b[1] + 200, room.height - 60), width, colour)
    stage.glow(room.back - 1200, (a[0] + a[1]) // 2, 0, 1100, 22)


def living_room(canvas: Canvas, dice: Dice) -> None:
    """Sofa under paintings, window with curtains, rug, lamp, plant, shelf or television."""
    room = empty_room(canvas, dice)
    stage, back = room.stage, room.back
    middle = room.share(dice.between(44, 56))
    width = room.x[1] - room.x[0]
    half = min(width * 30 // 100, 1200)
    _living_wall(room, middle, half)
    make.rug(stage, (middle - half, middle + half), (back - 2500, back - 1150), dice.colour(RUGS))
    left_first = dice.chance(50)
    corner = room.share(8 if left_first else 92)
    other = room.share(90 if left_first else 10)
    make.sofa(stage, (middle - half, middle + half), back - 80, dice.colour(SOFAS))
    make.lamp(stage, corner, 0, back - 800, 1800)
    make.plant(stage, other, back - 900, dice.between(1500, 1750))


def _living_wall(room: Room, middle: int, half: int) -> None:
    stage, dice = room.stage, room.stage.dice
    wall = room.walls[1]
    if dice.chance(50):
        low = dice.between(950, 1050)
        _daylight(room, (middle - half * 3 // 4, middle + half * 3 // 4), (low, 2250), 420)
    else:
        make.painting(stage, wall, (middle - half * 3 // 4, middle + half * 3 // 4), (1150, 2100))


def entrance_hall(canvas: Canvas, dice: Dice) -> None:
    """Front door, runner, sideboard with a lamp under a painting, plant."""
    room = empty_room(canvas, dice, tiled=dice.chance(40))
    stage, back, wall = room.stage, room.back, room.walls[1]
    middle, side = room.share(dice.between(47, 53)), dice.pick((-1, 1))
    make.door(stage, wall, middle - 460, dice.colour(DOORS))
    near, far = middle + side * 620, room.share(96 if side > 0 else 4)
    x = (min(near, far), max(near, far))
    make.painting(stage, wall, make.inset(x, 60), (1400, 2150))
    make.cabinet(stage, x, (0, 820), (back - 420, back), dice.colour(CABINETS), 2)
    make.lamp(stage, (x[0] + x[1]) // 2, 820, back - 220, 860)
    make.rug(stage, (middle - 650, middle + 650), (back - 2600, back - 700), dice.colour(RUGS))
    make.plant(stage, middle - side * 1250, back - 500, dice.between(1500, 1800))


def bedroom(canvas: Canvas, dice: Dice) -> None:
    """Double bed with bedside cabinets and lamps, painting, curtained window, door."""
    room = empty_room(canvas, dice)
    stage, back = room.stage, room.back
    half = min((room.x[1] - room.x[0]) * 27 // 100, 850)
    middle = room.share(dice.between(45, 55))
    if dice.chance(50):
        make.painting(stage, room.walls[1], (middle - half, middle + half), (1350, 2150))
    else:
        _daylight(room, (middle - half, middle + half), (1250, 2250), 420)
    colour = dice.colour(CABINETS)
    for centre in (middle - half - 420, middle + half + 420):
        make.cabinet(
            stage, (centre - 270, centre + 270), (0, 560), (back - 450, back - 20), colour, 1
        )
        make.lamp(stage, centre, 560, back - 250, 880)
    make.rug(
        stage,
        (middle - half - 500, middle + half + 500),
        (back - 2700, back - 1300),
        dice.colour(RUGS),
    )
    make.bed(stage, (middle - half, middle + half), back - 20, dice.colour(BEDS))


def dining_room(canvas: Canvas, dice: Dice) -> None:
    """Dining table with chairs, curtained window or painting, sideboard, plant."""
    room = empty_room(canvas, dice)
    stage, back = room.stage, room.back
    middle = room.share(dice.between(45, 55))
    half = min((room.x[1] - room.x[0]) * 31 // 100, 1100)
    _living_wall(room, middle, half)
    make.plant(stage, room.share(dice.pick((9, 91))), back - 450, dice.between(1550, 1850))
    seat = dice.colour(CHAIRS)
    _table_with_chairs(room, (middle - half, middle + half), back - 2150, seat)


def _table_with_chairs(room: Room, x: Range, z: int, seat: RGB) -> None:
    stage, dice = room.stage, room.stage.dice
    spots = make.split(x, 2, 0)
    for spot in spots:
        make.chair(stage, (spot[0] + spot[1]) // 2, z + 620, seat, faces_camera=True)
    make.table(stage, x, (z, z + 850), 750, dice.colour(CLOTHS))
    for spot in spots:
        make.chair(stage, (spot[0] + spot[1]) // 2, z - 420, seat, faces_camera=False)


def kitchen(canvas: Canvas, dice: Dice) -> None:
    """Kitchen row with a refrigerator, wall cabinets around a window, perhaps a table."""
    room = empty_room(canvas, dice, tiled=True)
    stage, back = room.stage, room.back
    width, colour = room.x[1] - room.x[0], dice.colour(CABINETS)
    cold = min(width * 26 // 100, 950)
    on_left = dice.chance(50)
    if on_left:
        fridge, base = (room.x[0] + 30, room.x[0] + 30 + cold), (room.x[0] + cold + 60, room.x[1])
    else:
        fridge, base = (room.x[1] - 30 - cold, room.x[1] - 30), (room.x[0], room.x[1] - cold - 60)
    gap = min(width * 30 // 100, 1300)
    start = base[0] + (base[1] - base[0] - gap) * dice.between(30, 70) // 100
    _wall_units(room, base, (start, start + gap), colour)
    doors = max((base[1] - base[0]) // 520, 2)
    make.cabinet(stage, base, (0, 910), (back - 640, back), colour, doors)
    make.refrigerator(stage, fridge, (back - 720, back), dice.between(1800, 2000))
    if dice.chance(70):
        # On the side away from the refrigerator, which would be hidden otherwise.
        centre, half = room.share(72 if on_left else 28), min(width * 22 // 100, 750)
        across = (centre - half, centre + half)
        make.table(stage, across, (back - 2500, back - 1700), 740, dice.colour(CLOTHS))
        make.chair(stage, centre, back - 2950, dice.colour(CHAIRS), faces_camera=False)


def _wall_units(room: Room, base: Range, gap: Range, colour: RGB) -> None:
    stage, depth = room.stage, (room.back - 360, room.back)
    make.window(stage, room.walls[1], gap, (1200, 2150))
    for x in ((base[0], gap[0] - 60), (gap[1] + 60, base[1])):
        if x[1] - x[0] > 250:
            doors = max((x[1] - x[0]) // 480, 1)
            make.cabinet(stage, x, (1480, 2230), depth, colour, doors)


def cafe(canvas: Canvas, dice: Dice) -> None:
    """Coffee shop: two covered tables with chairs, painting or window, plant."""
    room = empty_room(canvas, dice, tiled=True)
    back, width = room.back, room.x[1] - room.x[0]
    _living_wall(room, room.share(50), min(width * 24 // 100, 1000))
    make.plant(room.stage, room.share(50), back - 500, dice.between(1300, 1550))
    half = min(width * 20 // 100, 650)
    seat, cloth = dice.colour(CHAIRS), dice.colour(CLOTHS)
    for centre, z in ((room.share(26), back - 1500), (room.share(74), back - 1900)):
        make.chair(room.stage, centre, z + 850, seat, faces_camera=True)
        make.table(room.stage, (centre - half, centre + half), (z, z + 800), 760, cloth)
        make.chair(room.stage, centre, z - 500, seat, faces_camera=False)
