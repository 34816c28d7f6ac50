"""Every policy for what an image file may be, with files made here."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgeseg.errors import EdgeSegError, InputError
from edgeseg.images import MAX_PIXELS, check_image_array, read_image, read_mask, read_reduced

Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 7, width: int = 5, channels: int = 3) -> Pixels:
    rng = np.random.default_rng(11)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written by hand; ``rows`` are the scan lines, each after its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def raw_tiff(width: int, bits: int, samples: int, photometric: int, data: bytes) -> bytes:
    """An uncompressed little-endian TIFF of one row, written by hand."""
    end = 8 + len(data)
    after = end + 2 + 9 * 12 + 4
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, 1),
        (258, 3, samples, bits if samples == 1 else after),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 3, 1, 1),
        (279, 4, 1, len(data)),
    ]
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    depths = struct.pack(f"<{samples}H", *[bits] * samples)
    return b"II*\0" + struct.pack("<I", end) + data + table + depths


# --- what is accepted


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_files_give_their_pixels(kind: str, tmp_path: Path) -> None:
    pixels = noise()
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "picture"
    path.write_bytes(encoded(Image.fromarray(pixels), kind, **options))
    found = read_image(path)
    assert np.array_equal(found, pixels)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


def test_a_jpeg_gives_what_pillow_decodes() -> None:
    data = encoded(Image.fromarray(noise(40, 30)), "JPEG", quality=80)
    assert np.array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_path_text_bytes_image_and_array_agree(tmp_path: Path) -> None:
    pixels = noise()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    sources = [path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(pixels)]
    for source in [*sources, pixels]:
        assert np.array_equal(read_image(source), pixels)


def test_a_file_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    pixels = noise()
    (tmp_path / "really_a_png.jpg").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(read_image(tmp_path / "really_a_png.jpg"), pixels)


# EXIF 2.32, 4.6.4.A: which edge of the picture the stored row 0 and column 0 are.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.swapaxes(0, 1),  # left, top
    6: lambda p: p[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda p: p[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_is_put_upright(orientation: int, kind: str) -> None:
    upright = noise()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif.tobytes(), **options)
    assert np.array_equal(read_image(data), upright)


def test_exif_orientation_of_a_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 250  # stored left is upright top
    found = read_image(encoded(Image.fromarray(pixels), "JPEG", exif=exif.tobytes(), quality=95))
    assert found.shape == (32, 16, 3)
    assert found[:15].min() > 200
    assert found[17:].max() < 50


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif.tobytes())
    assert np.array_equal(read_image(data), pixels)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01A\0\0\0",
        b"",
    ],
)
def test_damaged_exif_does_not_spoil_good_pixels(exif: bytes) -> None:
    pixels = noise()
    assert np.array_equal(read_image(encoded(Image.fromarray(pixels), "PNG", exif=exif)), pixels)
    webp = encoded(Image.fromarray(pixels), "WEBP", exif=exif, lossless=True)
    assert np.array_equal(read_image(webp), pixels)


def test_orientation_is_applied_when_other_exif_tags_cannot_be_rewritten() -> None:
    # Tag 0x0100 (ImageWidth) holds text, which Pillow reads but cannot write back.
    entry = struct.pack(">HHI4s", 0x0100, 2, 2, b"A\0\0\0")
    exif = b"MM\0*\0\0\0\x08\0\x02" + entry + struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0)
    pixels = noise()
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](pixels)))
    data = encoded(stored, "PNG", exif=exif + bytes(4))
    assert np.array_equal(read_image(data), pixels)


def test_gray_is_replicated() -> None:
    gray = noise()[..., 0]
    found = read_image(encoded(Image.fromarray(gray), "PNG"))
    assert np.array_equal(found, np.stack([gray] * 3, axis=2))


def test_one_bit_is_black_and_white() -> None:
    bits = np.array([[0, 1, 1], [1, 0, 0]], bool)
    found = read_image(encoded(Image.fromarray(bits), "PNG"))
    assert np.array_equal(found[..., 0], bits * np.uint8(255))


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("L")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    found = read_image(encoded(image, "PNG"))
    assert found.tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]


def on_black(color: Pixels, alpha: Pixels) -> NDArray[np.float64]:
    return color.astype(float) * alpha.astype(float)[..., np.newaxis] / 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_rgba_is_composited_on_black(kind: str) -> None:
    pixels = noise(channels=4)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = read_image(encoded(Image.fromarray(pixels), kind, **options))
    assert np.abs(found - on_black(pixels[..., :3], pixels[..., 3])).max() <= 1
    assert not np.array_equal(found, pixels[..., :3])


def test_gray_with_alpha_is_composited_on_black() -> None:
    pixels = noise(channels=2)
    found = read_image(encoded(Image.fromarray(pixels), "PNG"))
    gray = np.repeat(pixels[..., :1], 3, axis=2)
    assert np.abs(found - on_black(gray, pixels[..., 1])).max() <= 1


def test_transparent_palette_entries_are_black() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("L")
    image.putpalette([200, 100, 50, 9, 8, 7, 60, 120, 240])
    found = read_image(encoded(image, "PNG", transparency=bytes([0, 255, 128])))
    expected = [[0, 0, 0], [9, 8, 7], [30, 60, 120]]
    assert np.abs(found[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("gray", [True, False])
def test_a_transparent_colour_is_black(gray: bool) -> None:
    pixels = np.full((1, 2, 3), 80, np.uint8)
    pixels[0, 0] = 200
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    found = read_image(encoded(image, "PNG", transparency=200 if gray else (200, 200, 200)))
    assert found[0].tolist() == [[0, 0, 0], [80, 80, 80]]


def test_cmyk_is_converted() -> None:
    # Full cyan takes red away, full black takes everything.
    inks = np.array([[[255, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    image = Image.fromarray(inks, mode="CMYK")
    expected = [[0, 255, 255], [0, 0, 0], [255, 255, 255]]
    assert read_image(encoded(image, "TIFF"))[0].tolist() == expected
    jpeg = read_image(encoded(image.resize((48, 16), 0), "JPEG", quality=95))
    assert np.abs(jpeg[8, [8, 24, 40]].astype(int) - expected).max() < 12


def test_an_mpo_of_a_phone_gives_its_first_picture() -> None:
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert read_image(data)[..., 0].min() > 180


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_pictures_are_read(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    assert np.array_equal(read_image(encoded(Image.fromarray(pixels), "PNG")), pixels)


# --- what is refused


def refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_image(source)
    assert "\n" not in str(caught.value)


def test_16_bit_gray_is_refused() -> None:
    deep = Image.fromarray(np.full((2, 2), 40_000, np.uint16))
    refused(encoded(deep, "PNG"), "16-bit or float.*convert it to 8-bit")
    refused(encoded(deep, "TIFF"), "16-bit or float")


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_png_is_refused_not_truncated(color: int, channels: int) -> None:
    row = b"\0" + struct.pack(f">{channels}H", *[300] * channels)
    refused(raw_png(1, 1, 16, color, row), "16-bit or float")


def test_16_bit_colour_tiff_is_refused_not_truncated() -> None:
    assert read_image(raw_tiff(1, 8, 3, 2, bytes([1, 2, 3]))).tolist() == [[[1, 2, 3]]]
    refused(raw_tiff(1, 16, 3, 2, struct.pack("<3H", 300, 600, 900)), "16-bit or float")


def test_float_and_32_bit_tiff_are_refused() -> None:
    refused(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "16-bit or float")
    refused(encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), "16-bit or float")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_animated_files_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    refused(data, r"is animated \(3 frames\)")


@pytest.mark.parametrize("frames", [1, 2])
def test_gif_is_refused(frames: int) -> None:
    rest = [Image.new("RGB", (4, 4), "red")] * (frames - 1)
    data = encoded(Image.new("RGB", (4, 4)), "GIF", save_all=True, append_images=rest)
    refused(data, "is not a readable image; expected BMP, JPEG, PNG, TIFF, WEBP")


def test_text_named_jpg_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("Dear diary")
    refused(tmp_path / "notes.jpg", r"notes\.jpg' is not a readable image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    assert read_image(data).shape == (64, 64, 3)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "cut'")
    refused(path.read_bytes(), "damaged|not a readable|cannot open")


def test_empty_missing_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "is not a readable image")
    refused(b"", "is not a readable image")
    refused(tmp_path / "missing.png", r"missing\.png' does not exist")
    refused(tmp_path, "cannot open .*directory")
    refused("bad\0name.png", "cannot open")


def test_a_name_with_a_newline_is_escaped_in_the_message(tmp_path: Path) -> None:
    refused(tmp_path / "two\nlines.png", r"two\\nlines\.png' does not exist")


def test_a_header_that_claims_gigabytes_is_refused_before_decoding() -> None:
    # 10.8 GB of pixels: had decoding begun, the message would be about missing data.
    refused(raw_png(60_000, 60_000, 8, 2, b""), "too large|the limit is")


def test_the_limit_of_pixels_is_exact() -> None:
    width = 20_000
    refused(raw_png(width, MAX_PIXELS // width + 1, 8, 2, b""), "the limit is 100 megapixels")
    # One row fewer passes the header check and fails on its missing pixels.
    refused(raw_png(width, MAX_PIXELS // width, 1, 0, b""), "damaged")


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "HSV", "La"])
def test_pil_images_of_other_modes_are_refused(mode: str) -> None:
    refused(Image.new(mode, (2, 2)), "PIL image")


def test_a_closed_pil_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    refused(image, "PIL image")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.array(5, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_other_arrays_are_refused_with_their_shape(array: NDArray[Any]) -> None:
    with pytest.raises(InputError) as caught:
        check_image_array(array)
    assert f"shape {array.shape} and dtype {array.dtype}" in str(caught.value)
    assert "expected uint8 (height, width, 3)" in str(caught.value)


def test_views_of_arrays_become_contiguous_with_the_same_pixels() -> None:
    pixels = noise(8, 6)
    for view in (pixels[::-1], pixels[:, ::2], pixels[..., ::-1], pixels.swapaxes(0, 1)):
        found = read_image(view)
        assert found.flags.c_contiguous
        assert np.array_equal(found, view)


# --- masks


def mask_file(folder: Path, data: bytes, name: str = "mask.png") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_palette_masks_give_their_indices(tmp_path: Path) -> None:
    ids = np.array([[0, 3, 149], [150, 7, 255]], np.uint8)
    image = Image.fromarray(ids).convert("L")
    image.putpalette([7] * 768)  # colours must not matter
    assert np.array_equal(read_mask(mask_file(tmp_path, encoded(image, "PNG"))), ids)


def test_small_palettes_packed_into_few_bits_give_their_indices(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2, 3, 2]], np.uint8)
    image = Image.fromarray(ids).convert("L")
    image.putpalette([9, 9, 9] * 4)
    data = encoded(image, "PNG")
    assert data[24] < 8  # bit depth in IHDR
    assert np.array_equal(read_mask(mask_file(tmp_path, data)), ids)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_gray_masks_give_their_values(tmp_path: Path, kind: str) -> None:
    ids = np.array([[0, 1, 150], [255, 17, 2]], np.uint8)
    path = mask_file(tmp_path, encoded(Image.fromarray(ids), kind))
    assert np.array_equal(read_mask(path), ids)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_masks_give_their_values(tmp_path: Path, kind: str) -> None:
    ids = np.array([[0, 1, 300], [65535, 256, 2]], np.uint16)
    found = read_mask(mask_file(tmp_path, encoded(Image.fromarray(ids), kind)))
    assert np.array_equal(found, ids)
    assert np.issubdtype(found.dtype, np.integer)


def test_32_bit_masks_give_their_values(tmp_path: Path) -> None:
    ids = np.array([[0, 70_000], [5, 1]], np.int32)
    path = mask_file(tmp_path, encoded(Image.fromarray(ids), "TIFF"))
    assert np.array_equal(read_mask(path), ids)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_masks_that_hold_no_ids_are_refused(tmp_path: Path, mode: str) -> None:
    path = mask_file(tmp_path, encoded(Image.new(mode, (3, 2)), "PNG"))
    with pytest.raises(InputError, match=f"has mode {mode}.*one channel of class ids"):
        read_mask(path)


def test_a_colour_mask_is_called_one(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (3, 2)), "PNG")
    with pytest.raises(InputError, match=r"mode RGB.*looks like a colour or resized mask"):
        read_mask(mask_file(tmp_path, data))


def test_masks_are_read_from_bytes_too() -> None:
    ids = np.array([[0, 7], [255, 1]], np.uint8)
    assert np.array_equal(read_mask(encoded(Image.fromarray(ids), "PNG")), ids)
    with pytest.raises(InputError, match=r"file data \(7 bytes\) is not a readable image"):
        read_mask(b"nothing")


def test_float_masks_are_refused(tmp_path: Path) -> None:
    path = mask_file(tmp_path, encoded(Image.new("F", (3, 2)), "TIFF"))
    with pytest.raises(InputError, match="has mode F"):
        read_mask(path)


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    path = mask_file(tmp_path, encoded(Image.new("L", (3, 2)), "JPEG"))
    with pytest.raises(InputError, match="expected BMP, PNG, TIFF"):
        read_mask(path)


@pytest.mark.parametrize("depth", [2, 4])
def test_gray_masks_of_few_bits_are_refused_not_rescaled(tmp_path: Path, depth: int) -> None:
    # Pillow would stretch id 1 of a 4-bit file to 17.
    path = mask_file(tmp_path, raw_png(2, 1, depth, 0, b"\0\x12"))
    with pytest.raises(InputError, match="would rescale or invert"):
        read_mask(path)


def test_masks_where_0_is_white_are_refused_not_inverted(tmp_path: Path) -> None:
    assert read_mask(mask_file(tmp_path, raw_tiff(2, 8, 1, 1, b"\1\2"))).tolist() == [[1, 2]]
    with pytest.raises(InputError, match="would rescale or invert"):
        read_mask(mask_file(tmp_path, raw_tiff(2, 8, 1, 0, b"\1\2")))


def test_missing_and_truncated_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_mask(tmp_path / "missing.png")
    data = encoded(Image.fromarray(noise(64, 64)[..., 0]), "PNG")
    with pytest.raises(InputError, match="damaged"):
        read_mask(mask_file(tmp_path, data[: len(data) // 2]))


# --- damage of all kinds


def victims() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 6, "a description"
    block = exif.tobytes()
    image = Image.fromarray(noise(9, 11))
    return {
        "jpeg": encoded(image, "JPEG", exif=block),
        "png": encoded(image, "PNG", exif=block),
        "palette": encoded(image.convert("P"), "PNG", transparency=3),
        "webp": encoded(image, "WEBP", exif=block),
        "tiff": encoded(image, "TIFF"),
        "lzw": encoded(image, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(image, "BMP"),
        "apng": encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)]),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["jpeg", "png", "palette", "webp", "tiff", "lzw", "bmp", "apng"])
def test_only_our_errors_come_out_of_damaged_files(kind: str) -> None:
    rng = random.Random(f"{kind} 2")
    original = victims()[kind]
    messages: list[str] = []
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.choice([1, 1, 2, 4, 10])):
            end = len(data) if rng.random() < 0.5 else min(len(data), 200)
            data[rng.randrange(end)] = rng.choice([0, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            pixels = read_image(bytes(data))
        except EdgeSegError as error:
            messages.append(str(error))
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def test_a_mask_with_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.new("L", (4, 4), 1)
    page.save(tmp_path / "mask.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match="2 frames"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("source", [None, 7, bytearray(b"x"), ["a.png"]])
def test_other_kinds_of_sources_are_input_errors(source: object) -> None:
    with pytest.raises(InputError, match="give a path, bytes"):
        read_image(source)


# --- golden files: one per policy, made by tests/make_golden_images.py

GOLDEN = Path(__file__).parents[1] / "data" / "images"
EXPECTED: dict[str, dict[str, str]] = json.loads((GOLDEN / "golden.json").read_text())


def test_every_golden_file_has_its_expectation() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*EXPECTED, "golden.json"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_file_gives_its_pixels_or_its_error(name: str) -> None:
    expected = EXPECTED[name]
    if "error" in expected:
        with pytest.raises(InputError, match=re.escape(expected["error"])):
            read_image(GOLDEN / name)
        return
    pixels = read_image(GOLDEN / name)
    assert str(pixels.shape) == expected["shape"]
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected["sha256"]


def test_all_lossless_golden_files_of_one_picture_are_equal() -> None:
    plain = read_image(GOLDEN / "plain.png")
    for name in ("plain.bmp", "plain.tif", "plain.webp"):
        assert np.array_equal(read_image(GOLDEN / name), plain)


# --- JPEGs in less detail


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_jpeg_is_what_pillows_draft_mode_gives_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(noise(300, 420)).resize((840, 600)), "JPEG", exif=exif)
    asked: list[tuple[int, int]] = []

    def needed(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return (150, 100) if orientation == 6 else (100, 150)

    pixels, whole = read_reduced(data, needed)
    assert asked == [whole]
    assert whole == ((840, 600) if orientation == 6 else (600, 840))
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (150, 100))
        assert image.size == (210, 150)  # a quarter: an eighth would be less than needed
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(pixels, np.asarray(expected))


def test_what_cannot_be_reduced_is_read_whole() -> None:
    image = Image.fromarray(noise(80, 120))
    small = encoded(image, "JPEG")
    for source in (encoded(image, "PNG"), small, image, np.asarray(image)):
        pixels, whole = read_reduced(source, lambda height, width: (60, 100))
        assert pixels.shape[:2] == whole == (80, 120)
        assert np.array_equal(pixels, read_image(source))


def test_reading_in_less_detail_refuses_what_reading_refuses() -> None:
    for name in ("text.jpg", "truncated.jpg", "animated.png", "huge.png"):
        with pytest.raises(InputError, match=re.escape(EXPECTED[name]["error"])):
            read_reduced(GOLDEN / name, lambda height, width: (1, 1))
