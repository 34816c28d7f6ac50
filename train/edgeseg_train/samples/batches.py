"""From prepared samples to batches, the same ones whatever the workers, devices and restarts.

Which images make a batch, and what augmentation does to each, follows from (seed, epoch,
image) alone. So a training that is resumed, or read by other workers, sees the same data.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError
from edgeseg_train.recipe.config import Augmentation
from edgeseg_train.samples.augment import Augment
from edgeseg_train.samples.prepare import PreparedSplit
from edgeseg_train.samples.reading import Sample

WORKER_SECONDS = 300  # that a batch may take
EVALUATION_WORKERS = 2  # nothing is augmented, so they keep up; training's own stay beside them

Draw = tuple[int, int]  # image index, seed of its augmentation


class Batch(NamedTuple):
    """Images uint8 (N, H, W, 3), masks uint8 (N, H, W) at network size, originals' masks.

    ``truths`` are uint8 (h, w) at each picture's own size, what accuracy is measured on;
    empty in training. ``seconds`` is the time that one worker took to make the batch.
    """

    images: Tensor
    masks: Tensor
    truths: tuple[Tensor, ...] = ()
    seconds: float = 0.0

    def to(self, device: torch.device) -> Batch:
        """Return the batch with images and masks on a device."""
        images = self.images.to(device, non_blocking=True)
        return self._replace(images=images, masks=self.masks.to(device, non_blocking=True))


class AugmentedSplit(Dataset[tuple[Tensor, Tensor, float]]):
    """Training samples, changed at random: image (H, W, 3), mask (H, W), seconds it took."""

    def __init__(self, samples: PreparedSplit, augmentation: Augmentation) -> None:
        self.samples, self._augment = samples, Augment(augmentation, samples.size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor, float]:
        """Return one sample as its seed says."""
        start = time.perf_counter()
        index, seed = draw
        sample = self.samples[index]
        image, mask = torch.tensor(sample.image), torch.tensor(sample.mask)
        return *self._augment(image, mask, seed), time.perf_counter() - start


class EpochBatches(Sampler[list[Draw]]):
    """This device's batches of an epoch, from ``start`` on; set ``epoch`` and ``start`` first.

    One global batch is ``devices * batch_size`` consecutive images of the epoch's order, and
    each device takes its part, so the devices' number does not change what a step learns
    from. The last, incomplete group of ``accumulate`` global batches is left out.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int,
        accumulate: int = 1,
        devices: int = 1,
        rank: int = 0,
    ) -> None:
        """Share out ``images`` images.

        Raises:
            InputError: fewer images than one optimiser step needs.
        """
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.devices, self.rank = devices, rank
        self.batches = images // (batch_size * devices * accumulate) * accumulate
        if not self.batches:
            parts = [f"{batch_size}"]
            parts += [f"on {devices} devices"] if devices > 1 else []
            parts += [f"in {accumulate} passes"] if accumulate > 1 else []
            raise InputError(
                f"{images} training images are fewer than one batch of {' '.join(parts)}; "
                "use a smaller --batch-size"
            )
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield lists of (image index, augmentation seed)."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        for batch in range(self.start, self.batches):
            first = (batch * self.devices + self.rank) * self.batch_size
            yield [self._draw(int(i)) for i in order[first : first + self.batch_size]]

    def _draw(self, index: int) -> Draw:
        seed = np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)[0]
        return index, int(seed)


class EvaluationSplit(Dataset[Sample]):
    """Every ``devices``-th sample as the runtime would see it; together all, none twice."""

    def __init__(self, samples: PreparedSplit, *, devices: int = 1, rank: int = 0) -> None:
        self.samples, self.indices = samples, range(rank, len(samples), devices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        return self.samples[self.indices[position]]


def training_loader(
    samples: PreparedSplit, batches: EpochBatches, augmentation: Augmentation, workers: int
) -> DataLoader[tuple[Tensor, Tensor, float]]:
    """Return augmented training batches."""
    return DataLoader(
        AugmentedSplit(samples, augmentation),
        batch_sampler=batches,
        collate_fn=_collate_training,
        persistent_workers=workers > 0,
        **_workers(workers),
    )


def evaluation_loader(split: EvaluationSplit, batch_size: int, workers: int) -> DataLoader[Sample]:
    """Return samples in order, in batches."""
    return DataLoader(
        split,
        batch_size=batch_size,
        collate_fn=_collate_evaluation,
        **_workers(min(workers, EVALUATION_WORKERS)),
    )


def default_workers(samples: PreparedSplit, devices: int) -> int:
    """Return how many processes should read: none where the CPU has the network to train."""
    if not torch.cuda.is_available() and samples.cache is not None:
        return 0
    return max(1, cpu_threads() // devices)


def _workers(workers: int) -> dict[str, Any]:
    if workers:
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)  # runs before multiprocessing asks them, and waits
    return {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _leave_signals_to_the_training,
        # A worker that loses a batch (no room in /dev/shm) is not noticed otherwise.
        "timeout": WORKER_SECONDS if workers else 0,
    }


def _leave_signals_to_the_training(worker: int) -> None:
    """Ignore what Ctrl-C and ``timeout`` send to all processes: the training ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """End what an error left running: workers ignore the signal by which they would be asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call their end a failure
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _collate_training(samples: list[tuple[Tensor, Tensor, float]]) -> Batch:
    images, masks, seconds = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), seconds=sum(seconds))


def _collate_evaluation(samples: list[Sample]) -> Batch:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))
    truths = (sample.truth for sample in samples)
    return Batch(images, masks, tuple(torch.tensor(t) for t in truths if t is not None))
