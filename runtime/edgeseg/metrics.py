"""Segmentation accuracy from one integer confusion matrix.

Formulas as in the ADE20K scene parsing benchmark: with n[t, p] the number of pixels
of true class t predicted as p,

    pixel accuracy = sum_i n[i, i] / sum n
    class accuracy = n[i, i] / sum_p n[i, p]
    IoU of class i = n[i, i] / (sum_p n[i, p] + sum_t n[t, i] - n[i, i])

mIoU is the mean over the classes that occur in the truth or the prediction; classes
absent from both have no IoU and are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.labels import IGNORE_INDEX


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels; memory does not grow with images.

    ``counts`` is int64 (C, C), rows are truth. Pixels whose truth is 255 are not counted.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Add one image or batch: two uint8 arrays of one shape, ids 0 .. C-1, truth also 255.

        Raises:
            InputError: shapes differ or an id is out of range.
        """
        classes = len(self.counts)
        if truth.shape != prediction.shape:
            raise InputError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
        counted = truth != IGNORE_INDEX
        true_ids = truth[counted].astype(np.int64)
        predicted_ids = prediction[counted].astype(np.int64)
        highest = max(true_ids.max(initial=0), predicted_ids.max(initial=0))
        if highest >= classes:
            raise InputError(f"class id {highest} found, but there are only {classes} classes")
        pairs = np.bincount(true_ids * classes + predicted_ids, minlength=classes * classes)
        self.counts += pairs.reshape(classes, classes)

    @property
    def iou_per_class(self) -> NDArray[np.float64]:
        """IoU of each class, float64 (C,), 0..1; NaN where truth and prediction have none."""
        intersection = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - intersection
        return _ratio(intersection, union)

    @property
    def mean_iou(self) -> float:
        """Mean of ``iou_per_class`` over the classes that occur; NaN when nothing was counted."""
        return _mean(self.iou_per_class)

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels with the right class, 0..1; NaN when nothing was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes in the truth of the share of their pixels found, 0..1."""
        return _mean(_ratio(np.diag(self.counts), self.counts.sum(1)))

    @property
    def classes_present(self) -> int:
        """Number of classes that occur in the truth."""
        return int(np.count_nonzero(self.counts.sum(1)))


def agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the share of equal pixels of two class maps of one shape, 0..1."""
    if first.shape != second.shape:
        raise InputError(f"class maps differ in shape: {first.shape} and {second.shape}")
    return float(np.mean(first == second))


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
