"""TIFF files of any size: read window by window, written block by block, with rasterio (GDAL).

    with limited_memory(), open_tiff(Path("city.tif")) as picture:
        corner = picture.read(0, 0, 512, 512)  # uint8 (512, 512, 3) RGB

What a file may hold is decided as in ``edgeseg.images``, but on the header, because nothing here
sees the whole picture: 8-bit gray or RGB, JPEG-compressed YCbCr, with or without alpha. Unlike
there, the reduced copies that map files carry (COGs, overviews) are not taken for an animation.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from edgeseg.errors import InputError, first_line, needs_extra, show
from edgeseg.images import MAX_PIXELS, read_image
from edgeseg.labels import Labels

MAX_TIFF_PIXELS = 100_000_000_000  # far above real mosaics: a header that claims more is damaged
MAX_BLOCK_BYTES = 64 * 1024**2  # the unit of compression, decoded whole
CACHE_BYTES = 128 * 1024**2  # of decoded blocks: a row of 512-pixel tiles 80,000 pixels wide fits
MASK_BLOCK = 256

_COLOURS = {1: 1, 2: 3, 6: 3}  # photometric: gray, RGB, YCbCr -> how many samples
_JPEG = 7  # compression
_STRAIGHT_ALPHA = (2,)  # extra samples

# The TIFF tags that decide.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 274, 338, 339
_TAGS = (
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
    *(_ORIENTATION, _EXTRA_SAMPLES, _SAMPLE_FORMAT),
)


def is_large_tiff(path: Path) -> bool:
    """Whether a file is a TIFF above the limit of ``read_image``; reads only its header."""
    try:
        tags = _read_tags(path)
        return bool(tags[_WIDTH] * tags[_HEIGHT] > MAX_PIXELS)
    except InputError:
        return False  # whoever reads it says what is wrong


class TiffPicture:
    """An open TIFF file, of which only the windows asked for are decoded.

    Attributes:
        height, width: in pixels.
        georeference: what ``create_mask`` needs to put a mask at the same place on Earth.
    """

    def __init__(self, dataset: Any, colours: int, alpha: bool, name: str) -> None:
        """Take an open rasterio dataset with its colours in the first bands, alpha after them."""
        self._dataset, self._name = dataset, name
        self._bands = list(range(1, colours + alpha + 1))
        self.height, self.width = int(dataset.height), int(dataset.width)
        points, points_crs = dataset.gcps
        self.georeference = {
            "crs": dataset.crs or points_crs,
            "rpcs": dataset.rpcs,
            **({"gcps": points} if points else {"transform": dataset.transform}),
        }

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a window, uint8 (height, width, 3) RGB; alpha is composited on black.

        Raises:
            InputError: the file is damaged there.
        """
        window = ((top, top + height), (left, left + width))
        with _reading(self._name):
            samples = self._dataset.read(self._bands, window=window)
        pixels = np.moveaxis(samples, 0, 2) if len(samples) > 1 else samples[0]
        return read_image(Image.fromarray(np.ascontiguousarray(pixels)))


@contextmanager
def limited_memory() -> Iterator[None]:
    """Bound what GDAL keeps of decoded files; by default that is 5 % of the machine's memory.

    GDAL takes the bound when it first reads a file; a program that used it before keeps its own.

    Raises:
        DeviceError: rasterio is not installed.
    """
    with needs_extra("large"):
        import rasterio
    logging.getLogger("rasterio").addHandler(logging.NullHandler())  # our errors say it
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffPicture]:
    """Open a TIFF or BigTIFF file for reading window by window.

    Raises:
        InputError: missing, no TIFF, damaged, or of a kind that is not read this way.
    """
    import rasterio

    name = show(path)
    colours, alpha = _check_tags(_read_tags(path), name)
    with _reading(name):
        dataset = rasterio.open(path, driver="GTiff")  # no other: some drivers follow links
    with dataset:
        _check_layout(dataset, colours + alpha, name)
        yield TiffPicture(dataset, colours, alpha, name)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        cause = error.__cause__ or error  # "Read failed. See previous exception for details."
        raise InputError(f"file {name} is damaged: {first_line(cause)}") from error


def _read_tags(path: Path) -> dict[int, Any]:
    """Return the tags of the first picture in a TIFF file."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if header[2:3] == b"\x2b":  # BigTIFF
                header += file.read(8)
            directory = ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            tags = {tag: directory[tag] for tag in _TAGS if tag in directory}
    except FileNotFoundError as error:
        raise InputError(f"file {show(path)} does not exist") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file trips them into
        raise InputError(f"file {show(path)} is no readable TIFF: {first_line(error)}") from error
    if not all(isinstance(tags.get(side), int) and tags[side] > 0 for side in (_WIDTH, _HEIGHT)):
        raise InputError(f"file {show(path)} is damaged: it has no width and height")
    return tags


def _check_tags(tags: dict[int, Any], name: str) -> tuple[int, bool]:
    """Return the number of colours (1 or 3) and whether alpha follows, or refuse."""
    width, height = tags[_WIDTH], tags[_HEIGHT]
    if width * height > MAX_TIFF_PIXELS:
        limit = f"the limit is {MAX_TIFF_PIXELS // 10**9} gigapixels"
        raise InputError(f"image {name} is {width}x{height}; {limit}")
    if set(tags.get(_BITS, (1,))) != {8} or set(tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
        bits = "x".join(str(bits) for bits in tags.get(_BITS, (1,)))
        raise InputError(f"image {name} has samples of {bits} bits; convert it to 8-bit RGB first")
    if tags.get(_ORIENTATION, 1) != 1:
        raise InputError(
            f"image {name} is stored turned (orientation {tags[_ORIENTATION]}), which cannot be "
            "undone window by window; rotate it first"
        )
    photometric, extra = tags.get(_PHOTOMETRIC), tuple(tags.get(_EXTRA_SAMPLES, ()))
    squeezed = photometric == 6 and tags.get(_COMPRESSION) != _JPEG
    if photometric not in _COLOURS or squeezed or not (extra == _STRAIGHT_ALPHA or not any(extra)):
        raise InputError(
            f"image {name} stores colours in a way (photometric {photometric}, extra samples "
            f"{extra}) that is not read window by window; convert it to 8-bit RGB first"
        )
    return _COLOURS[photometric], extra == _STRAIGHT_ALPHA


def _check_layout(dataset: Any, bands: int, name: str) -> None:
    if len(dataset.subdatasets) > 1:
        raise InputError(f"image {name} has {len(dataset.subdatasets)} pages; give one page")
    if dataset.count < bands:
        raise InputError(f"file {name} is damaged: it has {dataset.count} of {bands} channels")
    height, width = dataset.block_shapes[0]
    if height * width * dataset.count > MAX_BLOCK_BYTES:
        raise InputError(
            f"image {name} is compressed in pieces of {width}x{height}, too large to read window "
            f"by window; rewrite it, for example: rio convert {name} tiled.tif --co TILED=YES"
        )


def create_mask(path: Path, picture: TiffPicture, labels: Labels) -> Any:
    """Open a rasterio dataset for the class map of a picture: palette, tiled, deflate."""
    import rasterio

    dataset = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=picture.height,
        width=picture.width,
        count=1,
        dtype="uint8",
        photometric="palette",
        compress="deflate",
        tiled=True,
        blockxsize=MASK_BLOCK,
        blockysize=MASK_BLOCK,
        BIGTIFF="IF_SAFER",
        **picture.georeference,
    )
    colours = dict(enumerate(labels.palette))
    dataset.write_colormap(1, {i: colours.get(i, (0, 0, 0)) for i in range(256)})
    return dataset


def count_ids(path: Path) -> NDArray[np.int64]:
    """Return how often each id is in a mask, int64 (256,); reads every block of it.

    Raises:
        InputError: the file is damaged.
    """
    import rasterio

    counts = np.zeros(256, dtype=np.int64)
    with _reading(show(path)), rasterio.open(path, driver="GTiff") as mask:
        for _, window in mask.block_windows(1):
            counts += np.bincount(mask.read(1, window=window).ravel(), minlength=len(counts))
    return counts
