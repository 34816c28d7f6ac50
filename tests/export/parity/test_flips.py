"""Flipped pixels: split by hand, the boundary by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg_export.parity.flips import boundary, sort_flips


def brute_force_boundary(class_map: np.ndarray) -> np.ndarray:
    height, width = class_map.shape
    found = np.zeros((height, width), dtype=bool)
    for y in range(height):
        for x in range(width):
            window = class_map[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            found[y, x] = (window != class_map[y, x]).any()
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (9, 12)])
def test_the_boundary_is_where_the_3x3_neighbourhood_differs(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 2, (4, *shape), dtype=np.uint8) * (rng.random((4, *shape)) < 0.2)
    maps = maps.astype(np.uint8)
    expected = np.stack([brute_force_boundary(class_map) for class_map in maps])
    np.testing.assert_array_equal(boundary(maps), expected)


def test_flips_are_split_by_place_and_by_margin() -> None:
    reference = np.zeros((1, 5, 5), dtype=np.uint8)
    reference[0, :, 3:] = 1  # columns 2 and 3 touch the boundary
    margins = np.full((1, 5, 5), 9, dtype=np.float16)
    found = reference.copy()
    for (y, x), margin in {(0, 2): 0.05, (1, 2): 1.0, (2, 0): 0.3, (3, 0): 7.0}.items():
        found[0, y, x] = 2
        margins[0, y, x] = margin
    flips = sort_flips(found, reference, margins)
    assert (flips.pixels, flips.boundary, flips.interior) == (25, 2, 2)
    assert flips.wide == 2
    assert flips.by_margin == (1, 1, 0, 1, 0, 1)


def test_equal_maps_have_no_flips() -> None:
    maps = np.zeros((2, 3, 3), dtype=np.uint8)
    flips = sort_flips(maps, maps, np.ones((2, 3, 3), dtype=np.float16))
    assert (flips.boundary, flips.interior, flips.wide, sum(flips.by_margin)) == (0, 0, 0, 0)
