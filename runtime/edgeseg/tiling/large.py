"""Pictures too large for the memory: from TIFF to mask without ever holding either.

    tiled = TiledSegmenter(Segmenter.load("bundles/land", size=(512, 512)), overlap=128)
    mask = segment_tiff(tiled, Path("city.tif"), Path("city.mask.tif"))
    mask.coverage  # {"grass": 0.41, ...}

The result is the one that the picture would have in memory, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, ResourceError, UsageError, first_line, show
from edgeseg.files import partial_file
from edgeseg.labels import Labels
from edgeseg.tiling.blend import Block
from edgeseg.tiling.raster import count_ids, create_mask, limited_memory, open_tiff
from edgeseg.tiling.segmenter import Progress, Stages, TiledSegmenter


@dataclass(frozen=True)
class MaskFile:
    """A mask that was written without being held in memory.

    Attributes:
        path: the TIFF file: pixel values are class ids, colours are for eyes.
        height, width: in pixels.
        counts: int64 (num_classes,), pixels per class.
        labels: names and colours of the ids.
        timings_ms: as of ``Segmentation``, summed over the tiles; ``post`` includes writing.
    """

    path: Path
    height: int
    width: int
    counts: NDArray[np.int64]
    labels: Labels
    timings_ms: dict[str, float]

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the image per class found, 0..1, largest first."""
        order = sorted(np.flatnonzero(self.counts).tolist(), key=lambda i: (-self.counts[i], i))
        pixels = self.height * self.width
        return {self.labels.names[i]: float(self.counts[i] / pixels) for i in order}

    def to_dict(self) -> dict[str, Any]:
        """Return size, coverage and timings as plain values, as ``Segmentation`` does."""
        return {
            "height": self.height,
            "width": self.width,
            "coverage": {name: round(share, 6) for name, share in self.coverage.items()},
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
        }


def segment_tiff(
    tiled: TiledSegmenter, source: Path, target: Path, progress: Progress | None = None
) -> MaskFile:
    """Segment a TIFF file of any size into a TIFF file, window by window.

    Memory: the network's own, its answer for a batch of tiles, the tiled segmenter's budget, and
    GDAL's cache of decoded blocks; the picture's size adds nothing.

    Args:
        tiled: how to segment.
        source: 8-bit gray or RGB; see ``edgeseg.tiling.raster`` for what is read.
        target: the mask, a palette TIFF with the georeference of ``source``. It appears when it
            is whole; an existing file is replaced.
        progress: called with the tiles done and the tiles there are.

    Raises:
        UsageError: the target's name does not end in .tif or .tiff.
        InputError: the source is missing, damaged or not of a kind that is read.
        ResourceError: the mask cannot be written.
        DeviceError: rasterio is not installed, or the network failed.
    """
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(
            f"output {show(target)} must end in .tif: other formats cannot be this large"
        )
    stages = Stages()
    counts = np.zeros(256, dtype=np.int64)
    with limited_memory(), open_tiff(source) as picture, stages.time_rest("post"):
        plan = tiled.plan(picture.height, picture.width)
        with _whole_or_nothing(target) as temporary:
            with create_mask(temporary, picture, tiled.labels) as mask:
                for block in tiled.blocks(picture.read, plan, stages, progress):
                    _write(mask, block)
                    counts += np.bincount(block.class_map.ravel(), minlength=len(counts))
            _check_written(temporary, counts, target)
    counts = counts[: tiled.labels.num_classes]
    size = picture.height, picture.width
    return MaskFile(target, *size, counts, tiled.labels, stages.timings_ms)


def _write(mask: Any, block: Block) -> None:
    rows, columns = block.window
    window = ((rows.start, rows.stop), (columns.start, columns.stop))
    mask.write(block.class_map, 1, window=window)


def _check_written(path: Path, counts: NDArray[np.int64], target: Path) -> None:
    """Read a mask back: GDAL says nothing when the disk is full while it closes a file."""
    try:
        intact = np.array_equal(count_ids(path), counts)
    except InputError:
        intact = False
    if not intact:
        raise ResourceError(
            f"mask {show(target)} does not read back as it was written; is the disk full?"
        )


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """Give a file name beside ``target`` to write to; it becomes ``target`` if the body succeeds.

    Raises:
        ResourceError: rasterio could not write.
    """
    from rasterio.errors import RasterioError

    try:
        with partial_file(target) as temporary:
            yield temporary
    except RasterioError as error:
        cause = first_line(error.__cause__ or error)
        raise ResourceError(f"cannot write {show(target)}: {cause}") from error
