"""A pinhole camera over a flat ground, and solids placed in front of it.

The world is in millimetres: x to the right, y up from the ground, z away from the camera. Objects
are planned in the world, so perspective, overlap and the aspect ratio of the image come out right
at every image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import FULL, RGB, UNIT, Canvas, IntArray, Level, Point, Shape, radial
from .textures import Dice, Texture, noise, plain

NEAR = 500
FAR = 90_000

Range = tuple[int, int]


@dataclass(frozen=True)
class Plane:
    """The plane where one world axis ("x", "y" or "z") has a fixed value.

    Positions on it are (x, z) for a "y" plane, (z, y) for an "x" plane, (x, y) for a "z" plane.
    """

    axis: str
    at: int

    def lift(self, a: int, b: int) -> tuple[int, int, int]:
        """World point of the position (a, b) on the plane."""
        if self.axis == "x":
            return self.at, b, a
        return (a, self.at, b) if self.axis == "y" else (a, b, self.at)


class Stage:
    """Canvas, camera, light and dice of one scene."""

    def __init__(self, canvas: Canvas, dice: Dice, focal: int, horizon: int, eye: int) -> None:
        self.canvas = canvas
        self.dice = dice
        self.focal = focal
        self.horizon = horizon
        self.eye = eye
        self.middle = canvas.width // 2 + canvas.width * dice.between(-50, 50) // 1000
        self.sun = dice.pick((-1, 1))
        self.contrast = dice.between(14, 34)

    def project(self, x: int, y: int, z: int) -> Point:
        """Image position of a world point, in 1/16 pixel."""
        scale = UNIT * self.focal
        depth = max(z, NEAR)
        across = self.middle * UNIT + scale * x // depth
        return across, self.horizon * UNIT + scale * (self.eye - y) // depth

    def reach(self, z: int) -> Range:
        """World x at the left and right image border at depth z."""
        left = -self.middle * z // self.focal
        return left, (self.canvas.width - self.middle) * z // self.focal

    def quad(self, plane: Plane, a: Range, b: Range) -> Shape:
        """Pixels of a rectangle on a plane."""
        corners = [(a[0], b[0]), (a[1], b[0]), (a[1], b[1]), (a[0], b[1])]
        points = [self.project(*plane.lift(*corner)) for corner in corners]
        if plane.axis == "z":
            (x0, y1), _, (x1, y0), _ = points
            return self.canvas.rectangle(x0, y0, x1, y1)
        return self.canvas.polygon(points)

    def outline(self, z: int, points: Sequence[Point]) -> Shape:
        """Pixels of a convex polygon with corners (x, y) that stands upright at depth z."""
        return self.canvas.polygon([self.project(x, y, z) for x, y in points])

    def facet(self, points: Sequence[tuple[int, int, int]]) -> Shape:
        """Pixels of a convex polygon with corners (x, y, z)."""
        return self.canvas.polygon([self.project(*point) for point in points])

    def disc(self, z: int, x: int, y: int, a: int, b: int) -> Shape:
        """Pixels of an upright ellipse with centre (x, y) and half axes a, b at depth z."""
        return self.canvas.ellipse(*self.project(x, y, z), self.size(a, z), self.size(b, z))

    def size(self, length: int, z: int) -> int:
        """Length in the image, in 1/16 pixel, of a length at depth z."""
        return max(UNIT * self.focal * length // max(z, NEAR), 1)

    def positions(self, plane: Plane, shape: Shape) -> tuple[IntArray, IntArray]:
        """World positions (a, b) on the plane behind the pixels, broadcastable to (h, w)."""
        across = 2 * shape.cols + (1 - 2 * self.middle)
        down = 2 * shape.rows + (1 - 2 * self.horizon)
        double = 2 * self.focal
        if plane.axis == "z":
            return across * plane.at // double, self.eye - down * plane.at // double
        if plane.axis == "x":
            z = _depth(double * plane.at, across)
            return z, self.eye - down * z // double
        z = _depth(double * (self.eye - plane.at), down)
        return across * z // double, z

    def surface(
        self,
        plane: Plane,
        a: Range,
        b: Range,
        label: int | None,
        colour: RGB,
        level: Level = FULL,
        texture: Texture = plain,
    ) -> Shape:
        """Paint a textured rectangle on a plane and return its pixels."""
        shape = self.quad(plane, a, b)
        self.canvas.paint(shape, label, colour, texture(*self.positions(plane, shape)) * level >> 7)
        return shape

    def side_level(self, towards: int) -> int:
        """Brightness of a face that looks to the left (-1) or right (1): the sun is on one side."""
        return 112 if towards == self.sun else 112 - self.contrast

    def box(
        self, x: Range, y: Range, z: Range, label: int, colour: RGB, texture: Texture = plain
    ) -> None:
        """Paint the visible faces of a box: top or bottom, one side, front."""
        if y[1] < self.eye:
            self.surface(Plane("y", y[1]), x, z, label, colour, 130, texture)
        if y[0] > self.eye:
            self.surface(Plane("y", y[0]), x, z, label, colour, 70, texture)
        if x[0] > 0:
            self.surface(Plane("x", x[0]), z, y, label, colour, self.side_level(-1), texture)
        if x[1] < 0:
            self.surface(Plane("x", x[1]), z, y, label, colour, self.side_level(1), texture)
        self.surface(Plane("z", z[0]), x, y, label, colour, 108, texture)

    def shadow(self, x: Range, z: Range, strength: int = 70, blur: int = 350, y: int = 0) -> None:
        """Darken the ground under and beside a footprint, away from the sun."""
        shift = -self.sun * blur // 2
        left, right = x[0] + shift, x[1] + shift
        plane = Plane("y", y)
        shape = self.quad(plane, (left - blur, right + blur), (z[0] - blur, z[1] + blur))
        a, b = self.positions(plane, shape)
        outside = np.maximum(abs(2 * a - left - right) - (right - left), 0) >> 1
        outside = outside + (np.maximum(abs(2 * b - z[0] - z[1]) - (z[1] - z[0]), 0) >> 1)
        self.canvas.relight(shape, FULL - np.maximum(blur - outside, 0) * strength // blur)

    def glow(self, z: int, x: int, y: int, radius: int, strength: int) -> None:
        """Brighten (or, with negative strength, darken) a soft disc around a point."""
        u, v = self.project(x, y, z)
        size = self.size(radius, z)
        shape = self.canvas.ellipse(u, v, size, size)
        inside = np.maximum(4096 - radial(shape, u, v, size, size), 0)
        self.canvas.relight(shape, FULL + (inside * strength >> 12))

    def rounded(self, z: int, shape: Shape, x: int, radius: int) -> IntArray:
        """Brightness of an upright round body with its axis at x, int32 (1, w)."""
        a, _ = self.positions(Plane("z", z), shape)
        turn = np.clip((a - x) * 64 // max(radius, 1), -64, 64)
        return 112 + (turn * self.sun * self.contrast >> 6) - (turn * turn >> 8)

    def blob(self, z: int, x: int, y: int, radii: Range, label: int, dark: RGB, light: RGB) -> None:
        """Paint a leafy ball with a ragged rim, brighter towards the sun and the sky."""
        (u, v), a, b = self.project(x, y, z), self.size(radii[0], z), self.size(radii[1], z)
        box = self.canvas.rectangle(u - a * 5 // 4, v - b * 5 // 4, u + a * 5 // 4, v + b * 5 // 4)
        across = (box.cols * UNIT - u) * 64 // a
        down = (box.rows * UNIT - v) * 64 // b
        leaves = noise(across + (x >> 3), down + (y >> 3))
        ball = box.only(across * across + down * down + leaves * 30 <= 4096)
        light_side = across * self.sun - down
        self.canvas.blend(ball, label, dark, light, 58 + (light_side >> 1) + leaves)


def _depth(numerator: int, offset: IntArray) -> IntArray:
    """Depth numerator / offset, limited to NEAR..FAR; at and beyond the horizon it is FAR."""
    sign = 1 if numerator >= 0 else -1
    steps = np.maximum(sign * offset, 1)
    depth: IntArray = np.clip(sign * numerator // steps, NEAR, FAR)
    return depth
