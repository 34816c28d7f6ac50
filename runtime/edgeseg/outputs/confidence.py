"""How far the best class is ahead of the second best, as a gray PNG.

Gray is 32 per logit, rounded, and 255 from 7.95 logits on; ``gray / 32`` gives the lead back to
1/64 of a logit. To the network the best class is exp(lead) times as likely as the second: gray 0
says the same, 32 says 2.7 times, 128 says 55 times, white says 2800 times or more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import UsageError
from edgeseg.segmentation import Segmentation, encode_png

GRAY_PER_LOGIT = 32


def encode(segmentation: Segmentation) -> bytes:
    """Return the bytes of the file.

    Raises:
        UsageError: the segmentation has no confidence.
    """
    gray = np.rint(margin(segmentation) * GRAY_PER_LOGIT).clip(0, 255).astype(np.uint8)
    return encode_png(Image.fromarray(gray))


def margin(segmentation: Segmentation) -> NDArray[np.float32]:
    """Return the confidence, float32 (H, W), in logits.

    Raises:
        UsageError: the segmentation has none.
    """
    if segmentation.confidence is None:
        raise UsageError(
            "this segmentation has no confidence; load the segmenter with confidence=True"
        )
    return segmentation.confidence
