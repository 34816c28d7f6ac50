"""Losses and class weights, against torch, torchmetrics and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassF1Score

from edgeseg.metrics import ConfusionMatrix
from edgeseg_train.recipe.losses import (
    LossName,
    SegmentationLoss,
    distillation_loss,
    inverse_log_weights,
    median_frequency_weights,
)

TERMS: tuple[LossName, ...] = ("ce", "dice", "lovasz")
FEW_AND_MANY = pytest.mark.parametrize("classes", [5, 20])  # each has its own layout inside
EVERY_TERM = pytest.mark.parametrize("term", TERMS)


def batch(classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return logits and masks with ignored pixels, in which the last class never occurs."""
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=generator, dtype=dtype)
    masks = torch.randint(0, classes - 1, (2, 6, 7), generator=generator)
    masks[0, :3] = 255
    return logits, masks


def distil(student: Tensor, masks: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    teacher = torch.randint(-3, 4, student.shape, generator=generator)  # exact in any precision
    return distillation_loss(student, teacher.to(student.dtype), masks, 3.0)


ALL_LOSSES = {term: SegmentationLoss([term]) for term in TERMS} | {
    "weighted": SegmentationLoss(
        ["ce"], class_weights=torch.linspace(0.1, 2, 20), label_smoothing=0.1
    ),
    "hardest": SegmentationLoss(["ce"], hardest=0.3),
    "all terms": SegmentationLoss(TERMS),
    "distillation": distil,
}
EVERY_LOSS = pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)


@FEW_AND_MANY
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_ce_equals_torch(classes: int, smoothing: float, weighted: bool) -> None:
    logits, masks = batch(classes)
    weights = torch.linspace(0.1, 2, classes) if weighted else None
    loss = SegmentationLoss(["ce"], class_weights=weights, label_smoothing=smoothing)
    expected = F.cross_entropy(
        logits, masks, weight=weights, ignore_index=255, label_smoothing=smoothing
    )
    torch.testing.assert_close(loss(logits, masks), expected)


def one_hot(masks: Tensor, classes: int) -> Tensor:
    return F.one_hot(masks, classes).permute(0, 3, 1, 2).float()


def hard_predictions(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of certain predictions, the predictions, half of them wrong, and masks."""
    _, masks = batch(classes)
    predictions = torch.randint(0, classes, masks.shape, generator=torch.Generator().manual_seed(1))
    predictions[:, ::2] = masks[:, ::2].clamp(max=classes - 1)
    return 200 * one_hot(predictions, classes), predictions, masks


@FEW_AND_MANY
def test_dice_of_hard_predictions_is_one_minus_the_mean_f1_of_present_classes(classes: int) -> None:
    logits, predictions, masks = hard_predictions(classes)
    f1 = MulticlassF1Score(classes, average="none", ignore_index=255)(predictions, masks)
    present = masks[masks != 255].unique()
    expected = 1 - f1[present].mean()
    torch.testing.assert_close(SegmentationLoss(["dice"])(logits, masks), expected)


def test_dice_of_soft_predictions_follows_the_formula() -> None:
    logits, masks = batch(5)
    counted = masks != 255
    found = logits.softmax(1).permute(0, 2, 3, 1)[counted]
    truth = masks[counted]
    terms = []
    for c in truth.unique():
        true = (truth == c).float()
        terms.append(1 - 2 * (found[:, c] * true).sum() / (found[:, c].sum() + true.sum()))
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(SegmentationLoss(["dice"])(logits, masks), expected)


@FEW_AND_MANY
def test_lovasz_of_hard_predictions_is_one_minus_the_mean_iou_of_present_classes(
    classes: int,
) -> None:
    logits, predictions, masks = hard_predictions(classes)
    matrix = ConfusionMatrix(classes)
    matrix.update(masks.numpy().astype(np.uint8), predictions.numpy().astype(np.uint8))
    present = masks[masks != 255].unique().numpy()
    expected = 1 - matrix.iou_per_class[present].mean()
    assert SegmentationLoss(["lovasz"])(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """Return equation 6 of arXiv:1705.08790, the set function that is extended."""
    return len(wrong) / len(truth | wrong) if truth | wrong else 0.0


def lovasz_extension(errors: np.ndarray, truth: set[int]) -> float:
    """Return definition 1 of arXiv:1705.08790: the sum over pixels of falling error."""
    order = np.argsort(-errors).tolist()
    total = 0.0
    for i, pixel in enumerate(order):
        gain = jaccard_loss(set(order[: i + 1]), truth) - jaccard_loss(set(order[:i]), truth)
        total += float(errors[pixel]) * gain
    return total


@FEW_AND_MANY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lovasz_is_the_extension_of_the_jaccard_set_function(
    classes: int, dtype: torch.dtype
) -> None:
    logits, masks = batch(classes, dtype)
    counted = (masks != 255).numpy()
    found = logits.double().softmax(1).permute(0, 2, 3, 1).numpy()[counted]
    ids = masks.numpy()[counted]
    losses = []
    for c in np.unique(ids):
        errors = np.abs((ids == c) - found[:, c])
        losses.append(lovasz_extension(errors, set(np.flatnonzero(ids == c).tolist())))
    loss = SegmentationLoss(["lovasz"])(logits, masks)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert loss.item() == pytest.approx(np.mean(losses), rel=tolerance)


@FEW_AND_MANY
def test_a_confident_and_right_prediction_loses_nothing(classes: int) -> None:
    _, masks = batch(classes)
    logits = 200 * one_hot(masks.clamp(max=classes - 1), classes)
    assert SegmentationLoss(TERMS)(logits, masks).item() == pytest.approx(0, abs=1e-6)


def test_the_hardest_pixels_are_those_with_the_highest_loss() -> None:
    logits, masks = batch(5)
    losses = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")[masks != 255]
    expected = losses.sort(descending=True).values[: round(0.25 * len(losses))].mean()
    torch.testing.assert_close(SegmentationLoss(["ce"], hardest=0.25)(logits, masks), expected)


def test_the_hardest_pixels_are_averaged_with_their_weights() -> None:
    logits, masks = batch(5)
    weights = torch.linspace(0.1, 2, 5)
    counted = masks != 255
    losses = F.cross_entropy(logits, masks, weights, ignore_index=255, reduction="none")[counted]
    order = losses.argsort(descending=True)[: round(0.25 * len(losses))]
    expected = losses[order].sum() / weights[masks[counted]][order].sum()
    loss = SegmentationLoss(["ce"], class_weights=weights, hardest=0.25)
    torch.testing.assert_close(loss(logits, masks), expected)


def test_of_few_pixels_at_least_one_is_hardest() -> None:
    logits, masks = batch(5)
    masks.fill_(255)[0, 0, :2] = 1
    losses = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    loss = SegmentationLoss(["ce"], hardest=0.01)(logits, masks)
    torch.testing.assert_close(loss, losses.max())


def test_terms_add_up() -> None:
    logits, masks = batch(5)
    expected = sum(SegmentationLoss([term])(logits, masks) for term in TERMS)
    torch.testing.assert_close(SegmentationLoss(TERMS)(logits, masks), expected)


@FEW_AND_MANY
def test_distillation_equals_torchs_kl_div(classes: int) -> None:
    student, masks = batch(classes)
    teacher = torch.randn(student.shape, generator=torch.Generator().manual_seed(7))
    counted = masks != 255
    rows = [(x / 3).permute(0, 2, 3, 1)[counted] for x in (student, teacher)]
    divergence = F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="batchmean")
    loss = distillation_loss(student, teacher, masks, 3.0)
    torch.testing.assert_close(loss, 9 * divergence)


def test_distillation_gives_the_teacher_no_gradient_and_is_zero_for_its_equal() -> None:
    student, masks = batch(5)
    teacher = student.clone().requires_grad_()
    loss = distillation_loss(student.requires_grad_(), teacher, masks, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert teacher.grad is None


@EVERY_LOSS
def test_gradients_are_those_of_finite_differences(loss: SegmentationLoss) -> None:
    logits, masks = batch(20, torch.float64)
    logits, masks = logits[:, :, 2:4, :3], masks[:, 2:4, :3]
    assert torch.autograd.gradcheck(lambda x: loss(x, masks), logits.requires_grad_())


@EVERY_LOSS
def test_gradients_in_planes_are_those_of_finite_differences(loss: SegmentationLoss) -> None:
    if loss is ALL_LOSSES["weighted"]:
        loss = SegmentationLoss(["ce"], class_weights=torch.ones(5), label_smoothing=0.1)
    logits, masks = batch(5, torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, masks), logits.requires_grad_())


@EVERY_LOSS
@pytest.mark.parametrize("labelled", [False, True])
def test_ignored_pixels_get_no_gradient(loss: SegmentationLoss, labelled: bool) -> None:
    logits, masks = batch(20)
    if not labelled:
        masks.fill_(255)
    value = loss(logits.requires_grad_(), masks)
    value.backward()
    assert (value.item() == 0) is not labelled
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad.permute(0, 2, 3, 1)[masks == 255].any()
    assert logits.grad.any() == labelled


def test_labels_of_weight_zero_alone_give_zero() -> None:
    logits, masks = batch(5)
    masks.fill_(4)
    weights = torch.tensor([1.0, 1, 1, 1, 0])
    loss = SegmentationLoss(["ce"], class_weights=weights, label_smoothing=0.1)
    value = loss(logits.requires_grad_(), masks)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(
    loss: SegmentationLoss, dtype: torch.dtype
) -> None:
    logits, masks = batch(20)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half.requires_grad_(), masks)
    value.backward()
    torch.testing.assert_close(value, loss(half.detach().float(), masks))
    assert value.dtype == torch.float32
    assert half.grad is not None
    assert torch.isfinite(half.grad).all()


@EVERY_LOSS
def test_the_memory_format_changes_nothing(loss: SegmentationLoss) -> None:
    logits, masks = batch(20)
    channels_last = logits.to(memory_format=torch.channels_last)
    torch.testing.assert_close(loss(channels_last, masks), loss(logits, masks))


WEIGHTED = SegmentationLoss(["ce"], class_weights=torch.linspace(0.1, 2, 5), label_smoothing=0.1)


@pytest.mark.parametrize("name", ["ce", "weighted", "distillation"])
def test_the_mean_over_devices_is_the_loss_of_the_whole_batch(name: str) -> None:
    logits, masks = batch(5)  # the first image has half of its pixels ignored
    teacher = logits.flip(1)

    def loss(rows: slice, mean_over_devices=lambda value: value) -> Tensor:
        if name == "distillation":
            pair = (logits[rows], teacher[rows])
            return distillation_loss(*pair, masks[rows], 3.0, mean_over_devices)
        term = WEIGHTED if name == "weighted" else ALL_LOSSES["ce"]
        return term(logits[rows], masks[rows], mean_over_devices)

    halves, denominators = (slice(0, 1), slice(1, 2)), []

    def gather(value: Tensor) -> Tensor:
        assert not value.requires_grad
        denominators.append(value)
        return value

    for half in halves:
        loss(half, gather)
    mean = torch.stack(denominators).mean()
    assert len(denominators) == 2
    assert denominators[0] != denominators[1]
    split = torch.stack([loss(half, lambda _: mean) for half in halves]).mean()
    torch.testing.assert_close(split, loss(slice(0, 2)))


def test_a_device_without_labels_still_takes_part_in_the_mean() -> None:
    logits, masks = batch(5)
    masks[0] = 255
    loss, calls = SegmentationLoss(["ce"], hardest=0.5), []

    def mean_over_devices(value: Tensor) -> Tensor:
        calls.append(value.item())
        return torch.tensor(21.0)

    assert loss(logits[:1], masks[:1], mean_over_devices).item() == 0
    assert calls == [0]


def test_many_pixels_of_one_class_are_counted_exactly() -> None:
    """In float32, 2**24 + 1 is 2**24."""
    size = (1, 4097, 4097)
    logits = torch.zeros(1, 1, 1, 1).expand(1, 1, *size[1:])
    loss = SegmentationLoss(["dice"])(logits, torch.zeros(1, dtype=torch.int64).expand(size))
    assert loss.item() == pytest.approx(0, abs=1e-7)


def test_class_weights_move_with_the_module_but_stay_out_of_checkpoints() -> None:
    loss = SegmentationLoss(["ce"], class_weights=torch.ones(3))
    assert [name for name, _ in loss.named_buffers()] == ["class_weights"]
    assert not loss.state_dict()


@pytest.mark.parametrize(("terms", "hardest"), [([], 1.0), (["ce"], 0.0), (["ce"], 1.1)])
def test_senseless_settings_are_refused(terms: list[LossName], hardest: float) -> None:
    with pytest.raises(ValueError, match="needs a term"):
        SegmentationLoss(terms, hardest=hardest)


def test_median_frequency_weights_of_a_worked_example() -> None:
    # Images of 100 labelled pixels: class 0 in all three, class 1 in two, class 2 in one.
    pixels, images = np.array([200, 80, 20, 0]), np.array([300, 200, 100, 0])
    frequencies = [200 / 300, 0.4, 0.2]
    weights = median_frequency_weights(pixels, images)
    np.testing.assert_allclose(weights, [0.4 / f for f in frequencies] + [0], rtol=1e-6)
    assert weights.dtype == np.float32


def test_inverse_log_weights_of_a_worked_example() -> None:
    weights = inverse_log_weights(np.array([75, 25, 0]))
    np.testing.assert_allclose(weights, [1 / np.log(1.77), 1 / np.log(1.27), 0], rtol=1e-6)
    assert weights.dtype == np.float32


def test_weights_of_data_without_labels_are_zero() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    assert not median_frequency_weights(nothing, nothing).any()
    assert not inverse_log_weights(nothing).any()
