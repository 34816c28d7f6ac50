"""Rebuild ``tests/data/images``: one small file per policy of ``edgeseg.images``.

    python tests/make_golden_images.py

``golden.json`` says of each file what it must become: the SHA-256 of its uint8 (H, W, 3) pixels, or
a part of the error. The pixels were looked at when the files were made: all of them show the same
picture, a red, a green and a blue corner and a gradient, upright.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg.errors import InputError
from edgeseg.files import sha256_bytes
from edgeseg.images import read_image

TARGET = Path(__file__).parent / "data" / "images"
SIZE = (16, 24)
REFUSED = {
    "gray16.png": "mode I;16",
    "rgb16.tif": "16-bit",
    "float.tif": "mode F",
    "animated.png": "animated (2 frames)",
    "animated.webp": "animated (2 frames)",
    "huge.png": "limit is 100 megapixels",
    "text.jpg": "not a readable image",
    "truncated.jpg": "damaged",
}


def picture() -> Image.Image:
    """A gradient with a red, a green and a blue corner: which side is up can be seen."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([rows * 8, columns * 8, rows * 4 + columns * 4], axis=2).astype(np.uint8)
    pixels[:5, :5], pixels[:5, -5:], pixels[-5:, :5] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(orientation: int) -> bytes:
    """A JPEG that a camera held sideways writes: turned pixels, and a tag that says so."""
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture().transpose(turned), "JPEG", quality=95, exif=exif)


def transparent() -> Image.Image:
    alpha = Image.new("L", SIZE[::-1], 255)
    alpha.paste(0, (8, 4, 16, 12))
    image = picture()
    image.putalpha(alpha)
    return image


def huge() -> bytes:
    """A PNG whose header claims 20,000 x 20,000 pixels."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def rgb16() -> bytes:
    """A TIFF of three 16-bit channels, which Pillow reads but does not write."""
    from rasterio.io import MemoryFile

    pixels = np.asarray(picture()).astype(np.uint16).transpose(2, 0, 1) * 257
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint16", "photometric": "RGB"}
    with MemoryFile() as file:
        with file.open(height=SIZE[0], width=SIZE[1], **profile) as out:
            out.write(pixels)
        return bytes(file.read())


def files() -> dict[str, bytes]:
    image = picture()
    gray = image.convert("L")
    whole = encoded(image, "JPEG", quality=95)
    frames = {"save_all": True, "append_images": [image.rotate(90)], "duration": 100}
    return {
        "plain.png": encoded(image, "PNG"),
        "plain.bmp": encoded(image, "BMP"),
        "plain.tif": encoded(image, "TIFF", compression="tiff_deflate"),
        "plain.webp": encoded(image, "WEBP", lossless=True),
        "plain.jpg": whole,
        "progressive.jpg": encoded(image, "JPEG", quality=95, progressive=True),
        "exif3.jpg": rotated(3),
        "exif6.jpg": rotated(6),
        "gray.png": encoded(gray, "PNG"),
        "gray.jpg": encoded(gray, "JPEG", quality=95),
        "onebit.png": encoded(image.convert("1"), "PNG"),
        "alpha.png": encoded(transparent(), "PNG"),
        "grayalpha.png": encoded(transparent().convert("LA"), "PNG"),
        "palette.png": encoded(image.quantize(64), "PNG"),
        "palettealpha.png": encoded(image.quantize(64), "PNG", transparency=0),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=95),
        "gray16.png": encoded(Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), "PNG"),
        "rgb16.tif": rgb16(),
        "float.tif": encoded(Image.fromarray(np.asarray(gray).astype(np.float32)), "TIFF"),
        "animated.png": encoded(image, "PNG", **frames),
        "animated.webp": encoded(image, "WEBP", lossless=True, **frames),
        "huge.png": huge(),
        "text.jpg": b"this is no picture\n",
        "truncated.jpg": whole[:-40],
    }


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    golden: dict[str, dict[str, str]] = {}
    for name, data in files().items():
        (TARGET / name).write_bytes(data)
        try:
            pixels = read_image(data)
        except InputError as error:
            if REFUSED.get(name, "\0") not in str(error):
                raise
            golden[name] = {"error": REFUSED[name]}
            continue
        golden[name] = {"shape": str(pixels.shape), "sha256": sha256_bytes(pixels.tobytes())}
    if missing := REFUSED.keys() - {name for name, what in golden.items() if "error" in what}:
        raise SystemExit(f"not refused: {sorted(missing)}")
    (TARGET / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
