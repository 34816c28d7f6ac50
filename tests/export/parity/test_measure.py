"""Parity: counted by hand on small class maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.bundle import Reference
from edgeseg.errors import InputError
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing
from edgeseg_export.parity.evaluation import (
    Evaluation,
    evaluate_torch,
    image_counts,
    iou_per_class,
    mean_iou,
)
from edgeseg_export.parity.gates import DEFAULT_GATES, Gates, gates_for
from edgeseg_export.parity.measure import compare_with_torch, measure

FIT = Preprocessing(height=8, width=8)


class Fixed:
    """A variant that answers with given class maps, in order, and with given logits."""

    name = "fake"

    def __init__(self, answers: np.ndarray, logits: float = 0) -> None:
        self.answers = iter(answers)
        self.level = logits

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        return next(self.answers)[None]

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.full((1, 2, 2, 2), self.level, dtype=np.float32)


@pytest.fixture
def evaluation() -> Evaluation:
    """Two images of 2x2 pixels and two classes; the truth is class 0, and so is PyTorch's map."""
    truth = np.zeros((2, 2, 2), dtype=np.uint8)
    margins = np.array([[[3, 1], [1, 1]], [[2, 0.5], [1, 1]]], dtype=np.float16)
    return Evaluation(
        Reference(np.zeros((2, 2, 2, 3), dtype=np.uint8), truth, margins),
        np.zeros((2, 2, 2, 2), dtype=np.float32),
        tuple(truth),
        image_counts(truth, truth, 2, FIT.at((2, 2))),
        FIT.at((2, 2)),
    )


def test_agreement_margin_and_miou_are_counted_over_all_images(evaluation: Evaluation) -> None:
    found = np.zeros((2, 2, 2), dtype=np.uint8)
    found[0, 0, 1] = found[1, 0, 0] = 1
    parity = measure(evaluation, Fixed(found), Gates(0.7, 0.1, 0.5))
    assert parity.images == 2
    assert parity.measured_with == "fake"
    assert parity.agreement == parity.reference_agreement == pytest.approx(6 / 8)
    assert parity.max_flip_margin == 2
    assert (parity.flips.pixels, parity.flips.wide) == (8, 2)
    assert parity.miou == pytest.approx((6 / 8 + 0) / 2)
    assert parity.torch_miou == 1
    assert parity.class_iou_delta == (pytest.approx(-0.25), None)
    assert len(parity.failures) == 1
    assert "mIoU fell by 0.6250" in parity.failures[0]


@pytest.mark.parametrize(("logits", "largest"), [(0.25, 0.25), (float("inf"), 1e30)])
def test_logits_are_compared_and_an_overflow_stays_a_number(
    evaluation: Evaluation, logits: float, largest: float
) -> None:
    maps = evaluation.reference.class_maps
    parity = measure(evaluation, Fixed(maps, logits), Gates(0, 1, 1))
    assert parity.logits.images == 2
    assert parity.logits.max == parity.logits.mean == pytest.approx(largest)


def test_the_interval_is_zero_without_a_difference_and_holds_the_measured_one(
    evaluation: Evaluation,
) -> None:
    same = measure(evaluation, Fixed(evaluation.reference.class_maps), Gates(0, 1, 1))
    assert same.miou_interval is not None
    assert same.miou_interval.low == same.miou_interval.high == 0
    found = np.zeros((2, 2, 2), dtype=np.uint8)
    found[0] = 1
    other = measure(evaluation, Fixed(found), Gates(0, 1, 1))
    assert other.miou_interval is not None
    # Drawing the good image twice, both or the bad one twice gives 1, 0.25 and 0.
    assert other.miou_interval.low == -1
    assert other.miou_interval.high == 0
    single = measure(evaluation.first(1), Fixed(found), Gates(0, 1, 1))
    assert single.miou_interval is None


def test_the_quick_comparison_is_the_measured_one(evaluation: Evaluation) -> None:
    found = np.zeros((2, 2, 2), dtype=np.uint8)
    found[0, 0, 1] = 1
    parity = measure(evaluation, Fixed(found), Gates(0, 1, 1))
    changed, miou = compare_with_torch(evaluation, Fixed(found))
    assert changed == pytest.approx(1 - parity.agreement)
    assert miou == parity.miou


def test_the_reference_holds_pytorchs_class_and_its_lead_over_the_second(make_network) -> None:
    network = make_network()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    evaluation = evaluate_torch(network, images, [np.zeros((8, 8), dtype=np.uint8)] * 2, FIT)
    with torch.inference_mode():
        logits = network(torch.tensor(images)).numpy()
    ordered = np.sort(logits, axis=1)
    np.testing.assert_array_equal(evaluation.reference.class_maps, logits.argmax(1))
    lead = ordered[:, -1] - ordered[:, -2]
    np.testing.assert_allclose(evaluation.reference.margins, lead, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(evaluation.logits, logits, rtol=1e-4, atol=1e-5)


def test_counts_give_the_iou_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 5, (3, 6, 7), dtype=np.uint8)
    found = rng.integers(0, 4, (3, 6, 7), dtype=np.uint8)
    truths[0, 0] = 255
    matrix = ConfusionMatrix(6)
    matrix.update(truths, found)
    counts = image_counts(found, list(truths), 6, FIT.at((6, 7))).sum(0)
    np.testing.assert_allclose(iou_per_class(counts), matrix.iou_per_class)
    assert mean_iou(counts) == pytest.approx(matrix.mean_iou)


def test_accuracy_is_measured_at_the_truths_own_size() -> None:
    class_map = np.array([[0, 1]], dtype=np.uint8)
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 0]], dtype=np.uint8)
    counts = image_counts(class_map[None], [truth], 2, FIT.at((1, 2))).sum(0)
    assert mean_iou(counts) == pytest.approx((4 / 5 + 3 / 4) / 2)


def test_images_without_labels_cannot_be_evaluated(make_network) -> None:
    ignored = np.full((8, 8), 255, dtype=np.uint8)
    with pytest.raises(InputError, match="no labelled pixel"):
        evaluate_torch(make_network(), np.zeros((1, 8, 8, 3), dtype=np.uint8), [ignored], FIT)


def test_gates_of_fp32_can_only_be_tightened() -> None:
    assert gates_for("fp32", 0.5, 0.5, 0.5) == DEFAULT_GATES["fp32"]
    assert gates_for("fp32", 1, 0, 0) == Gates(1, 0, 0)
    assert gates_for("int8", 0.5, 0.5, 0.25) == Gates(0.5, 0.5, 0.25)
    assert gates_for("fp16") == DEFAULT_GATES["fp16"]
