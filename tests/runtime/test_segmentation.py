"""The answer for one picture: coverage, masks, overlays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import UsageError
from edgeseg.labels import Labels, ade20k_labels, numbered_labels
from edgeseg.segmentation import Segmentation, palette_image, save_png


def segmentation(class_map: NDArray[np.uint8], labels: Labels | None = None) -> Segmentation:
    image = np.random.default_rng(5).integers(0, 256, (*class_map.shape, 3), dtype=np.uint8)
    return Segmentation(class_map, labels or ade20k_labels(), image, {"decode": 1.23456})


def random_map(classes: int = 150, shape: tuple[int, int] = (13, 17)) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, classes, shape, dtype=np.uint8)


def test_coverage_is_counted_and_sorted() -> None:
    class_map = np.array([[2, 2, 0, 1], [2, 1, 2, 2]], np.uint8)
    coverage = segmentation(class_map).coverage
    assert coverage == {"sky": 5 / 8, "building": 2 / 8, "wall": 1 / 8}
    assert list(coverage) == ["sky", "building", "wall"]


def test_equal_shares_come_in_the_order_of_ids() -> None:
    coverage = segmentation(np.array([[3, 0], [1, 2]], np.uint8)).coverage
    assert list(coverage) == ["wall", "building", "sky", "floor"]


def test_coverage_sums_to_one() -> None:
    coverage = segmentation(random_map()).coverage
    assert len(coverage) > 50
    assert sum(coverage.values()) == pytest.approx(1, abs=1e-12)


def test_a_saved_mask_holds_the_ids_under_the_classes_colours(tmp_path: Path) -> None:
    class_map = random_map()
    segmentation(class_map).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), class_map)
        colors = np.asarray(image.convert("RGB"))
    assert np.array_equal(colors, np.array(ade20k_labels().palette, np.uint8)[class_map])


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17, 255])
def test_every_id_survives_saving_also_the_ignored_one(tmp_path: Path, classes: int) -> None:
    ids = np.append(np.arange(classes), 255).astype(np.uint8)[np.newaxis]
    save_png(palette_image(ids, numbered_labels(classes)), tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), ids)
        assert image.convert("RGB").getpixel((classes, 0)) == (0, 0, 0)


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.png.bmp", ".png"])
def test_saving_under_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png: other formats change class ids"):
        segmentation(random_map()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    class_map = random_map()
    segmentation(class_map).save(str(tmp_path / "MASK.PNG"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "MASK.PNG")), class_map)


def test_a_failed_save_leaves_the_old_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mask.png").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        segmentation(random_map()).save(tmp_path / "mask.png")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
    assert (tmp_path / "mask.png").read_bytes() == b"old"


def test_the_overlay_is_a_weighted_mean_of_image_and_colours() -> None:
    found = segmentation(random_map())
    colors = np.array(ade20k_labels().palette, float)[found.class_map]
    for alpha in (0.0, 0.25, 0.55, 1.0):
        expected = (1 - alpha) * found.image + alpha * colors
        overlay = np.asarray(found.overlay(alpha)).astype(float)
        assert overlay.shape == found.image.shape
        assert np.abs(overlay - expected).max() <= 1


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_an_overlay_weight_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.1"):
        segmentation(random_map()).overlay(alpha)


def test_json_says_size_coverage_and_timings() -> None:
    document = json.loads(segmentation(np.zeros((2, 5), np.uint8)).to_json())
    assert document == {
        "height": 2,
        "width": 5,
        "coverage": {"wall": 1.0},
        "timings_ms": {"decode": 1.235},
    }
