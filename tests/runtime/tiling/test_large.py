"""From TIFF to mask, window by window: the same mask as in memory, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import Segmenter
from edgeseg.errors import InputError, ResourceError, UsageError
from edgeseg.tiling import TiledSegmenter, large, segment_tiff

rasterio = pytest.importorskip("rasterio", reason="TIFF windows need the extra 'large'")

DATA = Path(__file__).parents[2] / "data"
SIZE = (133, 210)
# 10 cm per pixel in UTM zone 33, as rasterio's coefficients a, b, c, d, e, f
ON_EARTH = {"crs": "EPSG:32633", "transform": (0.1, 0, 500_000, 0, -0.1, 5_000_000)}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load(DATA / "tiny_logits", "ort:cpu", "fp32", (32, 48))


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


@pytest.fixture
def source(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A tiled, georeferenced TIFF alone in a folder."""
    return write(tmp_path / "in" / "city.tif", pixels, **ON_EARTH)


def write(path: Path, pixels: NDArray[np.uint8], **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    if "transform" in options:
        options["transform"] = rasterio.Affine(*options["transform"])
    shape = {"height": pixels.shape[0], "width": pixels.shape[1], "count": 3, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": 32, "blockysize": 32, "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **layout, **options) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


def ids(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        class_map: NDArray[np.uint8] = file.read(1)
    return class_map


@pytest.mark.parametrize("budget", [1, 10**9])
@pytest.mark.parametrize("overlap", [0, 11, 20])
def test_the_mask_is_exactly_the_one_made_in_memory(
    segmenter: Segmenter, source: Path, pixels: NDArray[np.uint8], overlap: int, budget: int
) -> None:
    in_memory = TiledSegmenter(segmenter, overlap)(pixels)
    tiled = TiledSegmenter(segmenter, overlap, budget=budget)
    mask = segment_tiff(tiled, source, source.with_name("mask.tif"))
    assert np.array_equal(ids(mask.path), in_memory.class_map)
    assert mask.coverage == in_memory.coverage
    assert len(mask.coverage) > 1
    assert (mask.height, mask.width) == SIZE


def test_a_bundle_without_logits_votes_the_same_in_both_ways(
    tiny_bundle: Path, source: Path, pixels: NDArray[np.uint8]
) -> None:
    tiled = TiledSegmenter(Segmenter.load(tiny_bundle, "ort:cpu", "int8-cpu"), 17, batch=3)
    mask = segment_tiff(tiled, source, source.with_name("mask.tif"))
    assert np.array_equal(ids(mask.path), tiled(pixels).class_map)


def test_the_mask_is_a_palette_of_ids_in_compressed_tiles(
    segmenter: Segmenter, source: Path
) -> None:
    mask = segment_tiff(TiledSegmenter(segmenter, 8), source, source.with_name("mask.tif"))
    with rasterio.open(mask.path) as file:
        assert file.profile["compress"] == "deflate"
        assert file.block_shapes == [(256, 256)]
        assert file.dtypes == ("uint8",)
        colours = file.colormap(1)
    palette = segmenter.labels.palette
    assert [colours[i][:3] for i in range(len(palette))] == [tuple(color) for color in palette]
    assert colours[255][:3] == (0, 0, 0)
    with Image.open(mask.path) as image:  # other readers agree
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), ids(mask.path))


def test_the_mask_lies_where_the_picture_lies(segmenter: Segmenter, source: Path) -> None:
    mask = segment_tiff(TiledSegmenter(segmenter, 8), source, source.with_name("mask.tif"))
    with rasterio.open(source) as picture, rasterio.open(mask.path) as file:
        assert file.crs == picture.crs
        assert file.crs.to_epsg() == 32633
        assert file.transform == picture.transform
        assert file.bounds == picture.bounds


def test_ground_control_points_are_kept(
    segmenter: Segmenter, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, column, 10 + column / 100, 50 - row / 100, 0)
        for row, column in [(0, 0), (0, 209), (132, 0), (132, 209)]
    ]
    source = write(tmp_path / "a.tif", pixels, gcps=points, crs="EPSG:4326")
    mask = segment_tiff(TiledSegmenter(segmenter, 8), source, tmp_path / "mask.tif")
    with rasterio.open(mask.path) as file:
        found, crs = file.gcps
    assert crs.to_epsg() == 4326
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_picture_without_a_place_on_earth_is_fine(
    segmenter: Segmenter,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    recwarn: pytest.WarningsRecorder,
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    tiled = TiledSegmenter(segmenter, 8)
    mask = segment_tiff(tiled, tmp_path / "a.tif", tmp_path / "mask.tif")
    assert [str(warning.message) for warning in recwarn] == []
    assert np.array_equal(ids(mask.path), tiled(pixels).class_map)


def test_stages_and_progress_are_reported(segmenter: Segmenter, source: Path) -> None:
    calls: list[tuple[int, int]] = []
    tiled = TiledSegmenter(segmenter, 8)
    mask = segment_tiff(
        tiled, source, source.with_name("mask.tif"), lambda *call: calls.append(call)
    )
    tiles = len(tiled.plan(*SIZE).rows.starts) * len(tiled.plan(*SIZE).columns.starts)
    assert calls == [(done, tiles) for done in range(1, tiles + 1)]
    document = mask.to_dict()
    assert document.keys() == tiled(np.zeros((*SIZE, 3), dtype=np.uint8)).to_dict().keys()
    assert set(document["timings_ms"]) == {"decode", "pre", "compute", "post"}


class Interrupting(TiledSegmenter):
    """Is interrupted after some blocks."""

    error: BaseException = KeyboardInterrupt()

    def blocks(self, *arguments: Any) -> Iterator[Any]:
        for done, block in enumerate(super().blocks(*arguments)):
            if done == 7:
                raise self.error
            yield block


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), InputError("damaged")])
def test_an_interrupt_or_error_leaves_the_old_mask_and_nothing_else(
    segmenter: Segmenter, source: Path, error: BaseException
) -> None:
    target = source.with_name("mask.tif")
    target.write_bytes(b"the old mask")
    tiled = Interrupting(segmenter, 8)
    tiled.error = error
    with pytest.raises(type(error)):
        segment_tiff(tiled, source, target)
    assert target.read_bytes() == b"the old mask"
    assert sorted(path.name for path in source.parent.iterdir()) == ["city.tif", "mask.tif"]


def test_a_damaged_picture_leaves_nothing(segmenter: Segmenter, source: Path) -> None:
    data = bytearray(source.read_bytes())
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"city\.tif.*(damaged|no readable)"):
        segment_tiff(TiledSegmenter(segmenter, 8), source, source.with_name("mask.tif"))
    assert [path.name for path in source.parent.iterdir()] == ["city.tif"]


def test_a_mask_that_does_not_read_back_is_an_error(
    segmenter: Segmenter, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = large.count_ids
    monkeypatch.setattr(large, "count_ids", lambda path: real(path) + 1)
    with pytest.raises(ResourceError, match=r"mask\.tif.*does not read back.*disk full"):
        segment_tiff(TiledSegmenter(segmenter, 8), source, source.with_name("mask.tif"))
    assert [path.name for path in source.parent.iterdir()] == ["city.tif"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edgeseg import Segmenter
from edgeseg.errors import ResourceError
from edgeseg.tiling import TiledSegmenter, segment_tiff

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
tiled = TiledSegmenter(Segmenter.load(sys.argv[1], "ort:cpu", "fp32", (32, 48)), 8)
try:
    segment_tiff(tiled, Path(sys.argv[2]), Path(sys.argv[3]))
except ResourceError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes as Linux does")
@pytest.mark.parametrize("limit", [100, 2000])
def test_a_full_disk_is_an_error_and_leaves_nothing(source: Path, limit: int) -> None:
    target = source.with_name("mask.tif")
    command = [sys.executable, "-c", FULL_DISK, DATA / "tiny_logits", source, target, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "mask.tif" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [path.name for path in source.parent.iterdir()] == ["city.tif"]


def test_a_target_that_cannot_be_written_is_refused(segmenter: Segmenter, source: Path) -> None:
    tiled = TiledSegmenter(segmenter, 8)
    with pytest.raises(UsageError, match=r"mask\.png.*must end in \.tif"):
        segment_tiff(tiled, source, source.with_name("mask.png"))
    with pytest.raises(ResourceError, match=r"cannot write .*mask\.tif"):
        segment_tiff(tiled, source, source.parent / "missing" / "mask.tif")
