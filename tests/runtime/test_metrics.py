"""Metrics against loops over pixels and numbers worked out by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import InputError
from edgeseg.metrics import ConfusionMatrix, agreement

Ids = NDArray[np.uint8]


def brute_force(truth: Ids, prediction: Ids, classes: int) -> dict[str, float]:
    """Count pixel by pixel with sets of coordinates, in the words of the benchmark."""
    counted = [at for at in np.ndindex(*truth.shape) if truth[at] != 255]
    ious, recalls = [], []
    for c in range(classes):
        true = {at for at in counted if truth[at] == c}
        found = {at for at in counted if prediction[at] == c}
        if true | found:
            ious.append(len(true & found) / len(true | found))
        if true:
            recalls.append(len(true & found) / len(true))
    return {
        "pixel_accuracy": sum(truth[at] == prediction[at] for at in counted) / len(counted),
        "mean_iou": sum(ious) / len(ious),
        "mean_class_accuracy": sum(recalls) / len(recalls),
        "classes_present": len(recalls),
    }


@pytest.mark.parametrize("seed", range(8))
def test_all_metrics_equal_a_loop_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 12))
    truth = rng.integers(0, classes, (2, 9, 11), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    truth[truth == 1] = 0  # class 1 is absent from the truth
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes))
    prediction = np.where(prediction == 255, 0, prediction).astype(np.uint8)
    matrix = ConfusionMatrix(classes)
    matrix.update(truth, prediction)
    expected = brute_force(truth, prediction, classes)
    found = {name: getattr(matrix, name) for name in expected}
    assert found == pytest.approx(expected, rel=1e-12)


def test_rows_are_truth_and_columns_prediction() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 0, 2]], np.uint8), np.array([[0, 1, 1]], np.uint8))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert matrix.counts.dtype == np.int64


def test_numbers_worked_out_by_hand() -> None:
    matrix = ConfusionMatrix(4)
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
    matrix.update(truth, np.array([[0, 1, 1, 1], [2, 0, 3, 0]], np.uint8))
    assert matrix.pixel_accuracy == pytest.approx(4 / 6)
    assert matrix.iou_per_class[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert math.isnan(matrix.iou_per_class[3])  # predicted only where the truth is ignored
    assert matrix.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert matrix.mean_class_accuracy == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert matrix.classes_present == 3


def test_updates_add_up_and_keep_the_memory() -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 5, (4, 2, 6, 7), dtype=np.uint8)
    one_by_one, at_once = ConfusionMatrix(5), ConfusionMatrix(5)
    for truth, prediction in images:
        one_by_one.update(truth, prediction)
    at_once.update(images[:, 0], images[:, 1])
    assert np.array_equal(one_by_one.counts, at_once.counts)
    assert at_once.counts.sum() == 4 * 6 * 7


def test_a_class_predicted_but_not_true_has_iou_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    assert matrix.iou_per_class.tolist() == [0, 0]
    assert matrix.mean_class_accuracy == 0
    assert matrix.classes_present == 1


def test_nothing_counted_is_nan_and_not_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    values = (matrix.mean_iou, matrix.pixel_accuracy, matrix.mean_class_accuracy)
    assert all(math.isnan(value) for value in values)
    assert matrix.classes_present == 0


@pytest.mark.parametrize(("true", "found"), [(3, 0), (0, 3), (254, 0), (0, 255)])
def test_an_id_out_of_range_is_refused_and_nothing_is_counted(true: int, found: int) -> None:
    matrix = ConfusionMatrix(3)
    truth = np.array([[0, true]], np.uint8)
    with pytest.raises(InputError, match=f"class id {max(true, found)} found, but .* only 3"):
        matrix.update(truth, np.array([[0, found]], np.uint8))
    assert matrix.counts.sum() == 0


def test_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        ConfusionMatrix(2).update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="differ in shape"):
        agreement(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_all_255_classes_fit() -> None:
    ids = np.array(list(product(range(255), range(2)))).astype(np.uint8)
    matrix = ConfusionMatrix(255)
    matrix.update(ids[:, 0], ids[:, 0])
    assert matrix.mean_iou == 1
    assert matrix.counts.sum() == 510


def test_agreement_is_the_share_of_equal_pixels() -> None:
    first, second = np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)
    second[0, 0] = second[1, 3] = 9
    assert agreement(first, second) == 0.75
    assert agreement(first, first) == 1
