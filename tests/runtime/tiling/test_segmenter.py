"""TiledSegmenter against plain ONNX Runtime and sums in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import Segmenter
from edgeseg.errors import ArtifactError, InputError, UsageError
from edgeseg.labels import numbered_labels
from edgeseg.preprocess import Preprocessing
from edgeseg.tiling import TiledSegmenter

Pixels = NDArray[np.uint8]
Scored = Callable[[Pixels], NDArray[np.float64]]

DATA = Path(__file__).parents[2] / "data"
TILE = (32, 48)


@pytest.fixture(scope="module")
def with_logits() -> Segmenter:
    return Segmenter.load(DATA / "tiny_logits", "ort:cpu", "fp32", TILE)


@pytest.fixture(scope="module")
def class_maps_only(tiny_bundle: Path) -> Segmenter:
    return Segmenter.load(tiny_bundle, "ort:cpu", "fp32")


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth picture with noise, so that the network answers with several classes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def tent(length: int) -> NDArray[np.float64]:
    return np.array([min(i + 1, length - i) for i in range(length)], dtype=np.float64)


def window_starts(length: int, tile: int, overlap: int) -> list[int]:
    count = int(np.ceil((length - overlap) / (tile - overlap)))
    return [int(i * (length - tile) / (count - 1)) for i in range(count)] if count > 1 else [0]


def plain_sliding_window(
    pixels: Pixels, tile: tuple[int, int], overlap: int, scores: Scored
) -> NDArray[np.float64]:
    """Return the weighted mean of scores (C, h, w) of all windows, float64 (C, H, W)."""
    total, weight = 0.0, np.zeros(pixels.shape[:2])
    pyramid = np.outer(tent(tile[0]), tent(tile[1]))
    for top in window_starts(pixels.shape[0], tile[0], overlap):
        for left in window_starts(pixels.shape[1], tile[1], overlap):
            rows, columns = slice(top, top + tile[0]), slice(left, left + tile[1])
            answer = scores(pixels[rows, columns])
            if isinstance(total, float):
                total = np.zeros((len(answer), *pixels.shape[:2]))
            total[:, rows, columns] += answer * pyramid
            weight[rows, columns] += pyramid
    return np.asarray(total / weight)


def onnx_output(bundle: Path, name: str) -> Scored:
    session = onnxruntime.InferenceSession(
        str(bundle / "model.fp32.onnx"), providers=["CPUExecutionProvider"]
    )

    def run(pixels: Pixels) -> NDArray[np.float64]:
        answer = session.run([name], {"images": pixels[np.newaxis]})[0][0]
        return np.asarray(answer, dtype=np.float64)

    return run


@pytest.mark.parametrize("size", [(32, 48), (100, 131), (33, 49), (64, 96), (33, 200)])
@pytest.mark.parametrize("overlap", [0, 7, 16, 23])
def test_blended_logits_are_those_of_a_plain_sliding_window(
    with_logits: Segmenter, size: tuple[int, int], overlap: int
) -> None:
    pixels = scene(*size)
    logits = onnx_output(DATA / "tiny_logits", "logits")
    expected = plain_sliding_window(pixels, TILE, overlap, logits).argmax(0)
    found = TiledSegmenter(with_logits, overlap)(pixels)
    assert found.class_map.dtype == np.uint8
    assert np.mean(found.class_map == expected) > 0.999
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("overlap", [0, 12, 30])
def test_a_bundle_without_logits_votes_with_its_class_maps(
    class_maps_only: Segmenter, tiny_bundle: Path, overlap: int
) -> None:
    pixels = scene(131, 150)
    ids = np.arange(150)[:, np.newaxis, np.newaxis]
    class_map = onnx_output(tiny_bundle, "class_map")
    votes = plain_sliding_window(
        pixels, (48, 64), overlap, lambda window: (class_map(window) == ids).astype(np.float64)
    )
    tiled = TiledSegmenter(class_maps_only, overlap)
    assert not tiled.has_logits
    found = tiled(pixels).class_map
    margin = np.diff(np.sort(votes, axis=0)[-2:], axis=0)[0]
    assert np.array_equal(found[margin > 1e-6], votes.argmax(0)[margin > 1e-6])
    assert np.mean(margin > 1e-6) > 0.99


def test_one_tile_over_the_whole_picture_is_the_plain_segmenter(with_logits: Segmenter) -> None:
    pixels = scene(*TILE)
    expected = with_logits(pixels).class_map
    assert np.array_equal(TiledSegmenter(with_logits, 8)(pixels).class_map, expected)
    assert len(np.unique(expected)) > 1


def test_without_overlap_each_tile_is_the_plain_segmenter(class_maps_only: Segmenter) -> None:
    pixels = scene(96, 128)
    found = TiledSegmenter(class_maps_only, 0)(pixels).class_map
    for top in (0, 48):
        for left in (0, 64):
            window = slice(top, top + 48), slice(left, left + 64)
            assert np.array_equal(found[window], class_maps_only(pixels[window]).class_map)


@pytest.mark.parametrize("size", [(20, 30), (1, 1), (20, 100), (100, 20)])
def test_a_side_shorter_than_the_tile_is_filled_not_resized(
    with_logits: Segmenter, size: tuple[int, int]
) -> None:
    pixels = scene(*size)
    fill = np.array(with_logits.preprocessing.fill, dtype=np.uint8)
    whole = np.broadcast_to(fill, (max(size[0], 32), max(size[1], 48), 3)).copy()
    whole[: size[0], : size[1]] = pixels
    tiled = TiledSegmenter(with_logits, 5)
    expected = tiled(whole).class_map[: size[0], : size[1]]
    found = tiled(pixels).class_map
    assert found.shape == size
    if max(size[0], 32) == 32 and max(size[1], 48) == 48:
        assert np.array_equal(expected, with_logits(whole).class_map[: size[0], : size[1]])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "none"])
def test_windows_are_not_resized_whatever_the_bundles_rule(rule: str) -> None:
    seen: list[Pixels] = []
    segmenter = Segmenter(
        Fake(3, seen), numbered_labels(3), Preprocessing(height=32, width=48, resize=rule)
    )
    pixels = scene(60, 90)
    TiledSegmenter(segmenter, 4)(pixels)
    corner = seen[1][0]  # the first one is the question for logits
    assert np.array_equal(corner, pixels[:32, :48])


class Fake:
    """A session whose logits are the pixels' channels, and which remembers its inputs."""

    backend, variant, fallback = "fake", "fake", None

    def __init__(self, classes: int, seen: list[Pixels]) -> None:
        self.classes, self.seen = classes, seen

    def infer_logits(self, images: Pixels) -> NDArray[np.float32]:
        self.seen.append(images)
        planes = images[..., np.arange(self.classes) % 3]
        return np.moveaxis(planes, 3, 1).astype(np.float32)

    def infer(self, images: Pixels) -> Pixels:
        raise AssertionError("a session with logits is not asked for class maps")

    def close(self) -> None:
        pass


class Voter(Fake):
    """A session without logits that answers with one class."""

    def infer_logits(self, images: Pixels) -> NDArray[np.float32]:
        raise UsageError("this bundle holds class maps only")

    def infer(self, images: Pixels) -> Pixels:
        return np.full(images.shape[:3], self.classes, dtype=np.uint8)


def small(session: Fake, classes: int = 3) -> Segmenter:
    return Segmenter(session, numbered_labels(classes), Preprocessing(height=8, width=8))


def test_tiles_go_to_the_network_in_batches_and_the_last_one_is_shorter() -> None:
    seen: list[Pixels] = []
    pixels = scene(24, 32)
    one_by_one = TiledSegmenter(small(Fake(3, [])), 2)(pixels)
    found = TiledSegmenter(small(Fake(3, seen)), 2, batch=8)(pixels)
    assert [len(images) for images in seen] == [1, 8, 8, 4]
    assert np.array_equal(found.class_map, one_by_one.class_map)


def test_the_budget_changes_memory_not_the_result(with_logits: Segmenter) -> None:
    pixels = scene(70, 250, seed=2)
    whole = TiledSegmenter(with_logits, 20)
    narrow = TiledSegmenter(with_logits, 20, budget=1)
    assert len(narrow.plan(70, 250).bands(150, 1)) > 5
    assert np.array_equal(narrow(pixels).class_map, whole(pixels).class_map)


def test_every_source_that_the_segmenter_reads_is_read(
    with_logits: Segmenter, tmp_path: Path
) -> None:
    pixels = scene(50, 70)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tiled = TiledSegmenter(with_logits, 8)
    expected = tiled(pixels)
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(pixels)):
        found = tiled(source)
        assert np.array_equal(found.class_map, expected.class_map)
        assert np.array_equal(found.image, pixels)
    with pytest.raises(InputError, match="does not exist"):
        tiled(tmp_path / "b.png")


def test_the_result_has_the_stages_coverage_and_progress(with_logits: Segmenter) -> None:
    calls: list[tuple[int, int]] = []
    result = TiledSegmenter(with_logits, 8)(scene(60, 100), lambda *call: calls.append(call))
    assert set(result.timings_ms) == {"decode", "pre", "compute", "post"}
    assert all(ms >= 0 for ms in result.timings_ms.values())
    assert result.timings_ms["compute"] > 0
    assert sum(result.coverage.values()) == pytest.approx(1)
    assert calls == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(("overlap", "batch"), [(8, 1), (-1, 1), (0, 0)])
def test_arguments_that_do_not_fit_are_refused_at_once(overlap: int, batch: int) -> None:
    with pytest.raises(UsageError, match=r"overlap|batch"):
        TiledSegmenter(small(Fake(3, [])), overlap, batch=batch)


def test_logits_of_more_classes_than_the_bundle_names_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"has 4 classes.*only 3"):
        TiledSegmenter(small(Fake(4, [])), 0)


def test_votes_for_a_class_that_the_bundle_does_not_name_are_refused() -> None:
    tiled = TiledSegmenter(small(Voter(7, [])), 0)
    with pytest.raises(ArtifactError, match=r"class 7.*only 3"):
        tiled(scene(8, 8))


def test_the_segmenter_stays_open_and_unchanged(tiny_bundle: Path) -> None:
    with Segmenter.load(tiny_bundle, "ort:cpu", "fp32") as segmenter:
        pixels = scene(100, 90)
        before = segmenter(pixels).class_map
        TiledSegmenter(segmenter, 4)(pixels)
        assert np.array_equal(segmenter(pixels).class_map, before)
