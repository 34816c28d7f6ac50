"""``edgeseg train``: options, one JSON document, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.cli.main import main


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_the_command_trains_and_prints_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = "--preset tiny --features 2,4 --size 16x24 --max-steps 2 --batch-size 2 --json"
    status = run_cli("--data", "synthetic:4+1", "--out", str(out), *options.split())
    assert status == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["features"] == [2, 4]
    preprocessing = document["preprocessing"]
    assert (preprocessing["height"], preprocessing["width"]) == (16, 24)
    assert np.isfinite(document["result"]["val_loss"])


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ("--preset huge", 2, "no preset 'huge'"),
        ("--features 4,x", 2, "--features"),
        ("--features 0", 2, "--features"),
        ("--size 0x4", 2, "size"),
        ("--size 4by4", 2, "size"),
        ("--lr nan", 2, "--lr"),
        ("--lr -1", 2, "--lr"),
        ("--batch-size 0", 2, "batch-size"),
        ("--norm none", 2, "norm"),
        ("--wat", 2, "No such option"),
        ("--data folder:/nowhere", 3, "does not exist"),
        ("--data synthetic:2+1 --batch-size 8", 3, "fewer than one batch"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, status: int, words: str
) -> None:
    assert run_cli("--out", str(tmp_path / "run"), *options.split(), "--quiet") == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
