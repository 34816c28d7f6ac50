"""How far the best class is ahead of the second best, in logits: float32 (H, W) for NumPy."""

from __future__ import annotations

from edgeseg.outputs.confidence import margin
from edgeseg.outputs.npy import encode_array
from edgeseg.segmentation import Segmentation


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file.

    Raises:
        UsageError: the segmentation has no confidence.
    """
    return encode_array(margin(segmentation))
