"""Sort the pixels whose class changed: at a boundary or inside, at a near tie or a wide margin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeseg.manifest import MARGIN_EDGES, WIDE_MARGIN, Flips


def sort_flips(
    found: NDArray[np.uint8], reference: NDArray[np.uint8], margins: NDArray[np.float16]
) -> Flips:
    """Compare class maps (N, H, W) with PyTorch's; ``margins`` are PyTorch's, of the same shape."""
    flipped = found != reference
    at_boundary = int((flipped & boundary(reference)).sum())
    of_flips = margins[flipped].astype(np.float64)
    counts, _ = np.histogram(of_flips, bins=[*MARGIN_EDGES, np.inf])
    return Flips(
        pixels=flipped.size,
        boundary=at_boundary,
        interior=int(flipped.sum()) - at_boundary,
        wide=int((of_flips >= WIDE_MARGIN).sum()),
        by_margin=tuple(int(count) for count in counts),
    )


def boundary(class_maps: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the 3x3 neighbourhood holds another class, bool (N, H, W)."""
    found = np.zeros(class_maps.shape, dtype=np.bool_)
    height, width = class_maps.shape[1:]
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (
            slice(None),
            slice(0, height - down),
            slice(max(0, -right), width - max(0, right)),
        )
        there = (
            slice(None),
            slice(down, height),
            slice(max(0, right), width - max(0, -right)),
        )
        differs = class_maps[here] != class_maps[there]
        found[here] |= differs
        found[there] |= differs
    return found
