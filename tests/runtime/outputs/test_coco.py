"""COCO: pycocotools loads the document and decodes the very same class map."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.labels import Labels
from edgeseg.segmentation import Segmentation

pytest.importorskip("pycocotools", reason="COCO needs the extra 'shapes'")

from pycocotools.coco import COCO

from edgeseg.outputs import coco

ClassMap = NDArray[np.uint8]
Make = Callable[[ClassMap], Segmentation]
GOLDEN = Path(__file__).with_name("street.coco.json")


@pytest.fixture
def load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Segmentation], Any]:
    """Write a document and load it with pycocotools, which prints while it does so."""

    def through_a_file(segmentation: Segmentation) -> Any:
        path = tmp_path / "street.coco.json"
        path.write_bytes(coco.encode(segmentation))
        loaded = COCO(str(path))
        capsys.readouterr()
        return loaded

    return through_a_file


def test_decoding_gives_the_class_map_back(
    hard_map: ClassMap, segmented: Make, load: Callable[[Segmentation], Any]
) -> None:
    loaded = load(segmented(hard_map))
    found = np.full(hard_map.shape, -1)
    for annotation in loaded.loadAnns(loaded.getAnnIds(imgIds=[1])):
        mask = loaded.annToMask(annotation)
        assert mask.shape == hard_map.shape
        assert (found[mask == 1] == -1).all(), "two annotations cover one pixel"
        found[mask == 1] = annotation["category_id"]
    assert np.array_equal(found, hard_map)


def test_area_and_box_are_those_of_the_pixels(
    hard_map: ClassMap, segmented: Make, load: Callable[[Segmentation], Any]
) -> None:
    loaded = load(segmented(hard_map))
    annotations = loaded.loadAnns(loaded.getAnnIds())
    ids = np.unique(hard_map)
    assert [annotation["category_id"] for annotation in annotations] == ids.tolist()
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(ids) + 1))
    for annotation in annotations:
        rows, columns = np.nonzero(hard_map == annotation["category_id"])
        left, top = columns.min(), rows.min()
        width, height = columns.max() + 1 - left, rows.max() + 1 - top
        assert annotation["area"] == len(rows)
        assert annotation["bbox"] == [left, top, width, height]
        assert annotation["iscrowd"] == 0
        assert annotation["image_id"] == 1


def test_images_and_categories_are_named(
    segmented: Make, load: Callable[[Segmentation], Any]
) -> None:
    result = segmented(np.zeros((3, 8), np.uint8))
    loaded = load(result)
    assert loaded.loadImgs([1]) == [{"id": 1, "file_name": "straße 1.jpg", "height": 3, "width": 8}]
    categories = loaded.loadCats(loaded.getCatIds())
    assert [category["id"] for category in categories] == list(range(255))
    assert tuple(category["name"] for category in categories) == result.labels.names
    assert tuple(tuple(category["color"]) for category in categories) == result.labels.palette


@pytest.mark.parametrize("name", ["straße 1.jpg", "not utf-8 \udcff.jpg", ""])
def test_any_file_name_is_written_and_read(
    segmented: Make, load: Callable[[Segmentation], Any], name: str
) -> None:
    result = dataclasses.replace(segmented(np.zeros((3, 8), np.uint8)), name=name)
    assert coco.encode(result).isascii()  # pycocotools reads in the locale's encoding
    assert load(result).loadImgs([1])[0]["file_name"] == name


def test_cocos_own_evaluation_calls_it_perfect(
    segmented: Make,
    load: Callable[[Segmentation], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pycocotools.cocoeval import COCOeval

    class_map = np.random.default_rng(0).integers(0, 4, (32, 48), dtype=np.uint8)
    truth = load(segmented(class_map))
    found = [
        {key: annotation[key] for key in ("image_id", "category_id", "segmentation")}
        | {"score": 0.9}
        for annotation in truth.loadAnns(truth.getAnnIds())
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    capsys.readouterr()
    for rates in (evaluation.eval["precision"], evaluation.eval["recall"]):
        known = rates[rates > -1]  # -1: a class that does not occur
        assert known.size > 0
        assert np.allclose(known, 1)


def test_the_file_is_as_committed() -> None:
    class_map = np.array(
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 2, 1, 0, 0], [2, 1, 1, 1, 2, 2]], np.uint8
    )
    labels = Labels(
        names=("sky", "façade", "road"), palette=((70, 130, 180), (180, 120, 120), (128, 64, 128))
    )
    image = np.zeros((4, 6, 3), np.uint8)
    street = Segmentation(class_map, labels, image, {}, None, "street.jpg")
    assert json.loads(coco.encode(street)) == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert coco.encode(street) + b"\n" == GOLDEN.read_bytes()
