"""Read pictures and masks: the policies of every stage for what an image file may be.

Images become uint8 RGB: EXIF orientation is applied, gray is replicated, alpha is
composited on black, CMYK is converted; 16-bit, float and animated files are refused.
Masks are class ids and are never converted: only 8-bit gray, palette and 16/32-bit
integer files are accepted.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from edgeseg.errors import InputError, first_line, show

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"

IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MASK_FORMATS = ("BMP", "PNG", "TIFF")
MAX_PIXELS = 100_000_000  # checked on the header, before any pixel is decoded

_DIRECT_MODES = ("1", "L", "RGB", "CMYK", "YCbCr", "LAB", "P")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_MASK_MODES = ("L", "P", "I", "I;16", "I;16B", "I;16L")
_UPRIGHT = {  # EXIF orientation -> what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)  # these exchange height and width


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """Decode one picture.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array.

    Returns:
        uint8 (H, W, 3), RGB, 0..255.

    Raises:
        InputError: missing, not an image, truncated, animated, 16-bit, float or too large.
    """
    return _read(source, None)[0]


def read_reduced(
    source: ImageSource, needed: Callable[[int, int], tuple[int, int]]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode one picture in no more detail than needed; only JPEGs can save work this way.

    libjpeg decodes at 1/2, 1/4 or 1/8 of the size for a fraction of the time (its draft mode).
    The pixels differ a little from those of a full decode that is shrunk afterwards.

    Args:
        source: see ``read_image``.
        needed: gives the (height, width) that suffices for an upright picture of a size.

    Returns:
        uint8 (h, w, 3) RGB, not smaller than needed, and the (H, W) of the whole picture.

    Raises:
        InputError: see ``read_image``.
    """
    return _read(source, needed)


def _read(
    source: ImageSource, needed: Callable[[int, int], tuple[int, int]] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    if isinstance(source, np.ndarray):
        pixels = check_image_array(source)
        return pixels, pixels.shape[:2]
    if isinstance(source, Image.Image):
        pixels = _to_rgb_array(source, "PIL image")
        return pixels, pixels.shape[:2]
    if not isinstance(source, str | Path | bytes):
        raise InputError(
            f"cannot read an image from {type(source).__name__}; "
            "give a path, bytes, a PIL image or a uint8 (H, W, 3) array"
        )
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else show(str(source))
    with _open(source, name, IMAGE_FORMATS) as image:
        if needed is None or image.format != "JPEG":
            pixels = _to_rgb_array(image, name)
            return pixels, pixels.shape[:2]
        size, turned = image.size, _orientation(image) in _TURNED
        whole = size if turned else (size[1], size[0])
        height, width = needed(*whole)
        image.draft(None, (height, width) if turned else (width, height))
        return _to_rgb_array(image, name), whole


def read_mask(source: str | Path | bytes) -> NDArray[np.integer[Any]]:
    """Decode one annotation file.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        integer (H, W), the ids exactly as stored; palette files give their indices.

    Raises:
        InputError: missing, unreadable, or a colour picture instead of ids.
    """
    name = f"data ({len(source)} bytes)" if isinstance(source, bytes) else show(str(source))
    with _open(source, name, MASK_FORMATS) as image:
        with _reading(name):
            frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise InputError(f"mask {name} has {frames} frames; expected one")
        if image.mode not in _MASK_MODES:
            colours = (
                ": it looks like a colour or resized mask" if len(image.getbands()) > 1 else ""
            )
            raise InputError(
                f"mask {name} has mode {image.mode}, which is no map of class ids{colours}; "
                "expected one channel of class ids (modes L, P or I;16)"
            )
        if image.mode == "L" and _raw_mode(image) != "L":
            raise InputError(
                f"mask {name} stores gray as {_raw_mode(image)}, which decoding would rescale or "
                "invert; expected 8-bit gray, a palette or 16-bit ids"
            )
        with _reading(name):
            return np.asarray(image)


def check_image_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Check that an array is uint8 (H, W, 3) with at least one pixel; return it C-contiguous.

    Raises:
        InputError: another dtype, rank or number of channels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"image array has shape {image.shape} and dtype {image.dtype}; "
            "expected uint8 (height, width, 3) in RGB order"
        )
    return np.ascontiguousarray(image)


def _open(source: str | Path | bytes, name: str, formats: tuple[str, ...]) -> Image.Image:
    if not isinstance(source, bytes) and Path(source).is_fifo():
        raise InputError(f"file {name} is a pipe, which would be waited for; give a plain file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
            image = Image.open(stream, formats=formats)
    except FileNotFoundError as error:
        raise InputError(f"file {name} does not exist") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"file {name} is not a readable image; expected {', '.join(formats)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {name} is too large ({first_line(error)}); "
            f"the limit is {MAX_PIXELS // 1_000_000} megapixels"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"cannot open {name}: {first_line(error)}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise InputError(
            f"image {name} is {width}x{height}; the limit is {MAX_PIXELS // 1_000_000} megapixels"
        )
    return image


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file trips them into
        raise InputError(f"file {name} is damaged: {first_line(error)}") from error


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores pixels (``L;4``, ``RGB;16B``), which ``image.mode`` hides."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _orientation(image: Image.Image) -> int | None:
    try:
        found: int | None = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return None
    return found


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb_array(image: Image.Image, name: str) -> NDArray[np.uint8]:
    with _reading(name):
        frames, stored = getattr(image, "n_frames", 1), _raw_mode(image)
    if frames > 1 and image.format != "MPO":  # phones write MPO: a JPEG with a preview behind it
        raise InputError(f"image {name} is animated ({frames} frames); give one frame")
    deep = ";16" in stored and not stored.startswith("BGR")  # BMP's BGR;16 has 5 or 6 bits each
    if deep or image.mode not in _DIRECT_MODES + _ALPHA_MODES:
        mode = stored if deep else image.mode
        raise InputError(
            f"image {name} has mode {mode} (16-bit or float); convert it to 8-bit RGB first"
        )
    with _reading(name):
        image.load()
        upright = _upright(image)
        if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        pixels = np.array(upright.convert("RGB"))
    return check_image_array(pixels)
