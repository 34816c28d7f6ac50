"""From a data split to batches: augmentation for training, the deployed resize for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg_train.data import Split

CACHE_BYTES = 2**30  # keep a split's resized samples in memory up to this size


class Batch(NamedTuple):
    """Images uint8 (N, H, W, 3), masks uint8 (N, H, W) at network size, originals' masks.

    ``truths`` are uint8 (h, w) at each picture's own size, what accuracy is measured on;
    empty in training.
    """

    images: Tensor
    masks: Tensor
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sample:
    """One pair at network size, and for evaluation the mask at its own size."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


class ResizedSplit(Dataset[Sample]):
    """A split through ``edgeseg.preprocess``, cached in memory when it is small enough."""

    def __init__(self, split: Split, size: tuple[int, int], *, keep_truth: bool) -> None:
        """Wrap ``split`` at the network's (height, width); reads the first sample."""
        self.split, self.size, self.keep_truth = split, size, keep_truth
        self._cache: dict[int, Sample] | None = None
        first = self[0]
        arrays = (first.image, first.mask, *([] if first.truth is None else [first.truth]))
        if len(self) * sum(array.nbytes for array in arrays) <= CACHE_BYTES:
            self._cache = {0: first}

    @property
    def cached(self) -> bool:
        """Whether samples stay in memory after their first use."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.split.names)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            InputError: unreadable, or image and mask differ in size.
        """
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image, truth = self.split.image(index), self.split.mask(index)
        if image.shape[:2] != truth.shape:
            raise InputError(
                f"sample {show(self.split.names[index])}: the image is {image.shape[:2]}, "
                f"its mask {truth.shape} (height, width)"
            )
        sample = Sample(resize_image(image, *self.size), resize_class_map(truth, *self.size), truth)
        if self._cache is not None:
            self._cache[index] = sample
        return sample


class AugmentedSplit(Dataset[tuple[Tensor, Tensor]]):
    """Random flips, crops and colours for training; masks always nearest."""

    def __init__(self, samples: ResizedSplit) -> None:
        """Augment ``samples`` at their own size."""
        self.samples = samples
        self._transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(samples.size, scale=(0.6, 1.0), antialias=True),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 (H, W, 3) and mask uint8 (H, W)."""
        sample = self.samples[index]
        image = tv_tensors.Image(torch.tensor(sample.image).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.tensor(sample.mask))
        image, mask = self._transform(image, mask)
        return image.as_subclass(Tensor).permute(1, 2, 0), mask.as_subclass(Tensor)


class Loaders(lightning.LightningDataModule):
    """The batches of a training, on any number of devices.

    Training images are shared out among the devices; every device validates on all images,
    because sharing them out evenly would count some twice.
    """

    def __init__(self, train: ResizedSplit, val: ResizedSplit, batch_size: int) -> None:
        """Batch two splits; ``batch_size`` is per device."""
        super().__init__()
        self.train, self.val, self.batch_size = train, val, batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return this device's share, shuffled and augmented, without the incomplete batch.

        Raises:
            InputError: fewer images than one batch.
        """
        devices, rank = 1, 0
        if self.trainer is not None:
            devices, rank = self.trainer.world_size, self.trainer.global_rank
        if len(self.train) < self.batch_size * devices:
            raise InputError(
                f"{len(self.train)} training images are fewer than one batch of "
                f"{self.batch_size} on {devices} device(s); use a smaller --batch-size"
            )
        augmented = AugmentedSplit(self.train)
        shares: DistributedSampler[Any] | None = None
        if devices > 1:
            shares = DistributedSampler(augmented, devices, rank, shuffle=True, drop_last=True)
        return DataLoader(
            augmented,
            batch_size=self.batch_size,
            shuffle=shares is None,
            sampler=shares,
            drop_last=True,
            collate_fn=_collate_training,
            **_workers(self.train),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return all validation images in order, as the runtime would see them."""
        return DataLoader(
            self.val,
            batch_size=self.batch_size,
            collate_fn=_collate_evaluation,
            **_workers(self.val),
        )


def _workers(samples: ResizedSplit) -> dict[str, Any]:
    # Workers have no share in a cache in memory: each would fill its own.
    workers = 0 if samples.cached else cpu_threads()
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _collate_training(samples: list[tuple[Tensor, Tensor]]) -> Batch:
    images, masks = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), ())


def _collate_evaluation(samples: list[Sample]) -> Batch:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))
    truths = (sample.truth for sample in samples)
    return Batch(images, masks, tuple(torch.tensor(t) for t in truths if t is not None))
