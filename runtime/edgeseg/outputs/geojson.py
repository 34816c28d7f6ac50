"""Polygons as GeoJSON (RFC 7946): one feature per class, drawn along the edges of pixels.

Coordinates are pixels, x to the right and y down from the top left corner of the picture; pixel
(row, column) is the square from (column, row) to (column + 1, row + 1). So the polygons of all
classes cover the picture exactly, and a pixel belongs to the class in whose polygon its centre
(column + 0.5, row + 0.5) lies. Pixels that touch at a corner only are separate polygons.

Rings are closed. Outer rings have a positive area in (x, y), as RFC 7946 asks (counterclockwise
where y goes up, thus clockwise on screen), holes a negative one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmentation import Segmentation

Ring = list[list[int]]


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file, UTF-8 JSON."""
    features = [
        _feature(segmentation, class_id, polygons)
        for class_id, polygons in _trace(segmentation.class_map).items()
    ]
    document = {"type": "FeatureCollection", "features": features}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _trace(class_map: NDArray[np.uint8]) -> dict[int, list[list[Ring]]]:
    """Return each class's polygons: an outer ring, then holes."""
    from rasterio.features import shapes

    found = defaultdict(list)
    for polygon, class_id in shapes(class_map, connectivity=4):
        outer, *holes = polygon["coordinates"]
        rings = [_ring(outer, 1), *sorted(_ring(hole, -1) for hole in holes)]
        found[int(class_id)].append(rings)
    return {class_id: sorted(polygons) for class_id, polygons in sorted(found.items())}


def _ring(corners: list[tuple[float, float]], sign: int) -> Ring:
    """Return a ring in whole pixels whose signed area has this sign, from its first corner on.

    Where GDAL begins and in which direction it goes depends on its version; here it does not.
    """
    points = [[int(x), int(y)] for x, y in corners[:-1]]
    start = points.index(min(points))
    points = [*points[start:], *points[: start + 1]]
    doubled_area = sum(x * y1 - x1 * y for (x, y), (x1, y1) in pairwise(points))
    return points if doubled_area * sign > 0 else points[::-1]


def _feature(
    segmentation: Segmentation, class_id: int, polygons: list[list[Ring]]
) -> dict[str, Any]:
    labels, class_map = segmentation.labels, segmentation.class_map
    area = int(np.count_nonzero(class_map == class_id))
    several = len(polygons) > 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": polygons if several else polygons[0],
        },
        "properties": {
            "id": class_id,
            "name": labels.names[class_id],
            "color": "#{:02x}{:02x}{:02x}".format(*labels.palette[class_id]),
            "area": area,  # pixels
            "share": round(area / class_map.size, 6),
        },
    }
