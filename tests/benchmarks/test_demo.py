"""``edgeseg demo``: its steps on a small scale, and (slow) the real one with its gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg.cli.main import main
from edgeseg_benchmarks import demo, latency
from edgeseg_train.recipe import presets


def run_demo(out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--out", str(out), *options])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo learn too little, quickly."""
    recipe = presets.TrainingConfig(epochs=1, batch_size=4, lr=1e-3, schedule="constant")
    changes = {"features": (2, 4), "size": (32, 32), "training": recipe}
    monkeypatch.setitem(presets.PRESETS, "tiny", presets.PRESETS["tiny"].model_copy(update=changes))
    monkeypatch.setitem(latency.MODES, "rapid", latency.Mode(8, 0, 0.1))
    monkeypatch.setattr(demo, "DATA", "synthetic:8+3")


@pytest.mark.usefixtures("small")
def test_a_demo_that_learned_too_little_fails_its_gate_but_leaves_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg_export.parity import gates

    monkeypatch.setitem(gates.DEFAULT_GATES, "int8", gates.Gates(0, 1, 1))
    out = tmp_path / "demo"
    assert run_demo(out) == 5
    captured = capsys.readouterr()
    assert "below 0.6" in captured.err.splitlines()[-1]
    assert str(out / "bundle") in captured.out
    assert {path.name for path in out.iterdir()} == {
        "bundle",
        "demo.txt",
        "masks",
        "report",
        "run",
        "scenes",
    }
    assert len(list((out / "masks").glob("*.overlay.png"))) == demo.SCENES
    report = json.loads((out / "report" / "report.json").read_text())
    assert len(report["rows"]) == 3
    assert run_demo(out) == 2  # refused: it exists


@pytest.mark.slow
def test_the_real_demo_reaches_its_gates(tmp_path: Path) -> None:
    assert run_demo(tmp_path / "demo") == 0
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    torch_row, fp32_row, int8_row = (row["accuracy"] for row in report["rows"])
    assert torch_row["miou"] >= 0.60
    assert torch_row["classes_present"] >= 24
    assert fp32_row["agreement"] >= 0.999
    assert int8_row["miou_drop"] <= 0.02
