"""The files that can be written of a segmentation; one module per format.

outputs.check(["png", "geojson"])  # before any work: unknown names, missing packages
outputs.save(result, Path("masks/street.png"), ["png", "geojson"])

    png             NAME.png              class ids under the classes' colours
    overlay         NAME.overlay.png      the picture with the colours over it
    npy             NAME.npy              class ids as a NumPy array, uint8 (H, W)
    coco            NAME.coco.json        COCO annotations, run-length encoded
    geojson         NAME.geojson          polygons along the edges of pixels
    confidence      NAME.confidence.png   the lead of the best class, gray
    confidence-npy  NAME.confidence.npy   the same as float32 (H, W), in logits

A module has ``encode(segmentation) -> bytes`` and is imported when its format is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from edgeseg.errors import UsageError, needs_extra, show
from edgeseg.files import atomic_write
from edgeseg.segmentation import Segmentation

EXTRA = "shapes"


@dataclass(frozen=True)
class Format:
    """How a format's files end, which module makes them, and what that needs of the extra."""

    suffix: str
    module: str
    package: str | None = None
    of_confidence: bool = False

    def encode(self, segmentation: Segmentation) -> bytes:
        """Return the file's bytes."""
        with needs_extra(EXTRA):
            encoded: bytes = import_module(self.module).encode(segmentation)
        return encoded


FORMATS = {
    "png": Format(".png", "edgeseg.outputs.png"),
    "overlay": Format(".overlay.png", "edgeseg.outputs.overlay"),
    "npy": Format(".npy", "edgeseg.outputs.npy"),
    "coco": Format(".coco.json", "edgeseg.outputs.coco", "pycocotools.mask"),
    "geojson": Format(".geojson", "edgeseg.outputs.geojson", "rasterio.features"),
    "confidence": Format(".confidence.png", "edgeseg.outputs.confidence", of_confidence=True),
    "confidence-npy": Format(
        ".confidence.npy", "edgeseg.outputs.confidence_npy", of_confidence=True
    ),
}


def check(formats: Sequence[str]) -> None:
    """Check that these formats can be written here, before any work is done.

    Raises:
        UsageError: there is no such format.
        DeviceError: the package for it is not installed.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"no format {show(name)}; choose from {', '.join(FORMATS)}")
        if package := FORMATS[name].package:
            with needs_extra(EXTRA):
                import_module(package)


def needs_confidence(formats: Sequence[str]) -> bool:
    """Return whether any of these formats is of the confidence, which must be asked for."""
    return any(FORMATS[name].of_confidence for name in formats)


def paths(target: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Return where each format goes, for the mask's path OUT/NAME.png."""
    return {name: target.with_name(target.stem + FORMATS[name].suffix) for name in formats}


def save(segmentation: Segmentation, target: Path, formats: Sequence[str]) -> list[Path]:
    """Write a segmentation in each format, each file whole or not at all; return the files.

    The folder must exist.

    Raises:
        UsageError: a format of the confidence, and the segmentation has none.
        DeviceError: see ``check``.
    """
    files = paths(target, formats)
    for name, path in files.items():
        atomic_write(path, FORMATS[name].encode(segmentation))
    return list(files.values())
