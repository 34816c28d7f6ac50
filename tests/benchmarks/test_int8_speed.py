"""The benchmark of 8-bit speed: its order, its ratios, its files; never its times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg_benchmarks import int8_speed
from edgeseg_benchmarks.int8_speed import (
    QUESTIONS,
    answers,
    disturbed,
    faster,
    interleaved,
    markdown,
)
from edgeseg_train.unet import UNetConfig


def test_sides_take_turns_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = 0.0, []

    def side(name: str, seconds: float) -> None:
        nonlocal now
        called.append(name)
        now += seconds

    monkeypatch.setattr(int8_speed.time, "perf_counter", lambda: now)
    monkeypatch.setattr(int8_speed.time, "sleep", lambda seconds: None)
    found = interleaved({"a": lambda: side("a", 1), "b": lambda: side("b", 3)}, 3)
    assert "".join(called) == "aaabbb" + "ab" + "ba" + "ab"
    assert found == {"a": [1] * 3, "b": [3] * 3}


def test_a_ratio_is_slow_over_fast_and_lies_in_its_interval() -> None:
    exact = faster([2.0, 2.0, 2.0], [0.5, 0.5, 0.5])
    assert (exact.value, exact.low, exact.high) == (4, 4, 4)
    generator = np.random.default_rng(1)
    slow, fast = 3 + generator.random(40), 1 + generator.random(40)
    ratio = faster(slow.tolist(), fast.tolist())
    assert ratio.value == np.median(slow) / np.median(fast)
    assert ratio.low < ratio.value < ratio.high


def test_a_disturbance_of_whole_rounds_does_not_widen_the_interval() -> None:
    fast = np.random.default_rng(1).choice([1.0, 5.0], 41)
    assert faster((3 * fast).tolist(), fast.tolist()).high == pytest.approx(3)


def test_a_side_whose_calls_mostly_waited_for_others_is_reported() -> None:
    assert disturbed({"calm": [1.0, 1.2, 1.1], "pushed": [1.0, 2.0, 1.9]}) == ["pushed"]


def test_only_measured_sides_are_compared_with_their_goals() -> None:
    times = {
        "seed: onnxruntime fp32": [2.2] * 3,
        "seed: torch eager fp32": [5.0] * 3,
        "seed: onnxruntime int8": [1.0] * 3,
    }
    rows = {row["slow"]: row for row in answers(times)}
    assert set(rows) == {"seed: onnxruntime fp32", "seed: torch eager fp32"}
    assert rows["seed: onnxruntime fp32"]["met"] is False
    assert rows["seed: torch eager fp32"]["met"] is True


def test_the_benchmark_writes_all_samples_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        int8_speed,
        "networks",
        lambda classes: {
            "seed": UNetConfig(num_classes=classes, features=(4, 8)),
            "edge": UNetConfig(
                num_classes=classes, features=(4,), activation="relu", upsample="pixelshuffle"
            ),
        },
    )
    monkeypatch.setattr(int8_speed, "PAUSE_S", 0)
    # Loaded beside PyTorch, OpenVINO made later trainings of the same process crash.
    monkeypatch.setattr(int8_speed.importlib.util, "find_spec", lambda name: None)
    int8_speed.main(tmp_path / "new" / "study", rounds=3, size=16, num_classes=5, threads=1)
    document = json.loads((tmp_path / "new" / "study" / "int8-speed.json").read_text())
    assert all(len(seconds) == 3 for seconds in document["seconds"].values())
    asked = {(q.slow, q.fast) for q in QUESTIONS if "openvino" not in q.slow + q.fast}
    assert asked <= {(row["slow"], row["fast"]) for row in document["ratios"]}
    report = (tmp_path / "new" / "study" / "int8-speed.md").read_text()
    assert report == markdown(document)
    assert report in capsys.readouterr().out
