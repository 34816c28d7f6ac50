"""From a data split to batches: augmentation for training, the deployed resize for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg_train.data import Split

CACHE_BYTES = 2**30  # keep a split's resized samples in memory up to this size


class Batch(NamedTuple):
    """Images uint8 (N, H, W, 3), masks int64 (N, H, W) at network size, originals' masks.

    ``truths`` are uint8 (h, w) at each picture's own size, what accuracy is measured on;
    empty in training.
    """

    images: Tensor
    masks: Tensor
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sample:
    """One pair at network size, and the mask at its own size."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8]


class ResizedSplit(Dataset[Sample]):
    """A split through ``edgeseg.preprocess``, cached in memory when it is small enough."""

    def __init__(self, split: Split, size: tuple[int, int]) -> None:
        """Wrap ``split`` at the network's (height, width)."""
        self.split, self.size = split, size
        fits = len(split.names) * size[0] * size[1] * 8 <= CACHE_BYTES
        self._cache: dict[int, Sample] | None = {} if fits else None

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


def training_loader(samples: ResizedSplit, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return shuffled, augmented batches; the last, smaller batch of an epoch is left out.

    Raises:
        InputError: fewer samples than one batch.
    """
    if len(samples) < batch_size:
        raise InputError(
            f"{len(samples)} training images are fewer than one batch of {batch_size}; "
            "use a smaller --batch-size"
        )
    # Workers have no share in a cache in memory: each would fill its own.
    workers = 0 if samples.cached else cpu_threads()
    return DataLoader(
        AugmentedSplit(samples),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_collate_training,
    )


def evaluation_loader(samples: ResizedSplit, batch_size: int) -> DataLoader[Sample]:
    """Return batches in order, as the runtime would see them."""
    workers = 0 if samples.cached else cpu_threads()
    return DataLoader(
        samples, batch_size=batch_size, num_workers=workers, collate_fn=_collate_evaluation
    )


def _collate_training(samples: list[tuple[Tensor, Tensor]]) -> Batch:
    images, masks = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(masks).long(), ())


def _collate_evaluation(samples: list[Sample]) -> Batch:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples])).long()
    return Batch(images, masks, tuple(torch.from_numpy(s.truth.copy()) for s in samples))
