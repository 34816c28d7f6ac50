"""Latency statistics by hand, and interleaving on a segmenter of known speed."""

from __future__ import annotations

import io
import math
import time

import numpy as np
import pytest
from PIL import Image

from edgeseg.labels import numbered_labels
from edgeseg.preprocess import Preprocessing
from edgeseg.segmenter import Segmenter
from edgeseg_benchmarks.latency import (
    BLOCK,
    STAGES,
    WARMUP_WINDOW,
    Mode,
    Samples,
    _warm_up,
    measure_latency,
    percentile,
    speed_up,
    summarise,
)

INPUT = Preprocessing(height=8, width=8)


def samples(file_ms: np.ndarray) -> Samples:
    stages = np.zeros((len(file_ms), len(STAGES)))
    stages[:, STAGES.index("compute")] = file_ms
    return Samples(stages, np.arange(len(file_ms)) // BLOCK)


@pytest.mark.parametrize(
    ("n", "share", "rank"), [(1, 0.5, 1), (2, 0.5, 1), (10, 0.5, 5), (10, 0.9, 9), (11, 0.9, 10)]
)
def test_percentiles_are_nearest_rank(n: int, share: float, rank: int) -> None:
    assert percentile(np.arange(1.0, n + 1), share) == rank
    assert rank == math.ceil(n * share)


def test_a_summary_counts_sorts_and_averages() -> None:
    found = summarise(np.array([4.0, 1.0, 3.0, 2.0, 100.0]))
    assert (found.n, found.min, found.p50, found.p90, found.max) == (5, 1, 3, 100, 100)
    assert found.mean == 22


def test_spans_are_sums_of_stages() -> None:
    times = Samples(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([0]))
    assert times.file_ms.tolist() == [10]
    assert times.model_ms.tolist() == [3]


def test_the_speed_up_is_the_ratio_of_medians_inside_its_interval() -> None:
    noise = np.random.default_rng(0).uniform(0.8, 1.2, 80)
    ratio = speed_up(samples(30 * noise), samples(10 * noise[::-1]))
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(3, rel=0.1)
    assert ratio.high - ratio.low < 1


def test_a_slow_spell_of_the_machine_that_hits_both_leaves_the_ratio_alone() -> None:
    spell = np.repeat([1.0, 5.0], 40)
    ratio = speed_up(samples(20 * spell), samples(10 * spell))
    assert ratio.value == pytest.approx(2)
    assert (ratio.low, ratio.high) == (pytest.approx(2), pytest.approx(2))


def test_warming_up_goes_on_until_the_times_are_steady() -> None:
    class Improving(Sleeper):
        def infer(self, images_nhwc_u8: np.ndarray) -> np.ndarray:
            self.seconds = 0.02 if len(self.log) < 2 * WARMUP_WINDOW else 0.01
            return super().infer(images_nhwc_u8)

    log: list[str] = []
    segmenter = Segmenter(
        Improving("x", 0, log), numbered_labels(2), Preprocessing(height=8, width=8)
    )
    _warm_up(segmenter, [tiny_png()], max_s=60)
    # Two slow windows alike would be steady; so it ends there or after the fast ones, never
    # after the first window, which has nothing to be compared with.
    assert len(log) >= 2 * WARMUP_WINDOW
    assert len(log) % WARMUP_WINDOW == 0


def tiny_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    return buffer.getvalue()


class Sleeper:
    """A session that takes a known time and logs whose turn it was."""

    variant = "fp32"

    def __init__(self, backend: str, seconds: float, log: list[str]) -> None:
        self.backend, self.seconds, self.log = backend, seconds, log

    def infer(self, images_nhwc_u8: np.ndarray) -> np.ndarray:
        self.log.append(self.backend)
        time.sleep(self.seconds)
        return np.zeros(images_nhwc_u8.shape[:3], dtype=np.uint8)

    def close(self) -> None:
        pass


def test_backends_take_turns_and_known_times_come_out() -> None:
    log: list[str] = []
    segmenters = [
        Segmenter(Sleeper(name, seconds, log), numbered_labels(2), INPUT)
        for name, seconds in (("slow", 0.02), ("fast", 0.01))
    ]
    slow, fast = measure_latency(segmenters, [tiny_png()], Mode(12, 0, 0))
    assert len(slow.file_ms) == len(fast.file_ms) == 12
    turns = [log[i] for i in range(0, len(log), BLOCK)]
    assert turns == ["slow", "fast", "fast", "slow", "slow", "fast"]
    # Sleeping never ends early, so the lower bounds hold on any machine.
    assert slow.model_ms.min() >= 20
    assert fast.model_ms.min() >= 10
    assert (slow.file_ms >= slow.model_ms).all()
