"""Loss and epoch accuracy, against torch and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from edgeseg.metrics import ConfusionMatrix
from edgeseg_train.module import Accuracy, segmentation_loss


def test_the_loss_is_the_mean_cross_entropy_over_pixels_that_are_not_ignored() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7))
    masks[0, :3] = 255
    expected = F.cross_entropy(logits, masks, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, masks), expected)


def test_the_loss_of_a_batch_without_labels_is_zero_and_has_finite_gradients() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


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
