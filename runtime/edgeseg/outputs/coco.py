"""COCO annotations: one document per picture, one run-length encoded mask per class.

``pycocotools.coco.COCO("NAME.coco.json")`` loads it, and ``annToMask`` gives the pixels of the
class map back. Category ids are class ids, so they begin at 0; annotation ids begin at 1, because
COCO's evaluation takes 0 for "no match". A class is one annotation, however many parts it has:
where one object ends and the next begins a class map does not say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmentation import Segmentation

IMAGE_ID = 1


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file: ASCII, because pycocotools reads in the locale's encoding."""
    height, width = segmentation.class_map.shape
    labels = segmentation.labels
    document = {
        "images": [
            {"id": IMAGE_ID, "file_name": segmentation.name, "height": height, "width": width}
        ],
        "categories": [
            {"id": i, "name": name, "color": color}
            for i, (name, color) in enumerate(zip(labels.names, labels.palette, strict=True))
        ],
        "annotations": [
            {
                "id": number,
                "image_id": IMAGE_ID,
                "category_id": class_id,
                **_shape(pixels),
                "iscrowd": 0,
            }
            for number, (class_id, pixels) in enumerate(_classes(segmentation.class_map), start=1)
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _classes(class_map: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield each class that occurs and where it is: 0 or 1 per pixel, column after column."""
    by_columns = np.asfortranarray(class_map)  # once: this costs more than the encoding
    for class_id in np.flatnonzero(np.bincount(class_map.ravel())).tolist():
        yield class_id, (by_columns == class_id).view(np.uint8)


def _shape(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    from pycocotools import mask

    runs = mask.encode(pixels)
    return {
        "segmentation": {"size": list(pixels.shape), "counts": runs["counts"].decode("ascii")},
        "area": int(mask.area(runs)),
        "bbox": mask.toBbox(runs).tolist(),  # left, top, width, height
    }
