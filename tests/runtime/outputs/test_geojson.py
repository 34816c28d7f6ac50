"""GeoJSON: rasterising the polygons gives the very same class map back."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.labels import Labels
from edgeseg.segmentation import Segmentation

pytest.importorskip("rasterio", reason="GeoJSON needs the extra 'shapes'")

from edgeseg.outputs import geojson

ClassMap = NDArray[np.uint8]
Make = Callable[[ClassMap], Segmentation]
GOLDEN = Path(__file__).with_name("street.geojson")


def document(segmentation: Segmentation) -> Any:
    return json.loads(geojson.encode(segmentation))


def polygons(feature: Any) -> list[Any]:
    geometry = feature["geometry"]
    several = geometry["type"] == "MultiPolygon"
    return list(geometry["coordinates"]) if several else [geometry["coordinates"]]


def filled(rings: list[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Even-odd filling: every upright edge turns what lies right of it inside out."""
    toggled = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in rings:
        for (x, y), (x_next, y_next) in pairwise(ring):
            assert x == x_next or y == y_next
            if x == x_next:
                toggled[min(y, y_next) : max(y, y_next), x] += 1
    return toggled.cumsum(axis=1)[:, :-1] % 2 == 1


def signed_area(ring: list[list[int]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_filling_the_polygons_gives_the_class_map_back(hard_map: ClassMap, segmented: Make) -> None:
    found = np.full(hard_map.shape, -1)
    for feature in document(segmented(hard_map))["features"]:
        for rings in polygons(feature):
            inside = filled(rings, hard_map.shape)
            assert (found[inside] == -1).all(), "two polygons cover one pixel"
            found[inside] = feature["properties"]["id"]
    assert np.array_equal(found, hard_map)


def test_shapely_calls_them_valid_and_finds_every_pixels_centre(
    hard_map: ClassMap, segmented: Make
) -> None:
    shapely = pytest.importorskip("shapely", reason="an independent judge of geometry")
    found = np.full(hard_map.shape, -1)
    rows, columns = np.indices(hard_map.shape)
    for feature in document(segmented(hard_map))["features"]:
        geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shapely.is_valid(geometry), shapely.is_valid_reason(geometry)
        assert geometry.area == feature["properties"]["area"]
        inside = shapely.contains_xy(geometry, columns + 0.5, rows + 0.5)
        found[inside] = feature["properties"]["id"]
    assert np.array_equal(found, hard_map)


def test_rings_are_closed_wound_as_rfc_7946_asks_and_turn_at_every_point(
    hard_map: ClassMap, segmented: Make
) -> None:
    for feature in document(segmented(hard_map))["features"]:
        for outer, *holes in polygons(feature):
            assert signed_area(outer) > 0
            assert all(signed_area(hole) < 0 for hole in holes)
            for ring in (outer, *holes):
                assert ring[0] == ring[-1]
                assert len(ring) >= 5
                steps = np.diff(np.array([*ring, ring[1]]), axis=0)
                turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
                assert turns.all(), "three points on one line"


def test_one_feature_per_class_with_its_properties() -> None:
    class_map = np.array([[2, 2, 1], [2, 1, 2]], np.uint8)
    labels = Labels(names=("a", "b", "c"), palette=((0, 0, 0), (1, 2, 3), (255, 160, 9)))
    result = Segmentation(class_map, labels, np.zeros((2, 3, 3), np.uint8), {})
    features = document(result)["features"]
    assert [feature["properties"] for feature in features] == [
        {"id": 1, "name": "b", "color": "#010203", "area": 2, "share": 0.333333},
        {"id": 2, "name": "c", "color": "#ffa009", "area": 4, "share": 0.666667},
    ]
    assert [feature["geometry"]["type"] for feature in features] == ["MultiPolygon"] * 2
    assert len(polygons(features[0])) == 2  # pixels that touch at a corner are apart


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ring_is_the_same_wherever_it_is_begun_and_in_whichever_direction(sign: int) -> None:
    corners = [(2.0, 1.0), (5.0, 1.0), (5.0, 4.0), (3.0, 4.0), (3.0, 3.0), (2.0, 3.0)]
    found = []
    for start in range(len(corners)):
        turned = corners[start:] + corners[: start + 1]
        found += [geojson._ring(turned, sign), geojson._ring(turned[::-1], sign)]
    assert all(ring == found[0] for ring in found)
    assert signed_area(found[0]) == sign * 8
    assert found[0][0] == found[0][-1] == [2, 1]


def test_a_view_is_drawn_as_its_copy(segmented: Make) -> None:
    class_map = np.random.default_rng(0).integers(0, 3, (12, 20), dtype=np.uint8)
    for view in (class_map[::2], class_map[:, ::-1], class_map.T):
        copy = document(segmented(np.ascontiguousarray(view)))
        assert document(segmented(view)) == copy


def street() -> Segmentation:
    class_map = np.array(
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 2, 1, 0, 0], [2, 1, 1, 1, 2, 2]], np.uint8
    )
    labels = Labels(
        names=("sky", "façade", "road"), palette=((70, 130, 180), (180, 120, 120), (128, 64, 128))
    )
    return Segmentation(class_map, labels, np.zeros((4, 6, 3), np.uint8), {}, None, "street.jpg")


def test_the_file_is_as_committed() -> None:
    assert geojson.encode(street()) + b"\n" == GOLDEN.read_bytes()
