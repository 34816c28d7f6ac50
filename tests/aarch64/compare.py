"""Compare the masks of two machines, pixel by pixel: ``compare.py OUT``.

``OUT`` has the folders ``here-VARIANT`` and ``there-VARIANT`` with the same masks. They must be
equal: what differs by rounding inside the network is not enough to change a class.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def main(out: Path) -> int:
    """Print a line per mask; return 1 if any differs or there is none."""
    failed = 0
    masks = sorted(out.glob("here-*/*.png"))
    for path in masks:
        variant = path.parent.name.removeprefix("here-")
        ours, theirs = _mask(path), _mask(out / f"there-{variant}" / path.name)
        equal = int((ours == theirs).sum()) if ours.shape == theirs.shape else 0
        failed |= equal != ours.size
        print(  # noqa: T201 - the result
            f"{'EQUAL' if equal == ours.size else 'DIFFERENT'} {variant} {path.name}: {equal} "
            f"of {ours.size} pixels, {np.unique(ours).size} classes"
        )
    return failed if masks else 1


def _mask(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
