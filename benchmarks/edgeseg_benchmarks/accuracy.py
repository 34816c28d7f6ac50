"""Accuracy of several segmenters on the same images, in the same order, as deployed.

Every picture goes through the whole runtime path (decode, resize, network, resize back) and
is compared with the truth at its own size. Memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import InputError, show
from edgeseg.metrics import ConfusionMatrix
from edgeseg.segmenter import Segmenter
from edgeseg_train.data import Split


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one segmenter; shares 0..1.

    ``agreement`` is the share of pixels with the first segmenter's class, ``miou_drop`` the
    first one's mIoU minus this one's; ``iou_per_class`` has None for classes that occur in
    neither truth nor prediction.
    """

    images: int
    miou: float
    miou_drop: float
    pixel_accuracy: float
    mean_class_accuracy: float
    agreement: float
    classes_present: int
    iou_per_class: tuple[float | None, ...]


def measure_accuracy(
    segmenters: Sequence[Segmenter],
    split: Split,
    indices: Sequence[int],
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Accuracy]:
    """Segment the chosen samples with every segmenter; the first one is the reference.

    Raises:
        InputError: image and mask differ in size, or nothing is labelled.
    """
    matrices = [ConfusionMatrix(s.labels.num_classes) for s in segmenters]
    equal = np.zeros(len(segmenters), dtype=np.int64)
    total = 0
    for index in indices:
        encoded, truth = split.encoded(index), split.mask(index)
        maps = [segmenter(encoded).class_map for segmenter in segmenters]
        if maps[0].shape != truth.shape:
            raise InputError(
                f"sample {show(split.names[index])}: the image is {maps[0].shape}, its mask "
                f"{truth.shape} (height, width)"
            )
        for i, class_map in enumerate(maps):
            matrices[i].update(truth, class_map)
            equal[i] += np.count_nonzero(class_map == maps[0])
        total += truth.size
        advance(1)
    if not matrices[0].classes_present:
        raise InputError("the evaluation images have no labelled pixel")
    reference = matrices[0].mean_iou
    return [
        Accuracy(
            images=len(indices),
            miou=matrix.mean_iou,
            miou_drop=reference - matrix.mean_iou,
            pixel_accuracy=matrix.pixel_accuracy,
            mean_class_accuracy=matrix.mean_class_accuracy,
            agreement=float(same / total),
            classes_present=matrix.classes_present,
            iou_per_class=tuple(None if np.isnan(v) else float(v) for v in matrix.iou_per_class),
        )
        for matrix, same in zip(matrices, equal, strict=True)
    ]
