"""How far is an exported variant from PyTorch, in segmentation units, on real images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.bundle import Reference
from edgeseg.errors import InputError
from edgeseg.manifest import Parity
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import resize_class_map
from edgeseg.sessions import Session
from edgeseg.verify import compare
from edgeseg_train.unet import SegmentationNetwork

SHIPPED_IMAGES = 8


@dataclass(frozen=True)
class Gates:
    """What a variant must reach: agreement with PyTorch (0..1), at most this mIoU loss (0..1)."""

    min_agreement: float
    max_miou_drop: float


DEFAULT_GATES = {
    "fp32": Gates(min_agreement=0.999, max_miou_drop=0.001),
    "int8": Gates(min_agreement=0.95, max_miou_drop=0.02),
}


@dataclass(frozen=True)
class Evaluation:
    """Real images with the truth and PyTorch's answers.

    ``reference`` holds inputs, class maps and margins at network size; ``truths`` are uint8
    (h, w) at the pictures' own sizes; ``miou`` is PyTorch's.
    """

    reference: Reference
    truths: tuple[NDArray[np.uint8], ...]
    num_classes: int
    miou: float

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


@torch.inference_mode()
def evaluate_torch(
    network: SegmentationNetwork,
    images: NDArray[np.uint8],
    truths: Sequence[NDArray[np.uint8]],
) -> Evaluation:
    """Run PyTorch on preprocessed images uint8 (N, H, W, 3).

    Raises:
        InputError: no pixel of the truths is labelled.
    """
    network = network.eval()
    maps, margins = [], []
    for image in images:
        logits = network(torch.tensor(image)[None])[0]
        top = logits.topk(min(2, len(logits)), dim=0).values
        maps.append(logits.argmax(0).to(torch.uint8).numpy())
        margins.append((top[0] - top[-1]).numpy().clip(max=6e4).astype(np.float16))
    reference = Reference(images, np.stack(maps), np.stack(margins))
    classes = network.unet.config.num_classes
    return Evaluation(
        reference, tuple(truths), classes, mean_iou(reference.class_maps, truths, classes)
    )


def measure(evaluation: Evaluation, session: Session, gates: Gates) -> Parity:
    """Run a variant on the same images and compare it with PyTorch and the truth."""
    reference = evaluation.reference
    found = np.concatenate([session.infer(image[np.newaxis]) for image in reference.images])
    agreement, widest = compare(found, reference.class_maps, reference.margins)
    shipped = evaluation.shipped
    on_shipped, _ = compare(found[evaluation.shipped_indices], shipped.class_maps, shipped.margins)
    return Parity(
        images=len(found),
        agreement=agreement,
        reference_agreement=on_shipped,
        min_agreement=gates.min_agreement,
        max_flip_margin=widest,
        torch_miou=evaluation.miou,
        miou=mean_iou(found, evaluation.truths, evaluation.num_classes),
        max_miou_drop=gates.max_miou_drop,
    )


def mean_iou(
    class_maps: NDArray[np.uint8], truths: Sequence[NDArray[np.uint8]], num_classes: int
) -> float:
    """Return the mIoU of class maps (N, H, W), resized to each truth's own size.

    Raises:
        InputError: no pixel of the truths is labelled.
    """
    matrix = ConfusionMatrix(num_classes)
    for class_map, truth in zip(class_maps, truths, strict=True):
        matrix.update(truth, resize_class_map(class_map, *truth.shape))
    if not matrix.classes_present:
        raise InputError("the evaluation images have no labelled pixel")
    return matrix.mean_iou
