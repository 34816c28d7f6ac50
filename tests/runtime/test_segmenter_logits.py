"""Segmenter with logits: smooth masks and confidence, for every resize rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import Segmenter
from edgeseg.errors import ArtifactError, UsageError
from edgeseg.labels import numbered_labels
from edgeseg.preprocess import Preprocessing, ResizeRule

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
SIZES = [(48, 64), (200, 120), (333, 97), (1, 50), (30, 20)]


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def plain_logits(bundle: Path, pixels: Pixels, variant: str = "fp32") -> Floats:
    """What plain Pillow and plain ONNX Runtime make of a picture, (C, 48, 64)."""
    small = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.BILINEAR))
    session = onnxruntime.InferenceSession(
        str(bundle / f"model.{variant}.onnx"), providers=["CPUExecutionProvider"]
    )
    found: Floats = session.run(["logits"], {"images": small[np.newaxis]})[0][0]
    return found


def bilinear(planes: Floats, height: int, width: int) -> NDArray[np.float64]:
    """Half-pixel bilinear in float64, one pixel after the other."""
    h, w = planes.shape[1:]
    found = np.empty((len(planes), height, width))
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top, down = int(y), y - int(y)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left, right = int(x), x - int(x)
            corners = planes[:, top : top + 2, left : left + 2].astype(np.float64)
            rows = np.array([1 - down, down][: corners.shape[1]])
            columns = np.array([1 - right, right][: corners.shape[2]])
            found[:, i, j] = np.einsum("cij,i,j->c", corners, rows, columns)
    return found


def lead(planes: NDArray[np.floating]) -> NDArray[np.floating]:
    order = np.sort(planes, axis=0)
    return order[-1] - order[-2]


class Fixed:
    """A session that answers with given logits, whatever it sees."""

    backend, variant, fallback = "fake", "fake", None

    def __init__(self, logits_chw: Floats) -> None:
        self.logits = logits_chw

    def infer(self, images: Pixels) -> Pixels:
        ids = self.logits.argmax(axis=0).astype(np.uint8)
        return np.broadcast_to(ids, (len(images), *ids.shape))

    def infer_logits(self, images: Pixels) -> Floats:
        return np.broadcast_to(self.logits, (len(images), *self.logits.shape))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("variant", ["fp32", "int8-cpu"])
@pytest.mark.parametrize("size", SIZES)
def test_confidence_changes_no_class(
    tiny_logits: Path, variant: str, size: tuple[int, int]
) -> None:
    pixels = scene(*size)
    with Segmenter.load(tiny_logits, "ort:cpu", variant) as plain:
        expected = plain(pixels)
    with Segmenter.load(tiny_logits, "ort:cpu", variant, confidence=True) as segmenter:
        found = segmenter(pixels)
    assert np.array_equal(found.class_map, expected.class_map)
    assert expected.confidence is None
    assert found.confidence is not None
    assert found.confidence.shape == size
    assert found.confidence.dtype == np.float32
    assert found.confidence.min() >= 0


@pytest.mark.parametrize("size", SIZES)
def test_confidence_is_the_lead_of_the_networks_nearest_pixel(
    tiny_logits: Path, size: tuple[int, int]
) -> None:
    pixels = scene(*size)
    margin = lead(plain_logits(tiny_logits, pixels))
    expected = Image.fromarray(margin).resize(size[::-1], Image.Resampling.NEAREST)
    with Segmenter.load(tiny_logits, "ort:cpu", "fp32", confidence=True) as segmenter:
        found = segmenter(pixels).confidence
    assert found is not None
    assert np.allclose(found, np.asarray(expected), atol=1e-5)
    assert found.max() > 0


def test_smooth_masks_are_the_best_class_of_interpolated_logits(tiny_logits: Path) -> None:
    pixels = scene(90, 150)
    planes = bilinear(plain_logits(tiny_logits, pixels), 90, 150)
    with Segmenter.load(tiny_logits, "ort:cpu", "fp32", smooth=True, confidence=True) as segmenter:
        found = segmenter(pixels)
    assert found.confidence is not None
    assert np.abs(found.confidence - lead(planes)).max() < 1e-4
    clear = lead(planes) > 1e-4
    assert np.array_equal(found.class_map[clear], planes.argmax(axis=0)[clear])
    with Segmenter.load(tiny_logits, "ort:cpu", "fp32") as plain:
        assert not np.array_equal(found.class_map, plain(pixels).class_map)


def test_smooth_alone_gives_the_same_mask_and_no_confidence(tiny_logits: Path) -> None:
    pixels = scene(90, 150)
    with Segmenter.load(tiny_logits, smooth=True) as one:
        smooth = one(pixels)
    with Segmenter.load(tiny_logits, smooth=True, confidence=True) as both:
        assert np.array_equal(smooth.class_map, both(pixels).class_map)
    assert smooth.confidence is None


def test_at_the_networks_own_size_smooth_changes_nothing(tiny_logits: Path) -> None:
    pixels = scene(48, 64)
    with Segmenter.load(tiny_logits) as plain, Segmenter.load(tiny_logits, smooth=True) as smooth:
        assert np.array_equal(smooth(pixels).class_map, plain(pixels).class_map)


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
@pytest.mark.parametrize("size", [(21, 32), (32, 11), (9, 8)])
def test_every_resize_rule_shows_only_the_part_with_the_picture(
    rule: ResizeRule, size: tuple[int, int]
) -> None:
    """Around the picture another class is certain; none of it may leak over the edge."""
    preprocessing = Preprocessing(height=32, width=32, resize=rule)
    window = preprocessing.place(*size).window
    logits = np.zeros((5, 32, 32), np.float32)
    logits[4] = 1000
    inside = np.random.default_rng(3).normal(size=(4, *logits[0][window].shape))
    logits[:4, window[0], window[1]] = inside
    logits[4][window] = -1000
    segmenter = Segmenter(
        Fixed(logits), numbered_labels(5), preprocessing, smooth=True, confidence=True
    )
    found = segmenter(scene(*size))
    planes = bilinear(logits[(slice(None), *window)], *size)
    assert found.confidence is not None
    assert np.abs(found.confidence - lead(planes)).max() < 1e-4
    clear = lead(planes) > 1e-4
    assert np.array_equal(found.class_map[clear], planes.argmax(axis=0)[clear])


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
@pytest.mark.parametrize("size", [(21, 32), (32, 11), (9, 8)])
def test_with_every_resize_rule_the_confidence_is_that_of_the_class_beside_it(
    rule: ResizeRule, size: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(height=32, width=32, resize=rule)
    ids = np.arange(32 * 32).reshape(32, 32)
    logits = np.zeros((9, 32, 32), np.float32)
    np.put_along_axis(logits, ids[np.newaxis] % 9, 1 + ids[np.newaxis].astype(np.float32), axis=0)
    segmenter = Segmenter(Fixed(logits), numbered_labels(9), preprocessing, confidence=True)
    found = segmenter(scene(*size))
    assert found.confidence is not None
    assert np.array_equal(found.class_map, (found.confidence - 1) % 9)
    assert np.isin(found.confidence - 1, ids[preprocessing.place(*size).window]).all()


@pytest.mark.parametrize("wish", [{"smooth": True}, {"confidence": True}])
def test_a_bundle_without_logits_is_refused_before_its_model_is_loaded(
    tiny_bundle: Path, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr("edgeseg.segmenter.open_session", fail)
    with pytest.raises(UsageError, match="holds class maps only; for logits export it with"):
        Segmenter.load(tiny_bundle, **wish)


@pytest.mark.parametrize("wish", [{"smooth": True}, {"confidence": True}])
def test_more_logits_than_names_are_an_artifact_error(wish: dict[str, Any]) -> None:
    session = Fixed(np.zeros((6, 8, 8), np.float32))
    segmenter = Segmenter(session, numbered_labels(5), Preprocessing(height=8, width=8), **wish)
    with pytest.raises(ArtifactError, match="class 5, but its bundle names only 5 classes"):
        segmenter(scene(9, 9))


def test_a_smooth_batch_of_different_sizes_equals_single_calls(tiny_logits: Path) -> None:
    pictures = [scene(40 + 7 * i, 90 - 9 * i, seed=i) for i in range(3)]
    with Segmenter.load(tiny_logits, batch=3, smooth=True, confidence=True) as segmenter:
        together = segmenter.batch(pictures)
        for picture, result in zip(pictures, together, strict=True):
            alone = segmenter(picture)
            assert np.array_equal(result.class_map, alone.class_map)
            assert result.confidence is not None
            assert np.allclose(result.confidence, alone.confidence, atol=1e-5)


def test_logits_are_kept_only_while_a_smooth_mask_needs_them(tiny_logits: Path) -> None:
    pixels = scene(20, 20)
    with Segmenter.load(tiny_logits, confidence=True) as segmenter:
        (answer,) = segmenter.infer([segmenter.prepare(pixels)])
        assert answer.logits is None
        assert answer.margin is not None
    with Segmenter.load(tiny_logits, smooth=True) as segmenter:
        (answer,) = segmenter.infer([segmenter.prepare(pixels)])
        assert answer.logits is not None
        assert answer.logits.shape == (150, 48, 64)
        assert answer.margin is None


def test_the_pictures_file_name_stays_with_its_segmentation(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "straße 1.png"
    Image.fromarray(scene(10, 12)).save(path)
    with Segmenter.load(tiny_bundle) as segmenter:
        assert segmenter(path).name == "straße 1.png"
        assert segmenter(str(path)).name == "straße 1.png"
        assert segmenter(path.read_bytes()).name == ""
        assert segmenter(scene(10, 12)).name == ""
