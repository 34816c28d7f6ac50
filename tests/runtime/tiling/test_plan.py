"""Windows over a picture: checked against a count of every pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeseg.errors import UsageError
from edgeseg.tiling.plan import Axis, Plan, default_overlap, plan_windows

# length, tile, overlap: exact fits, one pixel more, primes, more than half, all but one pixel
AXES = [
    (64, 64, 0),
    (65, 64, 0),
    (128, 64, 0),
    (128, 64, 16),
    (997, 64, 13),
    (997, 64, 33),
    (130, 64, 63),
    (1, 64, 8),
    (63, 64, 8),
    (1000, 1, 0),
]


@pytest.mark.parametrize(("length", "tile", "overlap"), AXES)
def test_windows_lie_inside_cover_every_pixel_and_overlap_enough(
    length: int, tile: int, overlap: int
) -> None:
    axis = Axis.over(length, tile, overlap)
    assert axis.extent == min(tile, length)
    ends = [start + axis.extent for start in axis.starts]
    assert axis.starts[0] == 0
    assert ends[-1] == length
    shared = [end - start for end, start in zip(ends[:-1], axis.starts[1:], strict=True)]
    assert all(overlap <= pixels < tile for pixels in shared)
    fewest = 1 + max(0, math.ceil((length - tile) / (tile - overlap)))
    assert len(axis.starts) == fewest


@pytest.mark.parametrize(("length", "tile", "overlap"), AXES)
def test_the_weights_of_all_windows_at_a_pixel_sum_to_one(
    length: int, tile: int, overlap: int
) -> None:
    axis = Axis.over(length, tile, overlap)
    total, windows = np.zeros(length), np.zeros(length, dtype=int)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        assert weights.dtype == np.float32
        assert (weights > 0).all()
        total[start : start + axis.extent] += weights
        windows[start : start + axis.extent] += 1
    assert np.allclose(total, 1, atol=1e-6)
    # Exactly 1, so that a tile that stands alone keeps the network's own answer.
    assert (total[windows == 1] == 1).all()


def test_between_two_windows_the_weights_are_a_linear_ramp() -> None:
    axis = Axis.over(14, 8, 2)
    assert axis.starts == (0, 6)
    assert axis.weights[0].tolist() == pytest.approx([1] * 6 + [2 / 3, 1 / 3])
    assert axis.weights[1].tolist() == pytest.approx([1 / 3, 2 / 3] + [1] * 6)


@pytest.mark.parametrize(("length", "tile", "overlap"), AXES)
def test_each_pixel_is_finished_by_one_window(length: int, tile: int, overlap: int) -> None:
    axis = Axis.over(length, tile, overlap)
    ends = [start + axis.finished(i) for i, start in enumerate(axis.starts)]
    assert ends == [*axis.starts[1:], length]
    assert axis.carried == max(axis.extent - axis.finished(i) for i in range(len(axis.starts)))


@pytest.mark.parametrize("overlap", [0, 9, 17, 31])
@pytest.mark.parametrize("budget", [1, 20_000, 50_000, 10**9])
def test_bands_share_out_the_columns_and_keep_within_the_budget(overlap: int, budget: int) -> None:
    classes = 5
    plan = plan_windows((300, 1000), (40, 32), overlap)
    bands = plan.bands(classes, budget)
    assert [band.begin for band in bands] == [0, *(band.end for band in bands[:-1])]
    assert bands[-1].end == len(plan.columns.starts)
    for band in bands:
        left = plan.columns.starts[band.begin]
        reaching = [i for i, start in enumerate(plan.columns.starts) if start <= left < start + 32]
        assert band.first == reaching[0]
        pixels = sum(plan.columns.finished(i) for i in range(band.begin, band.end))
        kept = pixels * plan.rows.carried * classes * 4
        assert kept <= budget or band.end - band.begin == 1
    assert (len(bands) == 1) == (budget == 10**9)


def test_one_band_is_enough_where_nothing_overlaps_from_row_to_row() -> None:
    assert len(plan_windows((320, 1000), (40, 32), 0).bands(5, 1)) == 1


def test_windows_are_walked_row_by_row() -> None:
    plan = Plan(Axis.over(20, 10, 0), Axis.over(30, 10, 0))
    (band,) = plan.bands(1, 1)
    assert list(plan.windows(band)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("overlap", [-1, 48, 64])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(UsageError, match=rf"overlap {overlap}.*48x64.*0 to 47.*12"):
        plan_windows((100, 100), (48, 64), overlap)


def test_a_quarter_of_the_shorter_side_overlaps_by_default() -> None:
    assert default_overlap((512, 256)) == 64
    assert default_overlap((1, 1)) == 0
