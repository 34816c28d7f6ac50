"""What a training leaves behind as it goes: one CSV row per epoch, and the best weights."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from edgeseg.errors import ArtifactError
from edgeseg.files import atomic_write, sha256_bytes
from edgeseg.labels import Labels
from edgeseg.metrics import ConfusionMatrix
from edgeseg_train.run_folder import (
    CONFIG,
    WEIGHTS,
    Result,
    RunConfig,
    read_config,
    weights_sha256,
)

METRICS = "metrics.csv"
PER_CLASS = "per_class.csv"


@dataclass(frozen=True)
class Epoch:
    """One row of ``metrics.csv``; accuracies are shares 0..1, NaN where nothing was counted.

    ``train_loss`` is what is trained on, ``val_loss`` the plain cross-entropy. ``lr`` is that of
    the epoch's last step. ``images_per_second`` is what training reached over all devices,
    ``loader_images_per_second`` what reading and augmenting alone would reach, ``waiting`` the
    share of the first device's time that was spent waiting for data.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    train_pixel_accuracy: float
    train_miou: float
    val_loss: float
    val_pixel_accuracy: float
    val_mean_class_accuracy: float
    val_miou: float
    val_classes_present: int
    images_per_second: float
    loader_images_per_second: float
    waiting: float


class History:
    """Collects epochs, and keeps a usable run folder: the best weights so far and what they are.

    Every device keeps the same history, because its numbers are summed over all; only the
    first one writes.
    """

    def __init__(
        self, folder: Path, labels: Labels, describe: Callable[[Result], RunConfig], *, write: bool
    ) -> None:
        """Write into ``folder``, where ``write``.

        Args:
            folder: an existing folder.
            labels: names of the classes.
            describe: makes the run's configuration for a result.
            write: whether this process writes files.
        """
        self.folder, self.labels, self.describe, self.write = folder, labels, describe, write
        self.epochs: list[Epoch] = []
        self.best: Result | None = None

    def record(self, epoch: Epoch, val: ConfusionMatrix, unet: torch.nn.Module) -> None:
        """Add a finished epoch; write the metrics and, when they are the best, the weights."""
        self.epochs.append(epoch)
        better = self.best is None or epoch.val_miou > self.best.val_miou
        weights = weights_bytes(unet) if better else b""
        if better:
            self.best = _result(epoch, val, weights)
        if self.write:
            atomic_write(self.folder / METRICS, _csv([asdict(epoch) for epoch in self.epochs]))
            if better:
                self._save(weights, val)

    def config(self) -> RunConfig:
        """Describe the saved weights; an epoch must have finished."""
        if self.best is None:
            raise RuntimeError("no epoch has finished")
        return self.describe(self.best)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        best = self.best.model_dump_json() if self.best else None
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "best": best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epochs = [Epoch(**values) for values in state["epochs"]]
        self.best = Result.model_validate_json(state["best"]) if state["best"] else None
        if self.write:
            self._trust_the_folder()

    def _trust_the_folder(self) -> None:
        """Take the best weights for what is there: they may be newer than the checkpoint.

        A training that was killed after it wrote them repeats that epoch, and where that does
        not give the same bits, only what is on disk can be published.
        """
        try:
            found = read_config(self.folder).result
            whole = found.weights_sha256 == weights_sha256(self.folder)
        except ArtifactError:
            whole = False
        self.best = found if whole else None

    def _save(self, weights: bytes, val: ConfusionMatrix) -> None:
        atomic_write(self.folder / PER_CLASS, _csv(_per_class(val, self.labels)))
        atomic_write(self.folder / WEIGHTS, weights)
        text = self.config().model_dump_json(indent=2) + "\n"
        atomic_write(self.folder / CONFIG, text.encode())


def _result(epoch: Epoch, val: ConfusionMatrix, weights: bytes) -> Result:
    return Result(
        epoch=epoch.epoch,
        step=epoch.step,
        val_loss=epoch.val_loss,
        val_pixel_accuracy=epoch.val_pixel_accuracy,
        val_mean_class_accuracy=epoch.val_mean_class_accuracy,
        val_miou=epoch.val_miou,
        classes_present=epoch.val_classes_present,
        weights_sha256=sha256_bytes(weights),
    )


def _per_class(matrix: ConfusionMatrix, labels: Labels) -> list[dict[str, Any]]:
    """Return one row per class; empty cells where a class does not occur."""
    truth, iou = matrix.counts.sum(1), matrix.iou_per_class
    return [
        {
            "id": i,
            "name": name,
            "iou": float(iou[i]),
            "accuracy": matrix.counts[i, i] / truth[i] if truth[i] else math.nan,
            "pixels": int(truth[i]),
        }
        for i, name in enumerate(labels.names)
    ]


def weights_bytes(unet: torch.nn.Module) -> bytes:
    """Return the state dict as a safetensors file's bytes."""
    state = {name: tensor.cpu().contiguous() for name, tensor in unet.state_dict().items()}
    return save(state)


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
