"""Indoor objects: things on walls (painted on a plane) and furniture (built from boxes).

Each class keeps one hue family and one build, with moderate variation, so that a small network
trained for a minute can tell the classes apart.
"""

from __future__ import annotations

import numpy as np

from . import classes as ids
from .canvas import FULL, RGB
from .stage import Plane, Range, Stage
from .textures import gingham, noise, plain, pleats, soft_noise, wood

STEEL: RGB = (196, 202, 210)


def inset(span: Range, margin: int) -> Range:
    """The span without a margin at both ends."""
    return span[0] + margin, span[1] - margin


def split(span: Range, count: int, gap: int) -> list[Range]:
    """Equal parts of a span with gaps around them."""
    step = (span[1] - span[0]) // count
    starts = [span[0] + step * i for i in range(count)]
    return [(start + gap, start + step - gap) for start in starts]


def window(stage: Stage, wall: Plane, a: Range, b: Range) -> None:
    """Window with a white frame, sky and garden behind the glass."""
    stage.surface(wall, a, b, ids.WINDOWPANE, (238, 240, 240), 122)
    sill = b[0] + (b[1] - b[0]) * stage.dice.between(15, 35) // 100
    for pane in split(a, 2, 45):
        for part in split(b, 2, 45):
            shape = stage.quad(wall, pane, part)
            u, v = stage.positions(wall, shape)
            height = np.clip((v - sill) * 128 // (b[1] - sill), 0, 128)
            garden = shape.only(v + (noise(u >> 3, v >> 3) * 4) < sill)
            stage.canvas.blend(shape, ids.WINDOWPANE, (214, 232, 250), (128, 182, 244), height)
            stage.canvas.blend(
                garden, ids.WINDOWPANE, (110, 160, 140), (170, 205, 180), 64 + noise(u >> 2, v >> 2)
            )


def curtains(stage: Stage, wall: Plane, a: Range, top: int, width: int, colour: RGB) -> None:
    """Two long pleated curtains beside a window, under a rail."""
    for side in ((a[0] - width * 3 // 4, a[0] + width // 4), (a[1] - width // 4, a[1] + width)):
        stage.surface(wall, side, (60, top), ids.CURTAIN, colour, 116, pleats)
    stage.surface(wall, (a[0] - width, a[1] + width), (top - 70, top), ids.CURTAIN, colour, 84)


def door(stage: Stage, wall: Plane, start: int, colour: RGB) -> None:
    """Panelled door with its casing and a knob."""
    a = (start, start + 920)
    stage.surface(wall, a, (0, 2080), ids.DOOR, colour, 92)
    stage.surface(wall, inset(a, 70), (0, 2010), ids.DOOR, colour, 122, wood)
    for panel in split(inset(a, 110), 2, 35):
        for part in ((180, 860), (1060, 1880)):
            stage.surface(wall, panel, part, ids.DOOR, colour, 88, wood)
            stage.surface(wall, inset(panel, 30), inset(part, 30), ids.DOOR, colour, 110, wood)
    stage.surface(wall, (a[0] + 105, a[0] + 165), (960, 1020), ids.DOOR, (226, 196, 104))


def painting(stage: Stage, wall: Plane, a: Range, b: Range) -> None:
    """Framed evening landscape: dark blue sky, hills and a red meadow."""
    stage.surface(wall, (a[0] + 30, a[1] + 30), (b[0] - 40, b[1] - 40), None, (120, 112, 104))
    stage.surface(wall, a, b, ids.PAINTING, (150, 104, 34), 120)
    stage.surface(wall, inset(a, 35), inset(b, 35), ids.PAINTING, (206, 160, 70), 120)
    shape = stage.quad(wall, inset(a, 80), inset(b, 80))
    u, v = stage.positions(wall, shape)
    u = u + stage.dice.between(0, 4000)
    height = np.clip((v - b[0]) * 128 // (b[1] - b[0]), 0, 128)
    ridge = 62 + (soft_noise(u >> 1, u >> 6) >> 1)
    canvas = stage.canvas
    canvas.blend(shape, ids.PAINTING, (250, 150, 60), (24, 40, 150), height)
    hills = stage.dice.colour([(40, 36, 120), (56, 30, 110), (24, 50, 130)], 12)
    canvas.paint(shape.only(height < ridge), None, hills, 120 + (noise(u >> 2, v >> 2) >> 1))
    meadow = height < 34 + (noise(u >> 2, v >> 9) >> 2)
    canvas.paint(shape.only(meadow), None, (180, 60, 30), 116 + noise(u >> 1, v >> 1))


def cabinet(stage: Stage, x: Range, y: Range, z: Range, colour: RGB, doors: int) -> None:
    """Cupboard with a worktop edge and panelled doors on the faces that point into the room."""
    if y[0] == 0:
        stage.shadow(x, z)
    stage.box(x, y, z, ids.CABINET, colour)
    faces = [(Plane("z", z[0]), x, 112)]
    if x[0] > 0:
        faces.append((Plane("x", x[0]), z, stage.side_level(-1)))
    elif x[1] < 0:
        faces.append((Plane("x", x[1]), z, stage.side_level(1)))
    for face, span, level in faces:
        stage.surface(face, span, (y[0], y[0] + 70), ids.CABINET, colour, level - 56)
        stage.surface(face, span, (y[1] - 50, y[1]), ids.CABINET, (226, 222, 206), level)
        for leaf in split(span, max((span[1] - span[0]) * doors // (x[1] - x[0]), 1), 14):
            _cabinet_door(stage, face, leaf, (y[0] + 90, y[1] - 70), colour, level)


def _cabinet_door(stage: Stage, face: Plane, a: Range, b: Range, colour: RGB, level: int) -> None:
    stage.surface(face, a, b, ids.CABINET, colour, level - 34)
    stage.surface(face, inset(a, 16), inset(b, 16), ids.CABINET, colour, level + 8)
    stage.surface(face, inset(a, 80), inset(b, 80), ids.CABINET, colour, level - 12)
    handle = (a[1] - 70, a[1] - 40)
    stage.surface(face, handle, (b[1] - 240, b[1] - 80), ids.CABINET, STEEL)


def bed(stage: Stage, x: Range, back: int, colour: RGB) -> None:
    """Double bed, head against the back wall: headboard, mattress, pillows, blanket."""
    front, middle = back - 1950, (x[0] + x[1]) // 2
    stage.shadow(x, (front, back), 90)
    stage.box(inset(x, -60), (0, 1150), (back - 90, back), ids.BED, (150, 96, 92), wood)
    stage.box(inset(x, 20), (80, 300), (front + 20, back - 90), ids.BED, (140, 90, 92), wood)
    stage.box(x, (220, 560), (front, back - 90), ids.BED, (236, 224, 232))
    for pillow in split(x, 2, 70):
        stage.box(pillow, (560, 700), (back - 620, back - 150), ids.BED, (250, 242, 246))
        stage.glow(back - 620, (pillow[0] + pillow[1]) // 2, 600, 230, -14)
    stage.box(inset(x, -25), (200, 590), (front - 25, back - 800), ids.BED, colour, pleats)
    stage.box(inset(x, -30), (340, 595), (back - 1050, back - 800), ids.BED, (244, 226, 238))
    stage.glow(front - 25, middle, 420, 700, 14)


def sofa(stage: Stage, x: Range, back: int, colour: RGB) -> None:
    """Sofa that faces the camera: back rest, arms, seat and back cushions."""
    front = back - 900
    stage.shadow(x, (front, back), 90)
    stage.box(x, (60, 860), (back - 220, back), ids.SOFA, colour)
    inner = inset(x, 200)
    count = 3 if x[1] - x[0] > 2000 else 2
    for cushion in split(inner, count, 12):
        stage.box(cushion, (430, 800), (back - 380, back - 220), ids.SOFA, colour)
    stage.box(inner, (60, 300), (front + 40, back - 220), ids.SOFA, colour)
    for cushion in split(inner, count, 10):
        stage.box(cushion, (290, 450), (front, back - 330), ids.SOFA, colour)
    for arm in ((x[0], inner[0]), (inner[1], x[1])):
        stage.box(arm, (60, 640), (front, back - 100), ids.SOFA, colour)


def table(stage: Stage, x: Range, z: Range, height: int, cloth: RGB) -> None:
    """Table with four legs under a checked cloth that hangs over the edges."""
    stage.shadow(x, z, 60)
    wooden: RGB = (190, 128, 66)
    for depth in ((z[1] - 130, z[1] - 30), (z[0] + 30, z[0] + 130)):
        for leg in ((x[0] + 30, x[0] + 150), (x[1] - 150, x[1] - 30)):
            stage.box(leg, (0, height - 60), depth, ids.TABLE, wooden, wood)
    stage.box(x, (height - 520, height), z, ids.TABLE, cloth, gingham)


def chair(stage: Stage, x: int, z: int, colour: RGB, faces_camera: bool) -> None:
    """Chair with an upholstered seat and a full back rest."""
    span, depth = (x - 240, x + 240), (z, z + 460)
    rest = (depth[1] - 70, depth[1]) if faces_camera else (depth[0], depth[0] + 70)
    stage.shadow(span, depth, 60, 200)
    if faces_camera:
        stage.box(span, (400, 960), rest, ids.CHAIR, colour)
    for leg_z in (depth[1] - 80, depth[0]):
        for leg in ((span[0], span[0] + 80), (span[1] - 80, span[1])):
            stage.box(leg, (0, 400), (leg_z, leg_z + 80), ids.CHAIR, colour, wood)
    stage.box(span, (370, 480), depth, ids.CHAIR, colour)
    if not faces_camera:
        stage.box(span, (440, 960), rest, ids.CHAIR, colour)
        stage.surface(
            Plane("z", rest[0]), inset(span, 60), (560, 900), ids.CHAIR, colour, 92, pleats
        )


def lamp(stage: Stage, x: int, y: int, z: int, height: int) -> None:
    """Lamp that is switched on: foot, stem, cloth shade; it lights the wall behind."""
    stage.glow(z, x, y + height - 200, 1100, 34)
    width = 440
    metal: RGB = (176, 134, 52)
    stage.box((x - 130, x + 130), (y, y + 50), (z - 130, z + 130), ids.LAMP, metal)
    stem = stage.quad(Plane("z", z), (x - 60, x + 60), (y + 40, y + height - 300))
    stage.canvas.paint(stem, ids.LAMP, metal, stage.rounded(z, stem, x, 60))
    low, top = y + height - 600, y + height
    corners = [(x - width, low), (x + width, low), (x + width * 5 // 8, top)]
    shade = stage.outline(z, [*corners, (x - width * 5 // 8, top)])
    a, b = stage.positions(Plane("z", z), shade)
    level = 134 - abs(a - x) * 26 // width - abs(b - low - 250) * 12 // 600
    stage.canvas.paint(shade, ids.LAMP, (255, 234, 120), level)


def plant(stage: Stage, x: int, z: int, height: int) -> None:
    """Pot plant: clay pot, a bushy heart and long bright leaves."""
    stage.shadow((x - 200, x + 200), (z - 200, z + 200), 80, 250)
    clay = [(x - 170, 0), (x + 170, 0), (x + 240, 380), (x - 240, 380)]
    pot = stage.outline(z, clay)
    stage.canvas.paint(pot, ids.PLANT, (178, 88, 52), stage.rounded(z, pot, x, 210))
    dark, light = (24, 92, 22), (156, 228, 76)
    stage.blob(z, x, height * 6 // 10, (430, height * 3 // 10), ids.PLANT, dark, light)
    tips = ((-560, 68), (560, 66), (-420, 92), (430, 94), (-170, 106), (190, 104))
    for reach, rise in tips:
        tip = (x + reach + stage.dice.between(-40, 40), height * rise // 100)
        bend = ((x + tip[0]) // 2, (380 + tip[1]) // 2 + 90)
        leaf = stage.outline(
            z, [(x, 380), (bend[0] + 95, bend[1] - 40), tip, (bend[0] - 95, bend[1] + 40)]
        )
        u, v = stage.positions(Plane("z", z), leaf)
        level = 74 + (noise(u >> 2, v >> 2) >> 1) + reach * stage.sun // 16
        stage.canvas.blend(leaf, ids.PLANT, dark, light, level)


def refrigerator(stage: Stage, x: Range, z: Range, height: int) -> None:
    """Tall two-door refrigerator in blue-grey metal."""
    colour: RGB = (116, 140, 180)
    stage.shadow(x, z)
    stage.box(x, (0, height), z, ids.REFRIGERATOR, colour)
    face = Plane("z", z[0])
    for b in ((60, height * 62 // 100), (height * 63 // 100, height - 20)):
        shape = stage.quad(face, inset(x, 15), b)
        a, _ = stage.positions(face, shape)
        sheen = 112 + abs((a - x[0]) * 64 // (x[1] - x[0]) - 24)
        stage.canvas.paint(shape, ids.REFRIGERATOR, colour, np.minimum(sheen, FULL + 4))
        handle = (b[1] - 520, b[1] - 60) if b[0] == 60 else (b[0] + 60, b[0] + 420)
        stage.surface(face, (x[0] + 60, x[0] + 110), handle, ids.REFRIGERATOR, (226, 230, 236))


def rug(stage: Stage, x: Range, z: Range, colour: RGB) -> None:
    """Patterned carpet with a pale border and rows of diamonds."""
    floor = Plane("y", 0)
    stage.surface(floor, x, z, ids.RUG, (226, 206, 170), 116)
    stage.surface(floor, inset(x, 110), inset(z, 110), ids.RUG, colour, 120)
    shape = stage.quad(floor, inset(x, 200), inset(z, 200))
    a, b = stage.positions(floor, shape)
    diamond = abs(a % 500 - 250) + abs(b % 500 - 250)
    light = np.where(diamond < 110, 128, np.where(diamond < 170, 20, 64))
    stage.canvas.blend(shape, ids.RUG, (70, 16, 24), colour, light + (plain(a, b) - FULL))
    stage.canvas.blend(shape.only(diamond < 80), ids.RUG, colour, (232, 196, 130), FULL)
