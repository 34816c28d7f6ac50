"""The class map as a palette PNG: pixel values are ids, colours are for eyes."""

from __future__ import annotations

from edgeseg.segmentation import Segmentation, encode_png


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file."""
    return encode_png(segmentation.mask())
