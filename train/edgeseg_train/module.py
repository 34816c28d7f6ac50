"""The Lightning module: loss, optimiser, and accuracy as the runtime will have it."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from edgeseg.errors import GateFailed
from edgeseg.labels import IGNORE_INDEX
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import resize_class_map
from edgeseg_train.dataset import Batch
from edgeseg_train.presets import TrainingConfig
from edgeseg_train.unet import SegmentationNetwork


def segmentation_loss(logits_nchw: Tensor, masks: Tensor) -> Tensor:
    """Return the mean cross-entropy over pixels that are not ignored; 0 when all are.

    Args:
        logits_nchw: float (N, C, H, W).
        masks: int64 (N, H, W), ids 0 .. C-1 or 255.
    """
    # One row per pixel: log-softmax over adjacent values needs no copy in channels_last.
    rows = logits_nchw.permute(0, 2, 3, 1).flatten(0, 2)
    total = F.cross_entropy(
        rows.float(), masks.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / (masks != IGNORE_INDEX).sum().clamp(min=1)


def _labelled(masks: Tensor) -> Tensor:
    """Return the number of pixels that count."""
    return (masks != IGNORE_INDEX).sum()


class Accuracy(torch.nn.Module):
    """Loss and confusion matrix of one split over an epoch, summed over all devices."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.confusion = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE_INDEX, validate_args=False
        )

    def compute(self) -> tuple[float, ConfusionMatrix]:
        """Return mean loss and the confusion matrix of ``edgeseg.metrics``; then start afresh."""
        matrix = ConfusionMatrix(self.confusion.num_classes)
        counts = self.confusion.compute().cpu().numpy().astype(np.int64)
        matrix.counts += counts.reshape(matrix.counts.shape)  # of one class it is a scalar
        loss = float(self.loss.compute())
        self.loss.reset()
        self.confusion.reset()
        return loss, matrix


class SegmentationModule(lightning.LightningModule):
    """Trains a ``SegmentationNetwork``; the network itself knows nothing of training."""

    def __init__(self, network: SegmentationNetwork, training: TrainingConfig) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.training_config = training
        classes = network.unet.config.num_classes
        self.train_accuracy, self.val_accuracy = Accuracy(classes), Accuracy(classes)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch."""
        logits = self.network(batch.images)
        masks = batch.masks.long()
        loss = segmentation_loss(logits, masks)
        if not self._finite_everywhere(loss):
            raise GateFailed(
                f"training diverged: the loss is {loss.item()} at step {self.global_step}; "
                "use a lower --lr"
            )
        self.train_accuracy.loss.update(loss.detach(), weight=_labelled(masks))
        classes = logits.detach().max(dim=1).indices  # twice as fast as argmax on a CPU
        self.train_accuracy.confusion.update(classes, masks)
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Measure one batch at the masks' own sizes, as the runtime's output is used."""
        logits = self.network(batch.images)
        masks = batch.masks.long()
        self.val_accuracy.loss.update(segmentation_loss(logits, masks), weight=_labelled(masks))
        class_maps = logits.argmax(1).to(torch.uint8).cpu().numpy()
        for class_map, truth in zip(class_maps, batch.truths, strict=True):
            full = resize_class_map(class_map, *truth.shape)
            found = torch.tensor(full, device=self.device)
            self.val_accuracy.confusion.update(found.long(), truth.long())

    def _finite_everywhere(self, loss: Tensor) -> bool:
        """Whether the loss is finite on every device: all must stop together, or none."""
        finite = torch.isfinite(loss.detach())
        if self.trainer.world_size > 1:
            count = self.trainer.strategy.reduce(finite.float(), reduce_op="sum")
            return bool(count == self.trainer.world_size)
        return bool(finite)

    def configure_optimizers(self) -> Any:
        """Return AdamW, with the one-cycle schedule (arXiv:1708.07120) where configured."""
        config = self.training_config
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        if config.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.lr, total_steps=max(steps, 2), pct_start=0.2
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
