"""The images of a parity check, with the truth and PyTorch's answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.bundle import Reference
from edgeseg.errors import InputError
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing
from edgeseg_train.unet import SegmentationNetwork

SHIPPED_IMAGES = 8
LOGITS_BYTES = 2**28  # of PyTorch's logits kept for comparison: 8 images of 150 x 256 x 256


@dataclass(frozen=True)
class Evaluation:
    """Real images with the truth and PyTorch's answers.

    Attributes:
        reference: inputs, class maps and margins at network size.
        logits: PyTorch's, float32 (n, C, H, W), of the first n images: as many as fit in memory.
        truths: uint8 (h, w), at the pictures' own sizes.
        counts: PyTorch's confusion matrix per image, see ``image_counts``.
        fit: how the pictures became inputs.
    """

    reference: Reference
    logits: NDArray[np.float32]
    truths: tuple[NDArray[np.uint8], ...]
    counts: NDArray[np.int64]
    fit: Preprocessing

    @property
    def shipped(self) -> Reference:
        """The part that goes into the bundle, for ``edgeseg verify``."""
        whole, chosen = self.reference, self.shipped_indices
        return Reference(whole.images[chosen], whole.class_maps[chosen], whole.margins[chosen])

    @property
    def shipped_indices(self) -> list[int]:
        """Which images these are: up to 8, evenly spaced."""
        total = len(self.reference.images)
        count = min(total, SHIPPED_IMAGES)
        return [i * total // count for i in range(count)]

    def first(self, count: int) -> Evaluation:
        """The first images only."""
        whole = self.reference
        return Evaluation(
            Reference(whole.images[:count], whole.class_maps[:count], whole.margins[:count]),
            self.logits[:count],
            self.truths[:count],
            self.counts[:count],
            self.fit,
        )


@torch.inference_mode()
def evaluate_torch(
    network: SegmentationNetwork,
    images: NDArray[np.uint8],
    truths: Sequence[NDArray[np.uint8]],
    fit: Preprocessing,
) -> Evaluation:
    """Run PyTorch in float32 on preprocessed images uint8 (N, H, W, 3).

    Raises:
        InputError: no pixel of the truths is labelled.
    """
    # Copied, because the memory format is the caller's; channels last is PyTorch's fastest.
    network = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
    classes = network.unet.config.num_classes
    _, height, width, _ = images.shape
    kept = max(1, LOGITS_BYTES // (4 * classes * height * width))
    maps, margins = [], []
    kept_logits: list[NDArray[np.float32]] = []
    for image in images:
        logits = network(torch.tensor(image)[None])[0]
        top = logits.topk(min(2, len(logits)), dim=0).values
        maps.append(logits.argmax(0).to(torch.uint8).numpy())
        margins.append((top[0] - top[-1]).numpy().clip(max=6e4).astype(np.float16))
        if len(kept_logits) < min(kept, SHIPPED_IMAGES):
            kept_logits.append(logits.numpy())
    reference = Reference(images, np.stack(maps), np.stack(margins))
    counts = image_counts(reference.class_maps, truths, classes, fit)
    if not counts[:, :, 0].any():
        raise InputError("the evaluation images have no labelled pixel")
    return Evaluation(reference, np.stack(kept_logits), tuple(truths), counts, fit)


def image_counts(
    class_maps: NDArray[np.uint8],
    truths: Sequence[NDArray[np.uint8]],
    num_classes: int,
    fit: Preprocessing,
) -> NDArray[np.int64]:
    """Count per image and class what IoU needs, at each truth's own size.

    Returns:
        int64 (N, C, 3): pixels of the class in the truth, in the prediction, and in both.
    """
    counts = np.zeros((len(class_maps), num_classes, 3), dtype=np.int64)
    for i, (class_map, truth) in enumerate(zip(class_maps, truths, strict=True)):
        matrix = ConfusionMatrix(num_classes)
        matrix.update(truth, fit.restore_class_map(class_map, *truth.shape))
        found = matrix.counts
        counts[i] = np.stack([found.sum(1), found.sum(0), np.diag(found)], axis=1)
    return counts


def iou_per_class(counts: NDArray[np.integer | np.floating]) -> NDArray[np.float64]:
    """Return IoU (..., C) of counts (..., C, 3) summed over images; NaN for absent classes."""
    union = counts[..., 0] + counts[..., 1] - counts[..., 2]
    result = np.full(union.shape, np.nan)
    np.divide(counts[..., 2], union, out=result, where=union > 0)
    return result


def mean_iou(counts: NDArray[np.integer | np.floating]) -> NDArray[np.float64]:
    """Return the mean of ``iou_per_class`` over the classes that occur, (...)."""
    values = np.asarray(iou_per_class(counts))
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1)
    return np.asarray(total / np.maximum(known.sum(-1), 1), dtype=np.float64)
