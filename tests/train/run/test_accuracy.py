"""Accuracy while training, against torchmetrics and the deployed path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing, resize_class_map
from edgeseg_train.run.accuracy import Accuracy, evaluate
from edgeseg_train.samples.batches import Batch
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig


def random_pair(classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, classes, (3, 20, 30)).astype(np.uint8)
    truth[0, :5] = 255
    noise = generator.integers(0, classes, truth.shape)
    guess = np.where(generator.random(truth.shape) < 0.6, np.minimum(truth, classes - 1), noise)
    return truth, guess.astype(np.uint8)


def test_our_metrics_equal_torchmetrics() -> None:
    classes = 6
    truth, guess = random_pair(classes)
    ours = ConfusionMatrix(classes)
    ours.update(truth, guess)
    target, found = torch.tensor(truth).long(), torch.tensor(guess).long()
    options = {"num_classes": classes, "ignore_index": 255}
    per_class = MulticlassJaccardIndex(average="none", **options)(found, target)
    np.testing.assert_allclose(ours.iou_per_class, per_class.numpy(), rtol=1e-6)
    mean = MulticlassJaccardIndex(average="macro", **options)(found, target)
    assert ours.mean_iou == pytest.approx(mean.item(), rel=1e-6)
    pixel = MulticlassAccuracy(average="micro", **options)(found, target)
    assert ours.pixel_accuracy == pytest.approx(pixel.item(), rel=1e-6)
    macro = MulticlassAccuracy(average="macro", **options)(found, target)
    assert ours.mean_class_accuracy == pytest.approx(macro.item(), rel=1e-6)


def test_an_epoch_of_batches_gives_the_matrix_of_all_pixels_and_then_starts_afresh() -> None:
    classes = 6
    truth, guess = random_pair(classes)
    accuracy, expected = Accuracy(classes), ConfusionMatrix(classes)
    for one_truth, one_guess in zip(truth, guess, strict=True):
        accuracy.loss.update(torch.tensor(2.0))
        accuracy.confusion.update(torch.tensor(one_guess), torch.tensor(one_truth).long())
        expected.update(one_truth, one_guess)
    loss, matrix = accuracy.compute()
    assert loss == 2.0
    np.testing.assert_array_equal(matrix.counts, expected.counts)
    accuracy.loss.update(torch.tensor(1.0))
    accuracy.confusion.update(torch.zeros(4), torch.zeros(4).long())
    _, second = accuracy.compute()
    assert second.counts.sum() == 4


def test_running_sums_go_on_where_they_were_saved() -> None:
    classes = 6
    truth, guess = (torch.tensor(array).long() for array in random_pair(classes))
    whole, first, second = Accuracy(classes), Accuracy(classes), Accuracy(classes)
    for accuracy, parts in ((whole, (0, 1, 2)), (first, (0, 1))):
        for i in parts:
            accuracy.update(torch.tensor(float(i)), torch.tensor(600.0), guess[i], truth[i])
    second.load_sums(first.sums())
    second.update(torch.tensor(2.0), torch.tensor(600.0), guess[2], truth[2])
    (loss, matrix), (expected_loss, expected) = second.compute(), whole.compute()
    assert loss == expected_loss
    np.testing.assert_array_equal(matrix.counts, expected.counts)


def test_evaluation_is_the_deployed_path_and_leaves_the_network_training() -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(
        UNet(UNetConfig(num_classes=4, features=(4,))), (0.5,) * 3, (1,) * 3
    )
    network.train()
    images = torch.randint(0, 256, (3, 8, 12, 3), dtype=torch.uint8)
    truths = tuple(
        torch.randint(0, 4, size, dtype=torch.uint8) for size in ((8, 12), (16, 20), (5, 7))
    )
    masks = torch.stack([torch.tensor(resize_class_map(t.numpy(), 8, 12)) for t in truths])
    before = [buffer.clone() for buffer in network.buffers()]
    accuracy, expected = Accuracy(4), ConfusionMatrix(4)
    evaluate(network, [Batch(images, masks, truths)], accuracy, Preprocessing(height=8, width=12))
    assert network.training
    for old, new in zip(before, network.buffers(), strict=True):
        torch.testing.assert_close(old, new)
    network.eval()
    with torch.inference_mode():
        class_maps = network(images).argmax(1).to(torch.uint8).numpy()
    for class_map, truth in zip(class_maps, truths, strict=True):
        expected.update(truth.numpy(), resize_class_map(class_map, *truth.shape))
    _, matrix = accuracy.compute()
    np.testing.assert_array_equal(matrix.counts, expected.counts)
