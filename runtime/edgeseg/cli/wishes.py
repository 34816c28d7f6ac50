"""What the options of ``edgeseg run`` mean together: output formats, tiles."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg.errors import UsageError
from edgeseg.outputs import check, needs_confidence
from edgeseg.preprocess import parse_size


def list_formats(given: Sequence[str] | None, *, overlay: bool, confidence: bool) -> list[str]:
    """Split ``png,overlay`` and repeated options into names, each once; the mask by default.

    Raises:
        UsageError: there is no such format.
        DeviceError: the package for it is not installed.
    """
    names = [name.strip() for words in given or ["png"] for name in words.split(",")]
    names += ["overlay"] if overlay else []
    names += ["confidence"] if confidence else []
    check(names)
    return list(dict.fromkeys(names))


def plan_tiles(
    tile: str | None, overlap: int | None, size: str | None, *, smooth: bool, formats: Sequence[str]
) -> int | None:
    """Return how many pixels tiles share, None without tiles.

    Raises:
        UsageError: options that exclude each other, or no size.
    """
    if tile is None:
        if overlap is not None:
            raise UsageError("--overlap is for tiles; give --tile HxW, too")
        return None
    if size is not None:
        raise UsageError("the network runs at the size of the tiles; leave --size out")
    if smooth or needs_confidence(formats):
        raise UsageError("tiles are not resized and have no confidence; leave that option out")
    if overlap is not None:
        return overlap
    from edgeseg.tiling import default_overlap

    return default_overlap(parse_size(tile))
