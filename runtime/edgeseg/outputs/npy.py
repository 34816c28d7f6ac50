"""Arrays as NumPy's own files: ``numpy.load("NAME.npy")``."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmentation import Segmentation


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file: class ids, uint8 (H, W)."""
    return encode_array(segmentation.class_map)


def encode_array(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
