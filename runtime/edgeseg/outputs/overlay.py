"""The picture with the classes' colours over it, as a PNG."""

from __future__ import annotations

from edgeseg.segmentation import Segmentation, encode_png


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file.

    Raises:
        InputError: see ``Segmentation.image``.
    """
    return encode_png(segmentation.overlay())
