"""Where the windows over a picture lie, what each counts for, and in which order they are walked.

    plan = plan_windows((1080, 1920), tile=(512, 512), overlap=128)
    plan.rows.starts  # (0, 284, 568)

Both sides are cut independently. Windows are spread evenly, so that all of them lie inside the
picture and overlap about equally. Putting the last one back from the border instead could make
it overlap its neighbour nearly whole, and what has to be kept from row to row grows with the
overlap.

A picture too wide for the memory is walked in bands of whole columns of windows. The windows just
left of a band are run again; the result is the same, bit for bit, however it is cut into bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import UsageError


@dataclass(frozen=True)
class Axis:
    """The windows along one side of a picture.

    Attributes:
        length: of the picture, in pixels.
        extent: of each window in the picture: the tile's, or ``length`` if that is smaller.
        starts: first pixel of each window, rising from 0 to ``length - extent``.
    """

    length: int
    extent: int
    starts: tuple[int, ...]

    @classmethod
    def over(cls, length: int, tile: int, overlap: int) -> Axis:
        """Cover ``length`` pixels with as few windows as possible that overlap enough."""
        if length <= tile:
            return cls(length, length, (0,))
        steps = -(-(length - tile) // (tile - overlap))
        starts = tuple(i * (length - tile) // steps for i in range(steps + 1))
        return cls(length, tile, starts)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Weight of each window at each of its pixels, float32 (windows, extent), in 0 < w <= 1.

        A tent: it falls linearly from the window's middle to its border, because a network
        knows least where it sees one side only; between two windows that is a linear ramp. At
        each pixel the weights of all windows sum to 1; where there is one window it counts 1.
        """
        ramp = np.arange(1, self.extent + 1, dtype=np.float64)
        tent = np.minimum(ramp, ramp[::-1])
        total = np.zeros(self.length)
        for start in self.starts:
            total[start : start + self.extent] += tent
        shares = [tent / total[start : start + self.extent] for start in self.starts]
        return np.stack(shares).astype(np.float32)

    def finished(self, window: int) -> int:
        """Return how many pixels from a window's start on are touched by no later window."""
        if window + 1 == len(self.starts):
            return self.extent
        return self.starts[window + 1] - self.starts[window]

    @property
    def carried(self) -> int:
        """The most pixels of a window that wait for the next one."""
        return self.extent - min(self.finished(i) for i in range(len(self.starts)))


@dataclass(frozen=True)
class Band:
    """Columns of windows that are walked together, from the top to the bottom of the picture.

    Attributes:
        first: the first column that is run.
        begin: the first column whose pixels are this band's; those before it are only blended in.
        end: the column after the last.
    """

    first: int
    begin: int
    end: int


@dataclass(frozen=True)
class Plan:
    """The windows over one picture: every row of windows times every column."""

    rows: Axis
    columns: Axis

    def bands(self, classes: int, budget: int) -> tuple[Band, ...]:
        """Cut the columns into bands that keep at most ``budget`` bytes from row to row.

        A band has at least one column, however small the budget.
        """
        per_pixel = self.rows.carried * classes * np.dtype(np.float32).itemsize
        cuts, used = [0], 0
        for column in range(len(self.columns.starts)):
            used += per_pixel * self.columns.finished(column)
            if used > budget and column > cuts[-1]:
                cuts.append(column)
                used = per_pixel * self.columns.finished(column)
        ends = [*cuts[1:], len(self.columns.starts)]
        return tuple(
            Band(self._first_seen(begin), begin, end) for begin, end in zip(cuts, ends, strict=True)
        )

    def _first_seen(self, column: int) -> int:
        """Return the first column whose windows reach into the pixels of ``column``."""
        starts, extent = self.columns.starts, self.columns.extent
        return next(i for i, start in enumerate(starts) if start + extent > starts[column])

    def windows(self, band: Band) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of each window of a band in the order in which they are run."""
        for row in range(len(self.rows.starts)):
            for column in range(band.first, band.end):
                yield row, column


def plan_windows(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> Plan:
    """Lay windows of ``tile`` over a picture of ``size``, both (height, width) in pixels.

    Args:
        size: of the picture; a side shorter than the tile gets one window as long as the side.
        tile: of the windows.
        overlap: the fewest pixels that neighbours share, on both axes.

    Raises:
        UsageError: the overlap is negative or not smaller than the tile.
    """
    if not 0 <= overlap < min(tile):
        raise UsageError(
            f"overlap {overlap} does not fit tiles of {tile[0]}x{tile[1]}; "
            f"expected 0 to {min(tile) - 1}, such as {default_overlap(tile)}"
        )
    return Plan(Axis.over(size[0], tile[0], overlap), Axis.over(size[1], tile[1], overlap))


def default_overlap(tile: tuple[int, int]) -> int:
    """Return the overlap to take where none was given: a quarter of the tile's shorter side."""
    return min(tile) // 4
