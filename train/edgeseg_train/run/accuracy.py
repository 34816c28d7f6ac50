"""Accuracy while training: what torchmetrics counts, read through ``edgeseg.metrics``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from edgeseg.labels import IGNORE_INDEX
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing
from edgeseg_train.recipe.losses import SegmentationLoss
from edgeseg_train.samples.batches import Batch


class Accuracy(nn.Module):
    """Mean loss and confusion matrix of one split over an epoch, summed over all devices."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # looking for NaN would wait for the GPU
        self.confusion = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE_INDEX, validate_args=False
        )

    def update(self, loss: Tensor, weight: Tensor, classes: Tensor, masks: Tensor) -> None:
        """Add a training batch; a loss that is not finite is left out.

        Args:
            loss: scalar.
            weight: scalar, the labelled pixels that ``loss`` is the mean over.
            classes: int64 (N, H, W), the ids found.
            masks: int64 (N, H, W), the true ids, also 255.
        """
        finite = torch.isfinite(loss.detach())
        self.loss.update(torch.where(finite, loss.detach(), 0), weight=weight * finite)
        self.confusion.update(classes, masks)

    def compute(self) -> tuple[float, ConfusionMatrix]:
        """Return mean loss and the confusion matrix of ``edgeseg.metrics``; then start afresh."""
        matrix = ConfusionMatrix(self.confusion.num_classes)
        counts = self.confusion.compute().cpu().numpy().astype(np.int64)
        matrix.counts += counts.reshape(matrix.counts.shape)  # of one class it is a scalar
        loss = float(self.loss.compute())
        self.loss.reset()
        self.confusion.reset()
        return loss, matrix

    def sums(self) -> dict[str, Tensor]:
        """Return this device's running sums, for a checkpoint."""
        return {
            "loss": self.loss.mean_value.clone(),
            "weight": self.loss.weight.clone(),
            "confusion": self.confusion.confmat.clone(),
        }

    def load_sums(self, sums: dict[str, Any]) -> None:
        """Go on from the sums of a checkpoint."""
        device = self.loss.mean_value.device
        self.loss.mean_value = sums["loss"].to(device)
        self.loss.weight = sums["weight"].to(device)
        self.confusion.confmat = sums["confusion"].to(device)


def labelled_pixels(masks: Tensor) -> Tensor:
    """Return the number of pixels that count."""
    return (masks != IGNORE_INDEX).sum()


def evaluate(
    network: nn.Module, batches: Iterable[Batch], accuracy: Accuracy, preprocessing: Preprocessing
) -> None:
    """Measure a network at the masks' own sizes, in fp32, as the runtime's output is used.

    The loss is the plain cross-entropy, whatever is trained on: so that recipes compare.
    """
    criterion = SegmentationLoss(("ce",))
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    for batch in batches:
        images, masks = batch.images.to(device), batch.masks.to(device).long()
        with torch.inference_mode():
            logits = network(images)
            loss = criterion(logits, masks)
        accuracy.loss.update(loss, weight=labelled_pixels(masks))
        class_maps = logits.argmax(1).to(torch.uint8).cpu().numpy()
        for class_map, truth in zip(class_maps, batch.truths, strict=True):
            restored = preprocessing.restore_class_map(class_map, *truth.shape)
            full = torch.tensor(restored, device=device)
            accuracy.confusion.update(full.long(), truth.to(device).long())
    network.train(training)
