"""Batches: the deployed resize for evaluation, and training batches that depend on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.errors import InputError
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import Augmentation
from edgeseg_train.samples.batches import (
    Batch,
    EpochBatches,
    EvaluationSplit,
    evaluation_loader,
    training_loader,
)
from edgeseg_train.samples.prepare import PreparedSplit, prepare

SIZE = (24, 40)


def prepared(name: str, cache: Path | None = None) -> PreparedSplit:
    split = open_source("synthetic:6+3").split(name)  # type: ignore[arg-type]
    return prepare(
        split,
        Preprocessing(height=SIZE[0], width=SIZE[1]),
        150,
        keep_truth=name == "val",
        cache=cache,
    )


def evaluated(
    samples: PreparedSplit, *, devices: int = 1, rank: int = 0, size: int = 2
) -> list[Batch]:
    return list(evaluation_loader(EvaluationSplit(samples, devices=devices, rank=rank), size, 0))


def test_evaluation_batches_are_pillows_bilinear_images_and_nearest_masks() -> None:
    split = open_source("synthetic:6+3").split("val")
    (batch,) = evaluated(prepared("val"), size=3)
    assert batch.images.shape == (3, *SIZE, 3)
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    for i in range(3):
        image, mask = split.image(i), split.mask(i)
        resized = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(batch.images[i].numpy(), np.asarray(resized))
        nearest = Image.fromarray(mask).resize(SIZE[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(batch.masks[i].numpy(), np.asarray(nearest))
        np.testing.assert_array_equal(batch.truths[i].numpy(), mask)


def test_devices_evaluate_all_images_and_none_twice() -> None:
    samples = prepared("val")
    whole = torch.cat([batch.images for batch in evaluated(samples)])
    shares = [evaluated(samples, devices=2, rank=rank) for rank in (0, 1)]
    parts = [torch.cat([batch.images for batch in share]) for share in shares]
    torch.testing.assert_close(parts[0], whole[[0, 2]])
    torch.testing.assert_close(parts[1], whole[[1]])


def indices(batches: EpochBatches, epoch: int = 0, start: int = 0) -> list[list[int]]:
    batches.epoch, batches.start = epoch, start
    return [[index for index, _ in batch] for batch in batches]


def test_an_epoch_has_every_image_at_most_once_and_epochs_differ() -> None:
    batches = EpochBatches(10, 3, seed=0)
    first, second = indices(batches, 0), indices(batches, 1)
    assert [len(batch) for batch in first] == [3, 3, 3]  # the incomplete one is left out
    assert len({i for batch in first for i in batch}) == 9
    assert first != second
    assert first == indices(EpochBatches(10, 3, seed=0), 0)
    assert first != indices(EpochBatches(10, 3, seed=1), 0)


def test_an_epoch_goes_on_where_it_was_left() -> None:
    batches = EpochBatches(20, 3, seed=5)
    whole = indices(batches, epoch=2)
    assert indices(batches, epoch=2, start=4) == whole[4:]
    assert len(batches) == len(whole) - 4
    assert indices(batches, epoch=2, start=6) == []


def test_two_devices_together_see_the_batches_of_one() -> None:
    one = indices(EpochBatches(20, 4, seed=1))
    two = [indices(EpochBatches(20, 2, seed=1, devices=2, rank=rank)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


def test_an_incomplete_group_of_passes_is_left_out() -> None:
    assert EpochBatches(20, 2, seed=0, accumulate=4).batches == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "3 training images are fewer than one batch of 4; use a smaller --batch-size"),
        ({"devices": 2}, "one batch of 4 on 2 devices;"),
        ({"accumulate": 3}, "one batch of 4 in 3 passes;"),
    ],
)
def test_fewer_images_than_a_batch_is_an_error(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EpochBatches(3, 4, seed=0, **options)


def training_batches(samples: PreparedSplit, workers: int, start: int = 0) -> list[Batch]:
    batches = EpochBatches(len(samples), 2, seed=3)
    batches.epoch, batches.start = 1, start
    return list(training_loader(samples, batches, Augmentation(blur=0.5), workers))


def test_training_batches_are_the_same_for_any_workers_cache_and_restart(tmp_path: Path) -> None:
    whole = training_batches(prepared("train"), 0)
    assert len(whole) == 3
    assert whole[0].images.shape == (2, *SIZE, 3)
    others = (
        training_batches(prepared("train", tmp_path), 0),
        training_batches(prepared("train", tmp_path), 2),
    )
    torch.rand(100)  # the global random state has no say
    for other in (*others, [whole[0], *training_batches(prepared("train"), 0, start=1)]):
        for expected, batch in zip(whole, other, strict=True):
            torch.testing.assert_close(batch.images, expected.images)
            torch.testing.assert_close(batch.masks, expected.masks)
            assert batch.seconds > 0
