"""Put the overlapping answers of many windows together, pixel by pixel.

The score of a class at a pixel is the weighted mean over the windows there of its logit, or the
weighted share of the windows that voted for it; the highest score wins, of equal ones the
lowest id. Scores are added up from left to right and from top to bottom, in float32.

Only what still waits for a neighbour is kept: the overlap to the right while a row of windows
is walked, and the overlap below, along the band, until the next row comes. So the memory
needed depends neither on the picture's height nor, with bands, on its width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.restore import rank_planes
from edgeseg.tiling.plan import Band, Plan


@dataclass(frozen=True)
class Scores:
    """How much speaks for which class; classes that are not listed have 0.

    Attributes:
        ids: (K,) class ids, ascending. Few were voted for, so most planes need not exist.
        planes: float32 (K, H, W).
    """

    ids: NDArray[np.intp]
    planes: NDArray[np.float32]

    def plus(self, corner: Scores) -> Scores:
        """Return the sum with scores that cover the top left part; may change ``self.planes``."""
        total = self._for_classes(np.union1d(self.ids, corner.ids))
        height, width = corner.planes.shape[1:]
        for i, plane in zip(np.searchsorted(total.ids, corner.ids), corner.planes, strict=True):
            total.planes[i, :height, :width] += plane
        return total

    def _for_classes(self, ids: NDArray[np.intp]) -> Scores:
        if len(ids) == len(self.ids):
            return self
        planes = np.zeros((len(ids), *self.planes.shape[1:]), dtype=np.float32)
        planes[np.searchsorted(ids, self.ids)] = self.planes
        return Scores(ids, planes)

    def part(self, rows: slice, columns: slice) -> Scores:
        """Return a rectangle; it shares memory with the whole."""
        return Scores(self.ids, self.planes[:, rows, columns])

    def copy(self) -> Scores:
        """Return scores with memory of their own, so that the whole can be freed."""
        return Scores(self.ids, self.planes.copy())

    def class_map(self) -> NDArray[np.uint8]:
        """Return the class with the highest score, uint8 (H, W); of equal ones the lowest id."""
        planes = zip(self.ids.tolist(), self.planes, strict=True)
        return rank_planes(planes, self.planes.shape[1:]).class_map


def weigh(logits_chw: NDArray[np.float32], weights: NDArray[np.float32]) -> Scores:
    """Return the scores of a window's logits, float32 (C, H, W); weights are float32 (H, W).

    The logits are overwritten: with 150 classes a tile of 512x512 pixels has 157 MB of them.
    """
    planes = np.require(logits_chw, requirements="W")
    planes *= weights
    return Scores(np.arange(len(planes)), planes)


def vote(class_map: NDArray[np.uint8], weights: NDArray[np.float32]) -> Scores:
    """Return the scores of a window's class map, uint8 (H, W): each pixel votes its weight."""
    ids = np.flatnonzero(np.bincount(class_map.ravel()))
    planes = np.zeros((len(ids), *class_map.shape), dtype=np.float32)
    for plane, i in zip(planes, ids, strict=True):
        np.copyto(plane, weights, where=class_map == i)
    return Scores(ids, planes)


@dataclass(frozen=True)
class Block:
    """A finished rectangle of the picture's class map, uint8 (h, w), and its top left pixel."""

    top: int
    left: int
    class_map: NDArray[np.uint8]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns, to index (H, W) arrays with."""
        height, width = self.class_map.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def blend(plan: Plan, band: Band, windows: Iterator[Scores]) -> Iterator[Block]:
    """Add up the scores of a band's windows, given in the order of ``plan.windows``.

    Yields:
        One block per window of the band's own columns; together they are the band.
    """
    sums = _Sums(plan, band)
    for row, column in plan.windows(band):
        # Not held in a variable, so that it is freed before the next one is made.
        block = sums.add(row, column, next(windows))
        if block is not None:
            yield block


class _Sums:
    """Scores that wait for a neighbour: to the right of the last window, and below each column."""

    def __init__(self, plan: Plan, band: Band) -> None:
        self._plan, self._band = plan, band
        self._right: Scores | None = None
        self._below: dict[int, Scores] = {}

    def add(self, row: int, column: int, scores: Scores) -> Block | None:
        """Add a window; return what it finishes, or None where that is another band's."""
        if self._right is not None:
            scores = scores.plus(self._right)
        done, rest = _split(self._plan.columns.finished(column))
        ends_row = column + 1 == self._band.end
        self._right = None if ends_row else scores.part(_ALL, rest).copy()
        if column < self._band.begin:
            return None
        return self._finish(row, column, scores.part(_ALL, done))

    def _finish(self, row: int, column: int, scores: Scores) -> Block:
        if column in self._below:
            scores = scores.plus(self._below.pop(column))
        done, rest = _split(self._plan.rows.finished(row))
        self._below[column] = scores.part(rest, _ALL).copy()
        corner = self._plan.rows.starts[row], self._plan.columns.starts[column]
        return Block(*corner, scores.part(done, _ALL).class_map())


_ALL = slice(None)


def _split(finished: int) -> tuple[slice, slice]:
    return slice(finished), slice(finished, None)
