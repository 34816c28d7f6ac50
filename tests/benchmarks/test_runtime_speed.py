"""The benchmark of what surrounds the network: its order, its goals, its files; never its times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg_benchmarks.runtime_speed.__main__ import main
from edgeseg_benchmarks.runtime_speed.report import AT_LEAST, GOALS, PARTS, markdown, verdicts
from edgeseg_benchmarks.runtime_speed.sides import _base_packages, in_turns, picture_bytes


def test_sides_take_turns_after_a_warm_up() -> None:
    called = []

    def side(name: str, value: float) -> float:
        called.append(name)
        return value

    found = in_turns({"a": lambda: side("a", 1), "b": lambda: side("b", 3)}, 3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert found == {"a": [1] * 3, "b": [3] * 3}


@pytest.mark.parametrize("value", [0.01, 1e9])
def test_a_goal_is_a_limit_except_for_throughput(value: float) -> None:
    document: dict[str, dict[str, float]] = {part: {} for part in PARTS}
    document["stages"] = dict.fromkeys(GOALS, value)
    rows = verdicts(document)
    assert {row["what"] for row in rows} == set(GOALS)
    for row in rows:
        assert row["met"] is ((value > 1) == (row["what"] in AT_LEAST))


def test_the_base_install_is_what_its_metadata_says() -> None:
    found = _base_packages("edgeseg")
    assert {"edgeseg", "numpy", "pillow", "pydantic", "pydantic-core", "rich", "typer"} <= {*found}
    assert not {"torch", "onnx", "onnxruntime", "pytest", "matplotlib"} & {*found}


def test_the_picture_is_the_same_every_time() -> None:
    assert picture_bytes() == picture_bytes()


def test_the_benchmark_writes_all_samples_and_a_report(tiny_export: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    main(seed=tiny_export, edge=tiny_export, out=out, rounds=1, images=3)
    document = json.loads((out / "runtime-speed.json").read_text())
    assert (out / "runtime-speed.md").read_text() == markdown(document)
    assert {row["what"] for row in document["goals"]} == set(GOALS)
    assert len(document["start_up"]["seconds"]["edgeseg"]) == 1
    assert document["folder_mode"]["images"] == 3
    assert all(row["value"] > 0 for row in document["goals"])
