"""What every session is measured by: inputs that fit, and class maps from logits."""

from __future__ import annotations

import numpy as np

from edgeseg.sessions.protocol import class_map_from_logits


def test_logits_become_the_class_of_the_highest() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    found = class_map_from_logits(logits)
    assert found.dtype == np.uint8
    assert found.shape == (2, 3, 4)
    for n, row, column in np.ndindex(2, 3, 4):
        values = logits[n, :, row, column].tolist()
        assert values[found[n, row, column]] == max(values)


def test_equal_logits_give_the_lowest_class() -> None:
    assert class_map_from_logits(np.zeros((1, 4, 1, 1), np.float32)).tolist() == [[[0]]]
