"""Latency of several segmenters, interleaved, one picture at a time from encoded bytes.

All backends take turns in short blocks (A B C, C B A, ...), so that whatever else the machine
does hits them alike; the ratio of two rows is therefore steadier than either number. The span
``file`` is decode + pre + compute + post; ``model`` is compute alone: uint8 picture at network
size in, class map out, both in host memory.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmenter import Segmenter

STAGES = ("decode", "pre", "compute", "post")
BLOCK = 4  # pictures per turn
WARMUP_WINDOW = 5
RESAMPLES = 1000

ModeName = Literal["rapid", "quick", "standard", "official"]


@dataclass(frozen=True)
class Mode:
    """How long to measure: at least ``min_n`` pictures each and, on average, ``min_s`` seconds."""

    min_n: int
    min_s: float
    max_warmup_s: float


MODES: dict[ModeName, Mode] = {
    "rapid": Mode(64, 6, 3),
    "quick": Mode(128, 10, 10),
    "standard": Mode(1024, 60, 30),
    "official": Mode(1024, 600, 30),
}


@dataclass(frozen=True)
class Samples:
    """Raw times of one segmenter: float64 (n, 4) milliseconds per stage, and its turn's number."""

    stages_ms: NDArray[np.float64]
    blocks: NDArray[np.int64]

    @property
    def file_ms(self) -> NDArray[np.float64]:
        """All stages together, (n,)."""
        total: NDArray[np.float64] = self.stages_ms.sum(axis=1)
        return total

    @property
    def model_ms(self) -> NDArray[np.float64]:
        """The network alone, (n,)."""
        return self.stages_ms[:, STAGES.index("compute")]


@dataclass(frozen=True)
class Summary:
    """Statistics of one span in milliseconds; percentiles are nearest-rank, x[ceil(n p)]."""

    n: int
    min: float
    p50: float
    p90: float
    mean: float
    max: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the reference: ratio of medians, with a 95 % interval."""

    value: float
    low: float
    high: float


def measure_latency(
    segmenters: Sequence[Segmenter],
    pictures: Sequence[bytes],
    mode: Mode,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Samples]:
    """Time every segmenter on the same encoded pictures, in turns.

    Args:
        segmenters: what to measure.
        pictures: encoded image files; used in order, again and again.
        mode: how long.
        tell: called with a line about progress, about every ten seconds.
    """
    for segmenter in segmenters:
        _warm_up(segmenter, pictures, mode.max_warmup_s)
    rows: list[list[list[float]]] = [[] for _ in segmenters]
    blocks: list[list[int]] = [[] for _ in segmenters]
    spent = 0.0
    turn, told = 0, time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while len(rows[0]) < mode.min_n or spent < mode.min_s * len(segmenters):
            order = range(len(segmenters))
            for i in order if turn % 2 == 0 else reversed(order):
                start = time.perf_counter()
                for k in range(BLOCK):
                    picture = pictures[(turn * BLOCK + k) % len(pictures)]
                    timings = segmenters[i](picture).timings_ms
                    rows[i].append([timings[stage] for stage in STAGES])
                    blocks[i].append(turn)
                spent += time.perf_counter() - start
            turn += 1
            if time.perf_counter() - told > 10:
                told = time.perf_counter()
                tell(f"measured {len(rows[0])} pictures per backend")
    finally:
        gc.enable()
    return [Samples(np.array(r), np.array(b)) for r, b in zip(rows, blocks, strict=True)]


def summarise(times_ms: NDArray[np.float64]) -> Summary:
    """Return the statistics of one span's times (n,), n >= 1."""
    ordered = np.sort(times_ms)
    return Summary(
        n=len(ordered),
        min=float(ordered[0]),
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        mean=float(ordered.mean()),
        max=float(ordered[-1]),
    )


def percentile(ordered: NDArray[np.float64], share: float) -> float:
    """Return the nearest-rank percentile x[ceil(n * share)], counted from 1, of sorted times."""
    return float(ordered[max(1, math.ceil(len(ordered) * share)) - 1])


def speed_up(reference: Samples, other: Samples) -> Ratio:
    """Return the ratio of the medians of the ``file`` span, reference over other.

    The interval is a percentile bootstrap over turns: both sides of a turn are drawn together,
    because they ran next to each other.
    """
    generator = np.random.default_rng(0)
    ours, theirs = _by_turn(other), _by_turn(reference)
    draws = generator.integers(len(ours), size=(RESAMPLES, len(ours)))
    ratios = _medians(theirs[draws]) / _medians(ours[draws])
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = summarise(reference.file_ms).p50 / summarise(other.file_ms).p50
    return Ratio(value, float(low), float(high))


def _medians(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest-rank median of each resample, (resamples,)."""
    times = draws.reshape(len(draws), -1)
    medians: NDArray[np.float64] = np.percentile(times, 50, axis=1, method="inverted_cdf")
    return medians


def _by_turn(samples: Samples) -> NDArray[np.float64]:
    return samples.file_ms.reshape(-1, BLOCK)


def _warm_up(segmenter: Segmenter, pictures: Sequence[bytes], max_s: float) -> None:
    """Run until two successive windows have medians within 5 %, at most ``max_s`` seconds."""
    start, last = time.perf_counter(), 0.0
    while time.perf_counter() - start < max_s:
        window = (pictures[k % len(pictures)] for k in range(WARMUP_WINDOW))
        median = float(np.median([sum(segmenter(p).timings_ms.values()) for p in window]))
        if abs(median - last) <= 0.05 * last:
            return
        last = median
