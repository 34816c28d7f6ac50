"""The table of formats: names, paths, whole files, and what needs no package."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import outputs
from edgeseg.errors import DeviceError, UsageError
from edgeseg.segmentation import Segmentation

ClassMap = NDArray[np.uint8]
Make = Callable[[ClassMap], Segmentation]
BASE = ["png", "overlay", "npy", "confidence", "confidence-npy"]


@pytest.fixture
def result(segmented: Make) -> Segmentation:
    return segmented(np.random.default_rng(0).integers(0, 255, (23, 31), dtype=np.uint8))


def test_files_are_named_after_the_mask() -> None:
    found = outputs.paths(Path("out/a.b.png"), list(outputs.FORMATS))
    assert {name: str(path) for name, path in found.items()} == {
        "png": "out/a.b.png",
        "overlay": "out/a.b.overlay.png",
        "npy": "out/a.b.npy",
        "coco": "out/a.b.coco.json",
        "geojson": "out/a.b.geojson",
        "confidence": "out/a.b.confidence.png",
        "confidence-npy": "out/a.b.confidence.npy",
    }


def test_only_the_formats_that_were_asked_for_are_written(
    result: Segmentation, tmp_path: Path
) -> None:
    files = outputs.save(result, tmp_path / "street.png", ["npy", "png"])
    assert files == [tmp_path / "street.npy", tmp_path / "street.png"]
    assert sorted(tmp_path.iterdir()) == files


def test_masks_and_overlays_are_those_of_the_segmentation(
    result: Segmentation, tmp_path: Path
) -> None:
    outputs.save(result, tmp_path / "street.png", ["png", "overlay"])
    with Image.open(tmp_path / "street.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), result.class_map)
    with Image.open(tmp_path / "street.overlay.png") as overlay:
        assert np.array_equal(np.asarray(overlay), np.asarray(result.overlay()))


def test_the_mask_has_the_bytes_that_save_writes(result: Segmentation, tmp_path: Path) -> None:
    outputs.save(result, tmp_path / "a.png", ["png"])
    result.save(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_arrays_come_back_as_they_are(result: Segmentation, tmp_path: Path) -> None:
    turned = dataclasses.replace(result, class_map=result.class_map.T)
    assert result.confidence is not None
    for one in (result, turned):
        outputs.save(one, tmp_path / "street.png", ["npy", "confidence-npy"])
        ids = np.load(tmp_path / "street.npy")
        assert ids.dtype == np.uint8
        assert ids.flags.c_contiguous
        assert np.array_equal(ids, one.class_map)
    lead = np.load(tmp_path / "street.confidence.npy")
    assert lead.dtype == np.float32
    assert np.array_equal(lead, result.confidence)


def test_confidence_is_32_gray_levels_per_logit_and_white_at_the_end(
    result: Segmentation, tmp_path: Path
) -> None:
    leads = np.array([[0, 1, 4, 7.9, 7.96, 8, 1e9, np.inf]], np.float32)
    one = dataclasses.replace(result, confidence=leads)
    outputs.save(one, tmp_path / "street.png", ["confidence"])
    with Image.open(tmp_path / "street.confidence.png") as gray:
        assert gray.mode == "L"
        assert np.asarray(gray).tolist() == [[0, 32, 128, 253, 255, 255, 255, 255]]


def test_gray_gives_the_lead_back_to_a_64th(result: Segmentation, tmp_path: Path) -> None:
    outputs.save(result, tmp_path / "street.png", ["confidence"])
    with Image.open(tmp_path / "street.confidence.png") as gray:
        found = np.asarray(gray, np.float32) / 32
    assert result.confidence is not None
    inside = result.confidence < 7.9
    assert 0.5 < inside.mean() < 1
    assert np.abs(found - result.confidence)[inside].max() <= 1 / 64
    assert (found[~inside] >= 7.9).all()


@pytest.mark.parametrize("name", ["confidence", "confidence-npy"])
def test_confidence_that_was_not_asked_for_is_a_usage_error(
    result: Segmentation, tmp_path: Path, name: str
) -> None:
    without = dataclasses.replace(result, confidence=None)
    with pytest.raises(UsageError, match="no confidence; load the segmenter with confidence=True"):
        outputs.save(without, tmp_path / "street.png", [name])
    assert list(tmp_path.iterdir()) == []


def test_formats_say_whether_they_need_the_confidence() -> None:
    needy = [name for name in outputs.FORMATS if outputs.needs_confidence([name])]
    assert needy == ["confidence", "confidence-npy"]
    assert outputs.needs_confidence(["png", "confidence-npy"])
    assert not outputs.needs_confidence([])


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        outputs.check(["png", "tiff\n"])
    assert str(refused.value) == (
        r"no format 'tiff\n'; choose from png, overlay, npy, coco, geojson, confidence, "
        "confidence-npy"
    )


@pytest.mark.parametrize(("name", "package"), [("coco", "pycocotools"), ("geojson", "rasterio")])
def test_a_missing_package_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, result: Segmentation, tmp_path: Path, name: str, package: str
) -> None:
    take_away(package, monkeypatch)
    outputs.check(BASE)
    expected = (
        f"this needs the package '{package}', which is not installed; "
        'run: pip install "edgeseg[shapes]"'
    )
    with pytest.raises(DeviceError) as refused:
        outputs.check(["png", name])
    assert str(refused.value) == expected
    with pytest.raises(DeviceError) as late:
        outputs.save(result, tmp_path / "street.png", [name])
    assert str(late.value) == expected
    assert list(tmp_path.iterdir()) == []


def take_away(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let importing a package fail as where it is not installed."""

    class Nowhere:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere, *sys.meta_path])


@pytest.mark.parametrize("name", BASE)
def test_a_failed_write_leaves_the_old_file(
    result: Segmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = outputs.paths(tmp_path / "street.png", [name])[name]
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        outputs.save(result, tmp_path / "street.png", [name])
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {path.name: b"old"}


def test_formats_of_the_base_install_load_no_optional_package() -> None:
    code = (
        "import sys; from edgeseg import outputs; outputs.check({}); "
        "print([name for name in ('rasterio', 'pycocotools', 'shapely', 'cv2') "
        "if sys.modules.get(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(BASE)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
