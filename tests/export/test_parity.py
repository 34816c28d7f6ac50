"""Parity: counted by hand on small class maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.bundle import Reference
from edgeseg.errors import InputError
from edgeseg_export.parity import Evaluation, Gates, evaluate_torch, mean_iou, measure


class FixedSession:
    """A session that answers with given class maps, in order."""

    backend, variant = "fake", "fp32"

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = iter(answers)

    def infer(self, images_nhwc_u8: np.ndarray) -> np.ndarray:
        return next(self.answers)[None]

    def close(self) -> None:
        pass


def test_agreement_margin_and_miou_are_counted_over_all_images() -> None:
    truth = np.zeros((2, 2, 2), dtype=np.uint8)
    torch_maps = truth.copy()
    margins = np.array([[[3, 1], [1, 1]], [[2, 0.5], [1, 1]]], dtype=np.float16)
    found = torch_maps.copy()
    found[0, 0, 1] = found[1, 0, 0] = 1
    reference = Reference(np.zeros((2, 2, 2, 3), dtype=np.uint8), torch_maps, margins)
    evaluation = Evaluation(reference, tuple(truth), 2, miou=1.0)
    parity = measure(evaluation, FixedSession(found), Gates(0.7, 0.1))
    assert parity.images == 2
    assert parity.agreement == parity.reference_agreement == pytest.approx(6 / 8)
    assert parity.max_flip_margin == 2
    assert parity.miou == pytest.approx((6 / 8 + 0) / 2)
    assert parity.torch_miou == 1
    assert len(parity.failures) == 1
    assert "mIoU fell by 0.6250" in parity.failures[0]


def test_the_reference_holds_pytorchs_class_and_its_lead_over_the_second(make_network) -> None:
    network = make_network()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    evaluation = evaluate_torch(network, images, [np.zeros((8, 8), dtype=np.uint8)] * 2)
    with torch.inference_mode():
        logits = network(torch.tensor(images)).numpy()
    ordered = np.sort(logits, axis=1)
    np.testing.assert_array_equal(evaluation.reference.class_maps, logits.argmax(1))
    lead = ordered[:, -1] - ordered[:, -2]
    np.testing.assert_allclose(evaluation.reference.margins, lead, rtol=1e-2, atol=1e-3)


def test_accuracy_is_measured_at_the_truths_own_size() -> None:
    class_map = np.array([[0, 1]], dtype=np.uint8)
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 0]], dtype=np.uint8)
    assert mean_iou(class_map[None], [truth], 2) == pytest.approx((4 / 5 + 3 / 4) / 2)


def test_images_without_labels_cannot_be_evaluated() -> None:
    ignored = np.full((1, 2, 2), 255, dtype=np.uint8)
    with pytest.raises(InputError, match="no labelled pixel"):
        mean_iou(np.zeros((1, 2, 2), dtype=np.uint8), ignored, 2)
