"""``edgeseg bench`` end to end: report, gates, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.cli.main import main
from edgeseg.sessions import choose
from edgeseg.sessions.remembered import recall
from edgeseg_benchmarks import latency
from edgeseg_benchmarks.report import Report, markdown, markdown_table

DATA = "synthetic:1+3"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.MODES, "rapid", latency.Mode(8, 0, 0.1))


def bench(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", *map(str, arguments)])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


@pytest.fixture
def report_folder(tiny_run: Path, tiny_export: Path, tmp_path: Path) -> Path:
    out = tmp_path / "report"
    backends = ("--backend", "torch", "--backend", "ort:cpu")
    variants = ("--variant", "fp32", "--variant", "int8-cpu")
    options = (*backends, *variants, "--mode", "rapid", "--quiet")
    assert bench(tiny_export, "--run", tiny_run, "--data", DATA, "--out", out, *options) == 0
    return out


def test_the_report_has_a_row_per_backend_and_variant(report_folder: Path) -> None:
    assert {path.name for path in report_folder.iterdir()} == {
        "report.json",
        "report.md",
        "samples.npz",
    }
    report = Report.model_validate_json((report_folder / "report.json").read_bytes())
    assert [(row.backend, row.variant) for row in report.rows] == [
        ("torch", "fp32"),
        ("ort:cpu", "fp32"),
        ("ort:cpu", "int8-cpu"),
    ]
    for row in report.rows:
        assert row.accuracy.images == 3
        assert row.file_ms.n >= 8
        assert 0 < row.model_ms.p50 <= row.file_ms.p90
    assert report.rows[1].accuracy.agreement >= 0.999
    assert report.rows[1].model_bytes


def test_the_numbers_can_be_computed_again_from_the_raw_samples(report_folder: Path) -> None:
    report = Report.model_validate_json((report_folder / "report.json").read_bytes())
    raw = np.load(report_folder / "samples.npz")
    for row in report.rows:
        stages = raw[f"{row.backend}|{row.variant}|stages_ms"]
        ordered = sorted(stages.sum(axis=1))
        assert row.file_ms.p90 == pytest.approx(ordered[-(-9 * len(ordered) // 10) - 1])
        assert row.images_per_s == pytest.approx(1000 * len(ordered) / sum(ordered))


def test_markdown_shows_the_same_numbers_and_survives_odd_names(report_folder: Path) -> None:
    report = Report.model_validate_json((report_folder / "report.json").read_bytes())
    text = (report_folder / "report.md").read_text()
    assert markdown(report) == text
    assert markdown_table(report.rows) in text
    assert f"{report.rows[2].accuracy.miou:.4f}" in text
    odd = report.model_copy(update={"data": "folder:<b>|`x`\ny"})
    assert "folder:\\<b\\>\\|\\`x\\` y" in markdown(odd)


def test_a_missed_gate_is_exit_5_and_the_report_is_written(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    options = ("--run", tiny_run, "--data", DATA, "--out", out, "--json")
    backends = ("--backend", "torch", "--backend", "ort:cpu", "--backend", "ort:cpu")
    gate = ("--min-agreement", "1", "--variant", "int8-cpu")
    assert bench(tiny_export, *options, *backends, *gate) == 5
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document == json.loads((out / "report.json").read_text())
    assert len(document["rows"]) == 2  # a backend named twice is measured once
    assert "int8-cpu on ort:cpu: agreement" in document["gate_failures"][0]
    assert "edgeseg: error: int8-cpu on ort:cpu: agreement" in captured.err


def test_without_a_run_the_first_variant_is_the_reference(
    tiny_export: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    options = ("--backend", "ort:cpu", "--out", out, "--quiet", "--images", "1")
    assert bench(tiny_export, "--data", DATA, *options) == 0
    report = Report.model_validate_json((out / "report.json").read_bytes())
    assert [row.variant for row in report.rows] == ["fp32", "int8-cpu"]
    assert report.rows[0].accuracy.images == 1
    assert report.rows[0].speed_up.value == 1


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--backend", "torch"], 2, "needs --run"),
        (["--backend", "ort:gpu"], 2, "no backend 'ort:gpu'"),
        (["--variant", "fp8"], 2, "no variant 'fp8'"),
        (["--data", "folder:/nowhere"], 3, "does not exist"),
        (["--run", "/nowhere"], 4, "does not exist"),
        (["--mode", "eternal"], 2, "mode"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    tiny_export: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    out = tmp_path / "report"
    assert bench(tiny_export, "--data", DATA, "--out", out, "--quiet", *options) == status
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_fastest_is_remembered_and_auto_takes_it(
    tiny_export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ("--data", DATA, "--backend", "ort:cpu", "--remember")
    assert bench(tiny_export, "--out", tmp_path / "a", *options) == 0
    report = Report.model_validate_json((tmp_path / "a" / "report.json").read_bytes())
    fastest = min(report.rows, key=lambda row: row.model_ms.p50)
    assert f"'auto' will take {fastest.variant} on ort:cpu here" in capsys.readouterr().err
    choice = choose(Bundle.open(tiny_export))
    assert choice.variant == fastest.variant
    assert f"({fastest.model_ms.p50:.1f} ms)" in choice.why


def test_nothing_is_remembered_of_a_model_that_missed_a_gate(
    tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gate = ("--max-miou-drop", "0", "--min-agreement", "1")
    options = ("--data", DATA, "--backend", "ort:cpu", "--remember", *gate)
    assert bench(tiny_export, "--out", tmp_path / "a", *options) == 5
    assert recall(Bundle.open(tiny_export)) == ()
