"""Batches: the deployed resize, masks nearest, truths at their own sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.errors import InputError
from edgeseg_train import dataset
from edgeseg_train.data import open_source
from edgeseg_train.dataset import Batch, Loaders, ResizedSplit

SIZE = (24, 40)


@pytest.fixture
def samples() -> ResizedSplit:
    return ResizedSplit(open_source("synthetic:6+3").split("val"), SIZE, keep_truth=True)


def training_samples(spec: str) -> ResizedSplit:
    return ResizedSplit(open_source(spec).split("train"), SIZE, keep_truth=False)


def validation_batches(samples: ResizedSplit) -> list[Batch]:
    return list(Loaders(samples, samples, 3).val_dataloader())


def test_evaluation_batches_are_pillows_bilinear_images_and_nearest_masks(
    samples: ResizedSplit,
) -> None:
    (batch,) = validation_batches(samples)
    assert batch.images.shape == (3, *SIZE, 3)
    assert batch.images.dtype == torch.uint8
    assert batch.masks.dtype == torch.uint8
    for i in range(3):
        image, mask = samples.split.image(i), samples.split.mask(i)
        resized = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(batch.images[i].numpy(), np.asarray(resized))
        nearest = Image.fromarray(mask).resize(SIZE[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(batch.masks[i].numpy(), np.asarray(nearest))
        np.testing.assert_array_equal(batch.truths[i].numpy(), mask)


def test_training_batches_have_one_size_and_only_ids_of_the_scenes() -> None:
    samples = training_samples("synthetic:6+3")
    batches = list(Loaders(samples, samples, 4).train_dataloader())
    assert len(batches) == 1  # the incomplete one is left out
    known = set(np.unique(np.concatenate([samples[i].mask.ravel() for i in range(6)])).tolist())
    assert batches[0].images.shape == (4, *SIZE, 3)
    assert batches[0].images.dtype == torch.uint8
    assert set(batches[0].masks.unique().tolist()) <= known


def test_augmentation_moves_picture_and_mask_together() -> None:
    torch.manual_seed(3)

    class Halves:
        names = ("halves",)

        def image(self, index: int) -> np.ndarray:
            return np.repeat(self.mask(index)[:, :, None] * 250, 3, axis=2)

        def mask(self, index: int) -> np.ndarray:
            mask = np.zeros(SIZE, dtype=np.uint8)
            mask[:, SIZE[1] // 2 :] = 1
            return mask

    augmented = dataset.AugmentedSplit(ResizedSplit(Halves(), SIZE, keep_truth=False))
    sides = set()
    for _ in range(20):
        image, mask = augmented[0]
        bright = image.float().mean(dim=2) > 100
        assert (bright == (mask == 1)).float().mean() > 0.9
        sides.add(int(mask[0, 0]))
    assert sides == {0, 1}  # flipped both ways


def test_fewer_images_than_a_batch_is_an_error() -> None:
    samples = training_samples("synthetic:3+1")
    with pytest.raises(InputError, match="fewer than one batch"):
        Loaders(samples, samples, 4).train_dataloader()


def test_a_mask_of_another_size_than_its_picture_is_an_error(samples: ResizedSplit) -> None:
    class Odd:
        names = ("odd",)

        def image(self, index: int) -> np.ndarray:
            return np.zeros((4, 6, 3), dtype=np.uint8)

        def mask(self, index: int) -> np.ndarray:
            return np.zeros((6, 4), dtype=np.uint8)

    with pytest.raises(InputError, match=r"'odd'.*\(4, 6\).*\(6, 4\)"):
        ResizedSplit(Odd(), SIZE, keep_truth=True)


def test_a_large_split_is_read_by_workers_and_gives_the_same_batches(
    monkeypatch: pytest.MonkeyPatch, samples: ResizedSplit
) -> None:
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    streamed = ResizedSplit(samples.split, SIZE, keep_truth=True)
    assert samples.cached
    assert not streamed.cached
    (expected,) = validation_batches(samples)
    (batch,) = validation_batches(streamed)
    torch.testing.assert_close(batch.images, expected.images)
    torch.testing.assert_close(batch.masks, expected.masks)
