"""Class maps that are hard to draw, and segmentations of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.labels import numbered_labels
from edgeseg.segmentation import Segmentation

ClassMap = NDArray[np.uint8]
Make = Callable[[ClassMap], Segmentation]


def _parse(text: str) -> ClassMap:
    return np.array([[int(cell) for cell in row] for row in text.split()], np.uint8)


def _random(classes: int, shape: tuple[int, int], seed: int) -> ClassMap:
    return np.random.default_rng(seed).integers(0, classes, shape, dtype=np.uint8)


HARD_MAPS = {
    "one pixel": _parse("0"),
    "one class": _parse("333 333"),
    "one row": _parse("0110120"),
    "one column": _parse("0 1 1 0 2"),
    "single pixels": _parse("00000 01020 00000 03010 00000"),
    "checkerboard": np.indices((8, 9)).sum(axis=0).astype(np.uint8) % 2,
    "diagonal": np.eye(9, dtype=np.uint8),
    "both diagonals": np.eye(9, dtype=np.uint8) | np.eye(9, dtype=np.uint8)[::-1],
    "holes that touch": _parse("1111 1011 1101 1111"),
    "hole touching its outer ring": _parse("0111 1011 1111 1111"),
    "holes in holes": np.pad(_parse("0").repeat(1, 0), 7, mode="linear_ramp", end_values=7).astype(
        np.uint8
    )
    % 2,
    "three classes deep": _parse("0000000 0111110 0122210 0120210 0122210 0111110 0000000"),
    "at the border": _parse("1001 0000 0000 1001"),
    "comb": np.tile(_parse("10").repeat(6, 0), (1, 5)),
    "highest ids": np.array([[254, 0], [253, 254]], np.uint8),
    "two classes": _random(2, (13, 17), 1),
    "five classes": _random(5, (31, 23), 2),
    "all classes": _random(255, (40, 41), 3),
}


@pytest.fixture(params=HARD_MAPS, ids=lambda name: name.replace(" ", "-"))
def hard_map(request: pytest.FixtureRequest) -> ClassMap:
    """A uint8 class map that is hard to draw."""
    return HARD_MAPS[request.param]


@pytest.fixture
def segmented() -> Make:
    """Return a segmentation of a class map, on a random picture."""

    def make(class_map: ClassMap) -> Segmentation:
        rng = np.random.default_rng(5)
        image = rng.integers(0, 256, (*class_map.shape, 3), dtype=np.uint8)
        confidence = rng.exponential(4, class_map.shape).astype(np.float32)
        return Segmentation(class_map, numbered_labels(255), image, {}, confidence, "straße 1.jpg")

    return make
