"""Segmenter: any picture in, a class map of its own size out."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import Segmenter
from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, InputError, UsageError
from edgeseg.labels import numbered_labels
from edgeseg.preprocess import Preprocessing

Pixels = NDArray[np.uint8]
Edit = Callable[[Callable[[dict[str, Any]], object]], None]
INPUT = Preprocessing(height=12, width=10)


@pytest.fixture(scope="module")
def segmenter(tiny_bundle: Path) -> Segmenter:
    return Segmenter.load(tiny_bundle, "ort:cpu", "fp32")


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth picture with noise, so that the network answers with several classes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def answer(bundle: Path, pixels: Pixels) -> Pixels:
    """What plain Pillow and plain ONNX Runtime make of a picture."""
    height, width = pixels.shape[:2]
    small = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.BILINEAR))
    session = onnxruntime.InferenceSession(
        str(bundle / "model.fp32.onnx"), providers=["CPUExecutionProvider"]
    )
    class_map = session.run(None, {"images": small[np.newaxis]})[0][0]
    image = Image.fromarray(class_map).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


class Recorder:
    """A session that remembers its input and answers with rows of ids."""

    backend, variant = "fake", "fake"

    def __init__(self, highest: int = 3) -> None:
        self.seen: list[Pixels] = []
        self.highest = highest

    def infer(self, images: Pixels) -> Pixels:
        self.seen.append(images)
        n, height, width = images.shape[:3]
        ids = np.linspace(0, self.highest, height).astype(np.uint8)
        return np.broadcast_to(ids[:, np.newaxis], (n, height, width)).copy()

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "shape", [(48, 64), (47, 63), (200, 120), (1, 1), (1, 50), (50, 1), (333, 97)]
)
def test_the_class_map_has_the_pictures_size_and_the_networks_answer(
    segmenter: Segmenter, tiny_bundle: Path, shape: tuple[int, int]
) -> None:
    pixels = scene(*shape)
    result = segmenter(pixels)
    assert result.class_map.shape == shape
    assert result.class_map.dtype == np.uint8
    assert np.array_equal(result.class_map, answer(tiny_bundle, pixels))
    assert np.array_equal(result.image, pixels)


def test_the_network_answers_with_several_classes(segmenter: Segmenter) -> None:
    coverage = segmenter(scene(120, 160)).coverage
    assert len(coverage) > 1
    assert sum(coverage.values()) == pytest.approx(1)


def test_a_turned_photo_is_segmented_upright(segmenter: Segmenter) -> None:
    pixels = scene(30, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    result = segmenter(buffer.getvalue())
    assert np.array_equal(result.image, pixels)
    assert np.array_equal(result.class_map, segmenter(pixels).class_map)


def test_a_batch_of_different_sizes_equals_single_calls(segmenter: Segmenter) -> None:
    pictures = [scene(40 + 7 * i, 90 - 9 * i, seed=i) for i in range(5)]
    together = segmenter.batch(pictures)
    assert len(together) == 5
    for picture, result in zip(pictures, together, strict=True):
        assert np.array_equal(result.class_map, segmenter(picture).class_map)
    assert len({result.class_map.tobytes() for result in together}) == 5


def test_an_empty_batch_is_empty(segmenter: Segmenter) -> None:
    assert segmenter.batch([]) == []


def test_one_bad_picture_in_a_batch_is_an_input_error(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match=r"missing\.png"):
        segmenter.batch([scene(4, 4), "missing.png"])


def test_the_same_picture_gives_the_same_map_again(segmenter: Segmenter) -> None:
    pixels = scene(77, 55)
    maps = {segmenter(pixels).class_map.tobytes() for _ in range(4)}
    assert len(maps) == 1


def test_threads_on_one_session_get_the_right_answers(segmenter: Segmenter) -> None:
    pictures = [scene(30 + i, 60 - i, seed=i) for i in range(8)] * 2
    expected = [segmenter(picture).class_map for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(segmenter, pictures))
    for result, class_map in zip(results, expected, strict=True):
        assert np.array_equal(result.class_map, class_map)


def test_views_of_arrays_are_segmented_as_their_copies(segmenter: Segmenter) -> None:
    pixels = scene(96, 64)
    for view in (pixels[::2], pixels[:, ::-1], pixels.swapaxes(0, 1)):
        copy = segmenter(np.ascontiguousarray(view)).class_map
        assert np.array_equal(segmenter(view).class_map, copy)


def test_the_callers_array_is_not_changed(segmenter: Segmenter) -> None:
    pixels = scene(48, 64).copy()
    before = pixels.copy()
    segmenter(pixels).overlay()
    assert np.array_equal(pixels, before)


def test_both_variants_answer_almost_alike(tiny_bundle: Path) -> None:
    reference = Bundle.open(tiny_bundle).reference()
    with Segmenter.load(tiny_bundle, "ort:cpu", "int8-cpu") as int8:
        found = np.stack([int8(image).class_map for image in reference.images])
    assert np.mean(found == reference.class_maps) > 0.95


def test_a_closed_segmenter_refuses_to_work(tiny_bundle: Path) -> None:
    with Segmenter.load(tiny_bundle) as segmenter:
        assert segmenter(scene(5, 5)).class_map.shape == (5, 5)
    with pytest.raises(DeviceError, match="the session is closed"):
        segmenter(scene(5, 5))
    segmenter.close()


def test_every_stage_is_timed(segmenter: Segmenter) -> None:
    for result in segmenter.batch([scene(60, 80), scene(9, 9)]):
        assert list(result.timings_ms) == ["decode", "pre", "compute", "post"]
        assert all(ms >= 0 for ms in result.timings_ms.values())
        assert result.timings_ms["compute"] > 0


def test_the_network_gets_one_stacked_uint8_batch() -> None:
    session = Recorder()
    segmenter = Segmenter(session, numbered_labels(4), INPUT)
    results = segmenter.batch([scene(24, 10), scene(7, 70)])
    assert [seen.shape for seen in session.seen] == [(2, 12, 10, 3)]
    assert session.seen[0].dtype == np.uint8
    assert session.seen[0].flags.c_contiguous
    assert [result.class_map.shape for result in results] == [(24, 10), (7, 70)]
    assert results[0].class_map[:, 0].tolist() == sorted(results[0].class_map[:, 0].tolist())


def test_a_class_without_a_name_is_an_artifact_error() -> None:
    segmenter = Segmenter(
        Recorder(highest=4), numbered_labels(4), Preprocessing(height=12, width=10)
    )
    with pytest.raises(ArtifactError, match="answered class 4, but its bundle names only 4"):
        segmenter(scene(5, 5))


def test_loading_takes_a_path_text_or_an_opened_bundle(tiny_bundle: Path) -> None:
    pixels = scene(20, 30)
    maps = []
    for source in (tiny_bundle, str(tiny_bundle), Bundle.open(tiny_bundle)):
        with Segmenter.load(source) as segmenter:
            maps.append(segmenter(pixels).class_map)
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


def test_a_static_bundle_runs_only_at_its_own_size(tiny_bundle: Path) -> None:
    assert Segmenter.load(tiny_bundle, size=(48, 64)).preprocessing.size == (48, 64)
    with pytest.raises(
        UsageError, match="runs at 48x64 only; export it with --sizes or --dynamic size"
    ):
        Segmenter.load(tiny_bundle, size=(64, 48))


def test_a_dynamic_bundle_refuses_sizes_the_network_cannot_take(tiny_bundle: Path) -> None:
    static = Bundle.open(tiny_bundle)
    bundle = Bundle(static.path, static.manifest.model_copy(update={"dynamic_size": True}))
    assert Segmenter.load(bundle, size=(96, 128)).preprocessing.size == (96, 128)
    with pytest.raises(UsageError, match="50x64 is not a multiple of 4"):
        Segmenter.load(bundle, size=(50, 64))
    with pytest.raises(UsageError, match="48x66 is not a multiple of 4"):
        Segmenter.load(bundle, size=(48, 66))


def test_saving_writes_the_class_map(segmenter: Segmenter, tmp_path: Path) -> None:
    result = segmenter(scene(31, 21))
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), result.class_map)


def test_a_bucketed_bundle_runs_at_its_sizes_only(tiny_bundle: Path) -> None:
    static = Bundle.open(tiny_bundle)
    sizes = ((48, 64), (96, 128))
    bundle = Bundle(static.path, static.manifest.model_copy(update={"sizes": sizes}))
    assert Segmenter.load(bundle).preprocessing.size == (48, 64)
    assert Segmenter.load(bundle, size=(96, 128)).preprocessing.size == (96, 128)
    with pytest.raises(UsageError, match="runs at 48x64, 96x128 only"):
        Segmenter.load(bundle, size=(64, 64))


def test_a_draft_is_enough_for_the_mask_and_the_overlay_shows_all(
    bundle: Path, edit_manifest: Edit, tmp_path: Path
) -> None:
    edit_manifest(lambda manifest: manifest["preprocessing"].__setitem__("decode", "draft"))
    path = tmp_path / "photo.jpg"
    Image.fromarray(scene(400, 600)).save(path, quality=95)
    segmenter = Segmenter.load(bundle, "ort:cpu", "fp32")
    prepared = segmenter.prepare(path)
    assert prepared.size == (400, 600)
    with Image.open(path) as image:
        image.draft("RGB", (64, 48))
        assert image.size == (75, 50)
        expected = image.resize((64, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(prepared.pixels, np.asarray(expected))
    result = segmenter(path)
    assert result.class_map.shape == (400, 600)
    assert np.array_equal(result.image, np.asarray(Image.open(path)))
    assert result.overlay().size == (600, 400)
