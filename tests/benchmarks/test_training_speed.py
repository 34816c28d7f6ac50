"""The benchmark of data reading: its order, its ratios, its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg_benchmarks import training_speed
from edgeseg_benchmarks.training_speed import interleaved, ratios


def test_sides_are_called_in_turns_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = 0.0, []

    def side(name: str, seconds: float) -> None:
        nonlocal now
        called.append(name)
        now += seconds

    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: now)
    found = interleaved({"a": lambda: side("a", 1), "b": lambda: side("b", 3)}, 4)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert found == {"a": [1] * 4, "b": [3] * 4}


def test_ratios_are_how_many_times_faster() -> None:
    found = ratios(
        {
            "training, cached": 2.0,
            "training, decoded each time": 3.0,
            "network alone": 1.8,
            "loader alone, cached": 0.2,
            "loader alone, decoded each time": 1.0,
            "loader alone, cached, 2 workers": 0.1,
        }
    )
    assert list(found.values()) == pytest.approx([1.5, 5.0, 9.0, 18.0])


def test_the_benchmark_writes_all_samples_and_their_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    training_speed.main("synthetic:8+1", out, "tiny", batch_size=2, blocks=2)
    document = json.loads(out.read_text())
    assert all(len(values) == 2 for values in document["seconds_per_batch"].values())
    assert all(rate > 0 for rate in document["images_per_second"].values())
    assert len(document["seconds_to_first_step"]["filled cache"]) == 2
    assert "first step after" in capsys.readouterr().out
