"""Frames and latencies, counted."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from edgeseg.streams import report
from edgeseg.streams.report import Meter, nearest_rank
from edgeseg.streams.source import Frame


def frame(arrived: float = 0.0) -> Frame:
    return Frame(0, arrived, lambda: np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 100])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_percentiles_are_nearest_rank_as_numpy_has_it(count: int, share: float) -> None:
    values = sorted(np.random.default_rng(count).random(count).tolist())
    assert nearest_rank(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")


def test_a_meter_counts_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.5, 11.0, 12.0])
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(clock))
    meter = Meter()
    frames = [frame(10.0), frame(10.2), frame(10.8)]
    for one in meter.count(frames):
        meter.done(one)
    found = meter.report(dropped=5, damaged=1)
    assert (found.frames_in, found.frames_done, found.frames_dropped) == (8, 3, 5)
    assert found.frames_damaged == 1
    assert found.seconds == pytest.approx(2.0)
    assert found.fps == pytest.approx(1.5)
    assert found.latency_ms_p50 == pytest.approx(800.0)
    assert found.latency_ms_p90 == pytest.approx(1200.0)
    assert str(found) == (
        "3 of 8 frames, 5 dropped, 1 damaged in 2.0 s "
        "(1.5 frames/s; latency p50 800 ms, p90 1200 ms)"
    )
    assert found.to_dict()["latency_ms_p90"] == 1200.0


def test_a_stream_without_a_frame_has_no_latency() -> None:
    found = Meter().report(dropped=0, damaged=0)
    assert (found.frames_in, found.fps, found.latency_ms_p50) == (0, 0.0, None)
    assert str(found) == "0 of 0 frames in 0.0 s (0.0 frames/s)"


def test_memory_does_not_grow_with_an_endless_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEPT_LATENCIES", 10)
    meter = Meter()
    for _ in range(50):
        meter.done(frame(-math.inf))
    now = time.perf_counter()
    for _ in range(10):
        meter.done(frame(now))
    latency = meter.report(dropped=0, damaged=0).latency_ms_p90
    assert latency is not None
    assert math.isfinite(latency)
