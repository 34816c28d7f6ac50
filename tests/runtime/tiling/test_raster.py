"""TIFF files read window by window: the same pixels as Pillow's, the same kinds refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from edgeseg.errors import DeviceError, InputError
from edgeseg.images import MAX_PIXELS, read_image
from edgeseg.tiling import is_large_tiff, raster
from edgeseg.tiling.raster import limited_memory, open_tiff

rasterio = pytest.importorskip("rasterio", reason="TIFF windows need the extra 'large'")

# Pillow's remarks on damaged headers; the command silences them, too.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RNG = np.random.default_rng(5)
SIZE = (70, 90)


@pytest.fixture(autouse=True)
def gdal() -> Iterator[None]:
    with limited_memory():
        yield


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, samples: NDArray[Any], **options: object) -> Path:
    """Write (bands, height, width) samples with rasterio."""
    count, height, width = samples.shape
    shape = {"count": count, "height": height, "width": width, "dtype": samples.dtype.name}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **options}) as file:
        file.write(samples)
    return path


def read_in_pieces(path: Path) -> NDArray[np.uint8]:
    """Read a file in windows of 33 x 41 pixels."""
    with open_tiff(path) as picture:
        whole = np.zeros((picture.height, picture.width, 3), dtype=np.uint8)
        for top in range(0, picture.height, 33):
            for left in range(0, picture.width, 41):
                window = whole[top : top + 33, left : left + 41]
                window[:] = picture.read(top, left, *window.shape[:2])
    return whole


TILED = {"tiled": True, "blockxsize": 32, "blockysize": 16}


@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (1, {}),
        (1, {"compress": "lzw"}),
        (3, {"photometric": "RGB"}),
        (3, {"photometric": "RGB", "compress": "deflate", "predictor": 2, **TILED}),
        (3, {"photometric": "RGB", "interleave": "band"}),
        (3, {"photometric": "RGB", "compress": "jpeg", **TILED}),
        (3, {"photometric": "RGB", "BIGTIFF": "YES"}),
        (3, {"photometric": "RGB", "ENDIANNESS": "BIG"}),
        (4, {"photometric": "RGB", "ALPHA": "YES"}),
        (4, {"photometric": "RGB", "ALPHA": "NO"}),  # a fourth channel that is no colour
        (2, {"ALPHA": "YES"}),
    ],
)
def test_windows_have_the_pixels_that_pillow_reads(
    tmp_path: Path, bands: int, options: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.tif", noise(bands, *SIZE), **options)
    found = read_in_pieces(path)
    assert found.shape == (*SIZE, 3)
    assert np.array_equal(found, read_image(path))


def test_ycbcr_in_jpeg_is_converted_to_rgb(tmp_path: Path) -> None:
    soft = np.asarray(
        Image.fromarray(noise(4, 5, 3)).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    )
    samples = np.moveaxis(soft, 2, 0)
    path = write(tmp_path / "a.tif", samples, photometric="YCBCR", compress="jpeg", **TILED)
    found = read_in_pieces(path).astype(int)
    assert np.abs(found - soft).mean() < 8  # JPEG's own loss
    assert np.abs(found - read_image(path)).mean() < 2  # chroma is enlarged in two ways


def test_the_reduced_copies_in_a_map_file_are_no_animation(tmp_path: Path) -> None:
    samples = noise(3, 600, 700)
    path = write(tmp_path / "a.tif", samples, driver="COG", blocksize=256)
    with pytest.raises(InputError, match="animated"):
        read_image(path)
    assert np.array_equal(read_in_pieces(path), np.moveaxis(samples, 0, 2))


def pillow(mode: str, **options: Any) -> Any:
    return lambda path: Image.fromarray(noise(*SIZE, 3)).convert(mode).save(path, **options)


def two_pages(path: Path) -> None:
    page = Image.fromarray(noise(*SIZE, 3))
    page.save(path, save_all=True, append_images=[page])


def cut_short(path: Path) -> None:
    write(path, noise(3, *SIZE), photometric="RGB", **TILED)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 2000])


REFUSED = {
    "16 bits": (lambda path: write(path, noise(1, *SIZE).astype(np.uint16)), "samples of 16 bits"),
    "float": (lambda path: write(path, noise(3, *SIZE).astype(np.float32)), "samples of 32x32x32"),
    "signed": (lambda path: write(path, noise(1, *SIZE).astype(np.int8)), "samples of 8 bits"),
    "1 bit": (pillow("1"), "samples of 1 bits"),
    "palette": (pillow("P"), r"photometric 3.*convert it to 8-bit RGB"),
    "CMYK": (pillow("CMYK"), r"photometric 5.*convert it to 8-bit RGB"),
    "white is zero": (pillow("L", tiffinfo={262: 0}), "photometric 0"),
    "plain YCbCr": (pillow("YCbCr"), "photometric 6"),
    "premultiplied": (
        lambda path: write(path, noise(4, *SIZE), photometric="RGB", ALPHA="PREMULTIPLIED"),
        r"extra samples \(1,\)",
    ),
    "turned": (pillow("RGB", tiffinfo={274: 6}), "orientation 6.*rotate it first"),
    "two pages": (two_pages, "2 pages"),
    "cut short": (cut_short, "damaged|no readable TIFF"),
    "text": (lambda path: path.write_text("no picture at all"), "no readable TIFF"),
    "empty": (lambda path: path.write_bytes(b""), "no readable TIFF"),
    "header only": (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "TIFF|damaged"),
    "a JPEG": (pillow("RGB", format="JPEG"), "no readable TIFF"),
    "missing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, reason = REFUSED[kind]
    make(tmp_path / "a.tif")
    with pytest.raises(InputError, match=reason) as refused:
        read_in_pieces(tmp_path / "a.tif")
    assert "\n" not in str(refused.value)
    assert "a.tif" in str(refused.value)


@pytest.mark.parametrize("at", range(64))
def test_a_damaged_header_is_refused_or_read_never_a_crash(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "a.tif", noise(1, 20, 30))
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    is_large_tiff(path)
    try:
        found = read_in_pieces(path)
    except InputError:
        return
    assert found.dtype == np.uint8


def test_pieces_too_large_to_decode_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_strip = {"photometric": "RGB", "compress": "deflate", "blockysize": SIZE[0]}
    path = write(tmp_path / "a.tif", noise(3, *SIZE), **one_strip)
    monkeypatch.setattr(raster, "MAX_BLOCK_BYTES", SIZE[0] * SIZE[1] * 3)
    assert read_in_pieces(path).shape == (*SIZE, 3)
    monkeypatch.setattr(raster, "MAX_BLOCK_BYTES", SIZE[0] * SIZE[1] * 3 - 1)
    with pytest.raises(InputError, match=r"pieces of 90x70.*rio convert .*TILED=YES"):
        read_in_pieces(path)


def header(width: int, height: int) -> bytes:
    """Return a TIFF file that is nothing but a header."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {256: width, 257: height, 258: 8, 262: 1}.items():
        tags[tag] = value
    return b"II*\0\x08\0\0\0" + tags.tobytes(8)


def test_a_header_that_claims_more_than_any_mosaic_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(header(1_000_000, 100_001))
    with pytest.raises(InputError, match="1000000x100001; the limit is 100 gigapixels"):
        read_in_pieces(tmp_path / "a.tif")


def test_a_tiff_is_large_above_the_limit_of_whole_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(header(10_000, MAX_PIXELS // 10_000))
    assert not is_large_tiff(path)
    path.write_bytes(header(10_000, MAX_PIXELS // 10_000 + 1))
    assert is_large_tiff(path)
    Image.fromarray(noise(5, 5)).save(tmp_path / "a.png")
    assert not is_large_tiff(tmp_path / "a.png")
    assert not is_large_tiff(tmp_path / "missing.tif")
    assert not is_large_tiff(tmp_path)


def test_without_rasterio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    wanted = r'rasterio.*pip install "edgeseg\[large\]"'
    with pytest.raises(DeviceError, match=wanted), limited_memory():
        pass
