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

from edgeseg.errors import InputError
from edgeseg.files import atomic_write
from edgeseg_train.module import SegmentationModule
from edgeseg_train.run_folder import CONFIG, WEIGHTS, Result, RunConfig

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
    """Collects epochs, and keeps a usable run folder: the best weights so far and what they are.

    Every device keeps the same history, because its numbers are summed over all; only the
    first one writes.
    """

    def __init__(
        self,
        folder: Path,
        describe: Callable[[Result], RunConfig],
        tell: Callable[[Epoch], None],
    ) -> None:
        """Write into ``folder``.

        Args:
            folder: an existing folder.
            describe: makes the run's configuration for a result.
            tell: called with each finished epoch.
        """
        self.folder, self.describe, self.tell = folder, describe, tell
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self._start = time.perf_counter()

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Close an epoch: Lightning validates at the end of each.

        Raises:
            InputError: no validation pixel is labelled, so nothing can be measured.
        """
        if not isinstance(module, SegmentationModule):
            return
        epoch = self._epoch(trainer, module)
        self.epochs.append(epoch)
        is_best = self.best is None or epoch.val_miou > self.best.val_miou
        if is_best:
            self.best = epoch
        if trainer.is_global_zero:
            atomic_write(self.folder / METRICS, _csv(self.epochs))
            if is_best:
                self._save(module)
            self.tell(epoch)

    def config(self) -> RunConfig:
        """Describe the saved weights; an epoch must have finished."""
        if self.best is None:
            raise RuntimeError("no epoch has finished")
        best = self.best
        return self.describe(
            Result(
                step=best.step,
                val_loss=best.val_loss,
                val_pixel_accuracy=best.val_pixel_accuracy,
                val_miou=best.val_miou,
                classes_present=best.val_classes_present,
            )
        )

    def _epoch(self, trainer: lightning.Trainer, module: SegmentationModule) -> Epoch:
        train_loss, train = module.train_accuracy.compute()
        val_loss, val = module.val_accuracy.compute()
        if not val.classes_present:
            raise InputError("the validation images have no labelled pixel")
        return Epoch(
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

    def _save(self, module: SegmentationModule) -> None:
        atomic_write(self.folder / WEIGHTS, weights_bytes(module.network.unet))
        text = self.config().model_dump_json(indent=2) + "\n"
        atomic_write(self.folder / CONFIG, text.encode())


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
