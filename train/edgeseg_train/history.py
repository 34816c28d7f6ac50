"""What a training leaves behind as it goes: one CSV row per epoch, and the best weights."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import lightning
import torch
from safetensors.torch import save

from edgeseg.files import atomic_write
from edgeseg_train.module import SegmentationModule
from edgeseg_train.run_folder import WEIGHTS, Result

METRICS = "metrics.csv"


@dataclass(frozen=True)
class Epoch:
    """One row of ``metrics.csv``; accuracies are shares 0..1, NaN where nothing was counted."""

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    train_pixel_accuracy: float
    train_miou: float
    val_loss: float
    val_pixel_accuracy: float
    val_miou: float
    val_classes_present: int


class History(lightning.Callback):
    """Collects epochs, keeps ``metrics.csv`` up to date and saves the best weights so far."""

    def __init__(self, folder: Path, tell: Callable[[Epoch], None]) -> None:
        """Write into ``folder``; ``tell`` is called with each finished epoch."""
        self.folder, self.tell = folder, tell
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self._start = time.perf_counter()

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Close an epoch: Lightning validates at the end of each."""
        if trainer.sanity_checking or not isinstance(module, SegmentationModule):
            return
        train_loss, train = module.train_accuracy.compute()
        val_loss, val = module.val_accuracy.compute()
        if not trainer.is_global_zero:
            return
        epoch = Epoch(
            epoch=len(self.epochs) + 1,
            step=trainer.global_step,
            seconds=round(time.perf_counter() - self._start, 1),
            lr=trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else math.nan,
            train_loss=train_loss,
            train_pixel_accuracy=train.pixel_accuracy,
            train_miou=train.mean_iou,
            val_loss=val_loss,
            val_pixel_accuracy=val.pixel_accuracy,
            val_miou=val.mean_iou,
            val_classes_present=val.classes_present,
        )
        self.epochs.append(epoch)
        self._save(epoch, module)
        self.tell(epoch)

    def result(self) -> Result:
        """Return the validation of the saved weights; training must have finished an epoch."""
        if self.best is None:
            raise RuntimeError("no epoch has finished")
        best = self.best
        return Result(
            step=best.step,
            val_loss=best.val_loss,
            val_pixel_accuracy=best.val_pixel_accuracy,
            val_miou=best.val_miou,
            classes_present=best.val_classes_present,
        )

    def _save(self, epoch: Epoch, module: SegmentationModule) -> None:
        atomic_write(self.folder / METRICS, _csv(self.epochs))
        if self.best is not None and not epoch.val_miou > self.best.val_miou:
            return
        self.best = epoch
        atomic_write(self.folder / WEIGHTS, weights_bytes(module.network.unet))


def weights_bytes(unet: torch.nn.Module) -> bytes:
    """Return the state dict as a safetensors file's bytes."""
    state = {name: tensor.cpu().contiguous() for name, tensor in unet.state_dict().items()}
    return save(state)


def _csv(epochs: list[Epoch]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(epoch).items()}
        for epoch in epochs
    )
    return buffer.getvalue().encode()
