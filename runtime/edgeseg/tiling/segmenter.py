"""Segment pictures larger than the network, window by window and pixel for pixel.

segmenter = Segmenter.load("bundles/street", size=(512, 512))
result = TiledSegmenter(segmenter, overlap=128)("aerial.png")

The tile is the size that the segmenter runs at. Pictures are not resized, whatever the bundle's
resize rule: a window shows what the camera saw at its own scale. Where a bundle has logits they
are blended, else the windows vote with their class maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import ArtifactError, UsageError
from edgeseg.images import ImageSource, read_image
from edgeseg.segmentation import Segmentation
from edgeseg.segmenter import Prepared, Segmenter
from edgeseg.tiling.blend import Block, Scores, blend, vote, weigh
from edgeseg.tiling.plan import Band, Plan, plan_windows

BUDGET_BYTES = 256 * 1024**2

Read = Callable[[int, int, int, int], NDArray[np.uint8]]  # (top, left, height, width) -> RGB
Progress = Callable[[int, int], object]


class TiledSegmenter:
    """Picture of any size in, class map of that size out; the network sees one tile at a time."""

    def __init__(
        self, segmenter: Segmenter, overlap: int, *, batch: int = 1, budget: int = BUDGET_BYTES
    ) -> None:
        """Wrap a loaded segmenter, which stays the caller's to close.

        The session is asked once, to see whether it has logits.

        Args:
            segmenter: loaded at the size that the tiles are to have.
            overlap: the fewest pixels that neighbouring tiles share.
            batch: tiles per call of the network; load the segmenter with the same number.
            budget: the most bytes of scores to keep from one row of tiles to the next.

        Raises:
            UsageError: the overlap is negative or not smaller than the tile, or batch is below 1.
            ArtifactError: the network has more classes than the bundle names.
        """
        if batch < 1:
            raise UsageError(f"batch {batch} is below 1")
        unresized = segmenter.preprocessing.model_copy(update={"resize": "none"})
        self._segmenter = Segmenter(segmenter.session, segmenter.labels, unresized)
        self.tile = unresized.size
        self.overlap = overlap
        self.labels = segmenter.labels
        self._batch, self._budget = batch, budget
        self.plan(*self.tile)  # refuses a wrong overlap now, not at the first picture
        self.has_logits = _has_logits(self._segmenter)

    def __call__(self, image: ImageSource, progress: Progress | None = None) -> Segmentation:
        """Segment one picture: a path, bytes, a PIL image or a uint8 (H, W, 3) RGB array.

        ``progress`` is called with the tiles done and the tiles there are.

        Raises:
            InputError: the picture cannot be read; see ``edgeseg.images.read_image``.
        """
        stages = Stages()
        with stages.time("decode"):
            pixels = read_image(image)
        height, width = pixels.shape[:2]
        class_map = np.empty((height, width), dtype=np.uint8)

        def cut(top: int, left: int, rows: int, columns: int) -> NDArray[np.uint8]:
            return pixels[top : top + rows, left : left + columns]

        with stages.time_rest("post"):
            for block in self.blocks(cut, self.plan(height, width), stages, progress):
                class_map[block.window] = block.class_map
        name = Path(image).name if isinstance(image, str | Path) else ""
        return Segmentation(class_map, self.labels, pixels, stages.timings_ms, name=name)

    def plan(self, height: int, width: int) -> Plan:
        """Return the windows over a picture of this size."""
        return plan_windows((height, width), self.tile, self.overlap)

    def blocks(
        self, read: Read, plan: Plan, stages: Stages, progress: Progress | None = None
    ) -> Iterator[Block]:
        """Yield the class map of a picture piece by piece, each pixel once.

        Args:
            read: gives uint8 (height, width, 3) RGB for (top, left, height, width).
            plan: the picture's windows.
            stages: gets the times for ``decode`` (of ``read``), ``pre`` and ``compute``.
            progress: called with the tiles done and the tiles there are.
        """
        total = len(plan.rows.starts) * len(plan.columns.starts)
        done = 0
        for band in plan.bands(self.labels.num_classes, self._budget):
            for block in blend(plan, band, self._scores(read, plan, band, stages)):
                yield block
                done += 1
                if progress is not None:
                    progress(done, total)

    def _scores(self, read: Read, plan: Plan, band: Band, stages: Stages) -> Iterator[Scores]:
        """Yield the weighted scores of each window of a band, in order."""
        windows = plan.windows(band)
        while chunk := list(islice(windows, self._batch)):
            prepared = [self._prepare(read, plan, window, stages) for window in chunk]
            with stages.time("compute"):
                answers = self._answers(prepared)
            for window in chunk:
                # Taken off the list, so that it is freed before the network runs again.
                yield self._scored(plan, window, answers.pop(0))

    def _prepare(self, read: Read, plan: Plan, window: tuple[int, int], stages: Stages) -> Prepared:
        row, column = window
        corner = plan.rows.starts[row], plan.columns.starts[column]
        with stages.time("decode"):
            pixels = read(*corner, plan.rows.extent, plan.columns.extent)
        with stages.time("pre"):
            return self._segmenter.prepare(pixels)

    def _answers(self, prepared: list[Prepared]) -> list[NDArray[Any]]:
        """Return the logits (C, h, w) of each tile, or its class map (h, w)."""
        if self.has_logits:
            stacked = np.stack([one.pixels for one in prepared])
            return list(self._segmenter.session.infer_logits(stacked))
        return [answer.class_map for answer in self._segmenter.infer(prepared)]

    def _scored(self, plan: Plan, window: tuple[int, int], answer: NDArray[Any]) -> Scores:
        row, column = window
        weights = np.outer(plan.rows.weights[row], plan.columns.weights[column])
        seen = answer[..., : plan.rows.extent, : plan.columns.extent]
        return weigh(seen, weights) if self.has_logits else vote(seen, weights)


def _has_logits(segmenter: Segmenter) -> bool:
    """Ask the session for logits: nothing else in its protocol says whether there are any."""
    blank = np.zeros((1, *segmenter.preprocessing.size, 3), dtype=np.uint8)
    try:
        classes = segmenter.session.infer_logits(blank).shape[1]
    except UsageError:
        return False
    if classes > segmenter.labels.num_classes:
        raise ArtifactError(
            f"the model has {classes} classes, but its bundle names only "
            f"{segmenter.labels.num_classes}; export the bundle again"
        )
    return True


class Stages:
    """Milliseconds per stage, added up over all tiles; stages as of ``Segmentation``."""

    def __init__(self) -> None:
        self.timings_ms = dict.fromkeys(("decode", "pre", "compute", "post"), 0.0)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add what the body takes."""
        start = time.perf_counter_ns()
        yield
        self.timings_ms[stage] += (time.perf_counter_ns() - start) / 1e6

    @contextmanager
    def time_rest(self, stage: str) -> Iterator[None]:
        """Add what the body takes beyond the stages that are timed inside it."""
        start, before = time.perf_counter_ns(), sum(self.timings_ms.values())
        yield
        inside = sum(self.timings_ms.values()) - before
        self.timings_ms[stage] += (time.perf_counter_ns() - start) / 1e6 - inside
