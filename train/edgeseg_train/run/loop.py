"""The training loop, top to bottom: steps, epochs, checkpoints, on one device or many.

Lightning Fabric gives devices, processes and precision; what happens in which order is here.
All state that the next step depends on is in ``state()``, so a training that goes on from a
checkpoint does exactly what it would have done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgeseg.errors import GateFailed
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.recipe.losses import SegmentationLoss, distillation_loss
from edgeseg_train.recipe.optimisation import make_optimizer, make_schedule, moving_average
from edgeseg_train.run.accuracy import Accuracy, evaluate, labelled_pixels
from edgeseg_train.run.history import Epoch
from edgeseg_train.samples.batches import Batch, EpochBatches
from edgeseg_train.unet import SegmentationNetwork

BAD_STEPS = 3  # non-finite losses in a row that end a training
CHECKPOINT_SECONDS = 600.0  # at most, within an epoch
EPOCH_CHECKPOINT_SECONDS = 30.0  # at least, between the ends of short epochs


class Interrupted(Exception):
    """A signal asked to stop; the state is saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class Flags(NamedTuple):
    """What the devices agreed on in a step; ``signal`` is a signal's number or 0."""

    overflow: bool
    bad_loss: bool
    signal: int
    due: bool


@dataclass(frozen=True)
class Data:
    """Batches of both splits; ``batches`` says which ones the training loader gives.

    ``preprocessing`` made the inputs and brings class maps back to the truths' sizes.
    """

    batches: EpochBatches
    train: DataLoader[Any]
    val: DataLoader[Any]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Step:
    """What a progress bar shows after an optimiser step."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class Hooks:
    """What happens around the loop.

    ``stopped`` gives the number of the signal that has come, or 0; ``save`` writes a checkpoint;
    ``step`` and ``epoch`` hear of progress, ``epoch`` also gets the validation's confusion
    matrix and the network that was validated.
    """

    stopped: Callable[[], int]
    save: Callable[[dict[str, Any]], None]
    step: Callable[[Step], None]
    epoch: Callable[[Epoch, ConfusionMatrix, nn.Module], None]


class TrainingLoop:
    """Trains ``network`` in place; see ``run``."""

    def __init__(
        self,
        fabric: Fabric,
        network: SegmentationNetwork,
        criterion: SegmentationLoss,
        config: TrainingConfig,
        data: Data,
        hooks: Hooks,
        teacher: SegmentationNetwork | None = None,
    ) -> None:
        """Put everything on the device; ``fabric`` must be launched."""
        self.fabric, self.config, self.data, self.hooks = fabric, config, data, hooks
        if fabric.device.type == "cuda" and fabric.world_size > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch's
        self.network = network.to(fabric.device)
        self.network.to(memory_format=torch.channels_last)
        self.average = moving_average(self.network, config.ema) if config.ema else None
        self.total_steps = _total_steps(config, data.batches.batches // config.accumulate)
        optimizer = make_optimizer(self.network.parameters(), config)
        self.schedule = make_schedule(optimizer, config, self.total_steps)
        trained: nn.Module = self.network
        if config.compiled:
            trained = cast(nn.Module, torch.compile(self.network))
        self.model, self.optimizer = fabric.setup(trained, optimizer)
        self.criterion = criterion.to(fabric.device)
        self.precision = str(fabric.strategy.precision.precision)
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)  # of fp16 only
        self.teacher = teacher.to(fabric.device).requires_grad_(False) if teacher else None
        if self.teacher is not None:
            self.teacher.to(memory_format=torch.channels_last)
        classes = network.unet.config.num_classes
        self.train_accuracy = Accuracy(classes).to(fabric.device)
        self.val_accuracy = Accuracy(classes).to(fabric.device)
        self.step = self.epoch = self.batch = self.bad_steps = 0
        self.lr = config.lr
        self.elapsed = 0.0  # seconds, of all runs of this training together
        self.clock = EpochClock()
        self._statistics: list[Tensor] = []
        self._saved_at, self._saved = 0.0, False

    def run(self) -> None:
        """Train until the last step, validating after each epoch.

        Raises:
            GateFailed: the loss was not finite three times in a row.
            Interrupted: ``hooks.stopped`` said so; a checkpoint was written.
        """
        self._saved_at = time.monotonic()
        while self.step < self.total_steps or self.batch:  # the last epoch may lack its validation
            self._train_epoch()
            self._finish_epoch()

    def _train_epoch(self) -> None:
        """Train from batch ``self.batch`` to the epoch's or the training's last step."""
        self.data.batches.epoch, self.data.batches.start = self.epoch, self.batch
        self.clock = EpochClock()
        start = time.perf_counter()
        losses: list[Tensor] = []
        batches = iter(self.data.train) if self.step < self.total_steps else iter(())
        for batch in self.clock.timed(batches):
            if not losses:
                self._remember_statistics()
            last_pass = len(losses) == self.config.accumulate - 1
            losses.append(self._backward(batch.to(self.fabric.device), last_pass=last_pass))
            self.batch += 1
            if last_pass:
                loss, losses = torch.stack(losses).mean(), []
                flags = self._update(loss)
                now = time.perf_counter()
                self.elapsed, start = self.elapsed + now - start, now
                self._after_step(loss, flags)
                if self.step == self.total_steps:
                    break
        self.clock.stop()

    def _backward(self, batch: Batch, *, last_pass: bool) -> Tensor:
        """Add this batch's gradients; they are exchanged between devices in the last pass only."""
        self.network.train()
        masks = batch.masks.long()
        with self.fabric.no_backward_sync(self.model, enabled=not last_pass):
            logits = self.model(batch.images)
            loss = self._loss(logits, batch.images, masks)
            self.fabric.backward(loss / self.config.accumulate)
        classes = logits.detach().max(dim=1).indices  # twice as fast as argmax on a CPU
        weight = self._mean_over_devices(labelled_pixels(masks).float())
        self.train_accuracy.update(loss, weight, classes, masks)
        self.clock.images += len(masks)
        self.clock.loading += batch.seconds
        return loss.detach()

    def _loss(self, logits: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits, masks, self._mean_over_devices)
        settings = self.config.teacher
        if self.teacher is None or settings is None:
            return loss
        with torch.no_grad(), self.fabric.autocast():
            taught = self.teacher(images)
        distilled = distillation_loss(
            logits, taught, masks, settings.temperature, self._mean_over_devices
        )
        return (1 - settings.weight) * loss + settings.weight * distilled

    def _mean_over_devices(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        return self._reduced(value, "mean")

    def _reduced(self, value: Tensor, operation: str) -> Tensor:
        """Return a tensor combined over all devices."""
        return cast(Tensor, self.fabric.all_reduce(value.detach().clone(), reduce_op=operation))

    def _remember_statistics(self) -> None:
        """Keep batch norm's statistics: a forward pass that overflows would spoil them for good."""
        self._statistics = [buffer.clone() for buffer in self.network.buffers()]

    def _update(self, loss: Tensor) -> Flags:
        """Make an optimiser step; one whose loss or gradients are not finite changes nothing."""
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        assert norm is not None  # it is None only for other ways of clipping
        flags = self._agreed(
            overflow=not bool(torch.isfinite(norm)), bad_loss=not bool(torch.isfinite(loss))
        )
        if flags.overflow or flags.bad_loss:
            for buffer, before in zip(self.network.buffers(), self._statistics, strict=True):
                buffer.copy_(before)
            if self.scaler is not None:
                self.optimizer.step()  # skips by itself, and then tries a smaller scale
        else:
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
        self.optimizer.zero_grad()
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        self.step += 1
        self._count_bad(flags)
        return flags

    def _count_bad(self, flags: Flags) -> None:
        """Count steps that learnt nothing; overflows are fp16's search for a scale, down to 1."""
        searching = self.scaler is not None and self.scaler.get_scale() > 1
        bad = flags.bad_loss or (flags.overflow and not searching)
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps == BAD_STEPS:
            raise GateFailed(
                f"training diverged: the loss was not finite {BAD_STEPS} times in a row, at step "
                f"{self.step}; use a lower --lr"
                + ("" if self.precision == "32-true" else ", or --precision fp32")
            )

    def _agreed(self, *, overflow: bool, bad_loss: bool) -> Flags:
        """Return what any device says: all must do the same. One exchange for all flags."""
        due = time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        own = (float(overflow), float(bad_loss), float(self.hooks.stopped()), float(due))
        if self.fabric.world_size > 1:
            told = self._reduced(torch.tensor(own, device=self.fabric.device), "max").tolist()
            own = (told[0], told[1], told[2], told[3])
        return Flags(bool(own[0]), bool(own[1]), int(own[2]), bool(own[3]))

    def _after_step(self, loss: Tensor, flags: Flags) -> None:
        rate = self.clock.images_per_second * self.fabric.world_size
        if self.fabric.is_global_zero:
            value = float(loss)
            self.hooks.step(Step(self.step, self.total_steps, self.epoch + 1, value, rate))
        signal = flags.signal
        if self.fabric.world_size == 1:
            signal = self.hooks.stopped()  # it may have come since
        if signal or flags.due:
            self._save()
        if signal:
            raise Interrupted(signal)

    def _save(self) -> None:
        state = self.state()  # on every device: it adds up what they counted
        self.hooks.save(state)
        self._saved_at, self._saved = time.monotonic(), True

    def _finish_epoch(self) -> None:
        """Validate, tell, and go to the next epoch."""
        start = time.perf_counter()
        network = self._validated_network()
        evaluate(network, self._watched(self.data.val), self.val_accuracy, self.data.preprocessing)
        self.elapsed += time.perf_counter() - start
        val_loss, val = self.val_accuracy.compute()
        if not math.isfinite(val_loss):
            raise GateFailed("training diverged: the val loss is not finite; use a lower --lr")
        epoch = self._epoch(val_loss, val)
        self.hooks.epoch(epoch, val, network.unet)
        self.epoch, self.batch = self.epoch + 1, 0
        if not self._saved or time.monotonic() - self._saved_at > EPOCH_CHECKPOINT_SECONDS:
            self._save()

    def _watched(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        """Yield validation batches; a signal ends the training where the epoch's last step left it.

        Only without other processes: with them, not all have as many batches to look up from.
        """
        for batch in loader:
            if self.fabric.world_size == 1 and (signal := self.hooks.stopped()):
                self._save()
                raise Interrupted(signal)
            yield batch

    def _validated_network(self) -> SegmentationNetwork:
        """Return what is validated and saved: the average if there is one, alike everywhere."""
        network = self.network if self.average is None else self.average.module
        if self.fabric.world_size > 1:  # without synchronised batch norm, each has its own
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        assert isinstance(network, SegmentationNetwork)
        return network

    def _epoch(self, val_loss: float, val: ConfusionMatrix) -> Epoch:
        train_loss, train = self.train_accuracy.compute()
        devices, workers = self.fabric.world_size, max(1, self.data.train.num_workers)
        return Epoch(
            epoch=self.epoch + 1,
            step=self.step,
            seconds=round(self.elapsed, 1),
            lr=self.lr,
            train_loss=train_loss,
            train_pixel_accuracy=train.pixel_accuracy,
            train_miou=train.mean_iou,
            val_loss=val_loss,
            val_pixel_accuracy=val.pixel_accuracy,
            val_mean_class_accuracy=val.mean_class_accuracy,
            val_miou=val.mean_iou,
            val_classes_present=val.classes_present,
            images_per_second=self.clock.images_per_second * devices,
            loader_images_per_second=self.clock.loader_rate(workers) * devices,
            waiting=self.clock.waiting_share,
        )

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on; every device must call it."""
        sums = self.train_accuracy.sums()
        if self.fabric.world_size > 1:
            sums = {name: self._reduced(value, "sum") for name, value in sums.items()}
        return {
            "step": self.step,
            "bad_steps": self.bad_steps,
            "lr": self.lr,
            "epoch": self.epoch,
            "batch": self.batch,
            "elapsed": self.elapsed,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "train_sums": sums,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.bad_steps, self.lr, self.elapsed = state["bad_steps"], state["lr"], state["elapsed"]
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.fabric.is_global_zero:  # they are the sums over all devices
            self.train_accuracy.load_sums(state["train_sums"])


def _total_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    limits = [config.max_steps] if config.max_steps else []
    limits += [config.epochs * steps_per_epoch] if config.epochs else []
    return min(limits)


class EpochClock:
    """Where this process's training time went since the epoch began, or was resumed."""

    def __init__(self) -> None:
        self.images = 0
        self.loading = 0.0  # seconds of all workers
        self._start, self._end = time.perf_counter(), 0.0
        self._waiting = 0.0

    def stop(self) -> None:
        """Keep what follows, the validation, out of the account."""
        self._end = time.perf_counter()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, counting the time until each is there."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waiting += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    @property
    def seconds(self) -> float:
        """Time since the start, until the end if it has come."""
        return max((self._end or time.perf_counter()) - self._start, 1e-9)

    @property
    def images_per_second(self) -> float:
        """Images trained on per second."""
        return self.images / self.seconds

    @property
    def waiting_share(self) -> float:
        """Share of the time that was spent waiting for data, 0..1."""
        return self._waiting / self.seconds

    def loader_rate(self, workers: int) -> float:
        """Images per second that so many workers could give; NaN when nothing was loaded."""
        return self.images * workers / self.loading if self.loading else math.nan
