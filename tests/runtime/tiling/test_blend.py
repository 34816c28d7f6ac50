"""Blending: streamed in float32 against all at once in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.tiling.blend import Block, Scores, blend, vote, weigh
from edgeseg.tiling.plan import Plan, plan_windows

CLASSES = 6


def weights_of(plan: Plan, row: int, column: int) -> NDArray[np.float32]:
    return np.outer(plan.rows.weights[row], plan.columns.weights[column])


def at_once(plan: Plan, planes: dict[tuple[int, int], NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the sum of weighted planes over the whole picture, float64 (C, H, W)."""
    total = np.zeros((CLASSES, plan.rows.length, plan.columns.length))
    for (row, column), window in planes.items():
        top, left = plan.rows.starts[row], plan.columns.starts[column]
        height, width = window.shape[1:]
        weighted = window.astype(np.float64) * weights_of(plan, row, column)
        total[:, top : top + height, left : left + width] += weighted
    return total


def streamed(plan: Plan, scores: dict[tuple[int, int], Scores], budget: int) -> NDArray[np.uint8]:
    """Return the class map put together from blocks, after checking that each pixel comes once."""
    class_map = np.zeros((plan.rows.length, plan.columns.length), dtype=np.uint8)
    seen = np.zeros_like(class_map)
    for band in plan.bands(CLASSES, budget):
        own = (Scores(s.ids, s.planes.copy()) for s in map(scores.get, plan.windows(band)) if s)
        for block in blend(plan, band, own):
            class_map[block.window] = block.class_map
            seen[block.window] += 1
    assert (seen == 1).all()
    return class_map


SIZES = [(40, 50), (97, 131), (16, 100), (7, 5), (100, 12)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 3, 9, 11])
@pytest.mark.parametrize("budget", [1, 3_000, 10**9])
def test_streamed_logits_have_the_classes_of_all_at_once(
    size: tuple[int, int], overlap: int, budget: int
) -> None:
    rng = np.random.default_rng(3)
    plan = plan_windows(size, (16, 12), overlap)
    shape = (CLASSES, plan.rows.extent, plan.columns.extent)
    (whole,) = plan.bands(CLASSES, 10**12)
    planes = {where: rng.normal(size=shape).astype(np.float32) for where in plan.windows(whole)}
    total = at_once(plan, planes)
    scores = {
        where: weigh(window.copy(), weights_of(plan, *where)) for where, window in planes.items()
    }
    found = streamed(plan, scores, budget)
    margin = np.diff(np.sort(total, axis=0)[-2:], axis=0)[0]
    decided = margin > 1e-5  # below that, float32 may see it otherwise
    assert decided.mean() > 0.99
    assert np.array_equal(found[decided], total.argmax(0)[decided])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 3, 9, 11])
def test_streamed_votes_have_the_classes_of_all_at_once(
    size: tuple[int, int], overlap: int
) -> None:
    rng = np.random.default_rng(4)
    plan = plan_windows(size, (16, 12), overlap)
    shape = plan.rows.extent, plan.columns.extent
    (whole,) = plan.bands(CLASSES, 10**12)
    maps = {where: rng.integers(0, CLASSES, shape, dtype=np.uint8) for where in plan.windows(whole)}
    one_hot = {
        where: (np.arange(CLASSES)[:, None, None] == class_map).astype(np.float32)
        for where, class_map in maps.items()
    }
    total = at_once(plan, one_hot)
    scores = {where: vote(ids, weights_of(plan, *where)) for where, ids in maps.items()}
    found = streamed(plan, scores, 1)
    decided = np.diff(np.sort(total, axis=0)[-2:], axis=0)[0] > 1e-5
    assert decided.mean() > 0.8  # two windows with equal weights tie often
    assert np.array_equal(found[decided], total.argmax(0)[decided])


def test_of_equal_votes_the_lowest_id_wins() -> None:
    half = np.full((1, 1), 0.5, dtype=np.float32)
    five, two = (vote(np.full((1, 1), i, dtype=np.uint8), half) for i in (5, 2))
    assert five.plus(two).class_map().tolist() == [[2]]
    assert vote(np.full((1, 1), 2, dtype=np.uint8), half).plus(five).class_map().tolist() == [[2]]


def test_of_equal_logits_the_lowest_id_wins() -> None:
    logits = np.array([-1, 3, 0, 3], dtype=np.float32).reshape(4, 1, 1)
    assert weigh(logits, np.ones((1, 1), dtype=np.float32)).class_map().tolist() == [[1]]


def test_negative_logits_of_all_classes_still_have_a_winner() -> None:
    logits = np.array([-5, -3, -4], dtype=np.float32).reshape(3, 1, 1)
    assert weigh(logits, np.ones((1, 1), dtype=np.float32)).class_map().tolist() == [[1]]


def test_logits_that_may_not_be_written_are_copied() -> None:
    logits = np.ones((2, 3, 3), dtype=np.float32)
    logits.flags.writeable = False
    halves = weigh(logits, np.full((3, 3), 0.5, dtype=np.float32))
    assert (halves.planes == 0.5).all()
    assert (logits == 1).all()


def test_only_classes_that_were_voted_for_have_planes() -> None:
    votes = vote(np.array([[7, 200]], dtype=np.uint8), np.array([[0.25, 1]], dtype=np.float32))
    assert votes.ids.tolist() == [7, 200]
    assert votes.planes.tolist() == [[[0.25, 0]], [[0, 1]]]


def test_a_block_knows_its_place() -> None:
    picture = np.zeros((6, 7))
    picture[Block(1, 2, np.zeros((3, 4), dtype=np.uint8)).window] = 1
    assert picture.sum() == 12
    assert picture[1:4, 2:6].all()
