"""Checkpoints: whole or not at all, the last whole one always loads, nothing runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgeseg.errors import ArtifactError
from edgeseg_train.run import checkpoint
from edgeseg_train.run.checkpoint import HEADER, load_checkpoint, read_checkpoint, save_checkpoint


def test_what_is_saved_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, {"step": step, "weights": torch.full((3,), float(step))})
    notes: list[str] = []
    state = load_checkpoint(tmp_path, notes.append)
    assert state["step"] == 3
    torch.testing.assert_close(state["weights"], torch.full((3,), 3.0))
    assert read_checkpoint(tmp_path / "previous.ckpt")["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert notes == []


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "other"])
def test_a_damaged_checkpoint_is_left_for_the_one_before_with_a_note(
    tmp_path: Path, harm: str
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step, "weights": torch.zeros(1000)})
    last = tmp_path / "last.ckpt"
    data = bytearray(last.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    harmed = {"truncate": data[:-100], "flip": data, "empty": b"", "other": b"PK" + data}[harm]
    last.write_bytes(harmed)
    notes: list[str] = []
    assert load_checkpoint(tmp_path, notes.append)["step"] == 1
    assert len(notes) == 1
    assert "using previous.ckpt" in notes[0]
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(ArtifactError, match="nothing to resume from"):
        load_checkpoint(tmp_path, notes.append)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no checkpoint; nothing to resume from"):
        load_checkpoint(tmp_path, lambda text: None)


class Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.canary),))


def test_a_checkpoint_that_could_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    save_checkpoint(tmp_path, {"step": Malicious(canary)})  # header and hash are right
    with pytest.raises(ArtifactError, match="could run code"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not canary.exists()


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, {"step": 2})
    assert load_checkpoint(tmp_path, lambda text: None)["step"] == 1


def test_killed_while_saving_at_any_moment_a_whole_checkpoint_remains(tmp_path: Path) -> None:
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path)], stdin=subprocess.PIPE, text=True
        )
        for _ in range(TRIALS)
    ]
    for trial, saver in enumerate(savers):
        assert saver.stdin is not None
        saver.stdin.write(f"{trial}\n")
        saver.stdin.close()
        _wait_for(tmp_path / str(trial) / "last.ckpt")
        time.sleep(0.003 * trial)
        saver.kill()
        saver.wait()
        state = load_checkpoint(tmp_path / str(trial), lambda text: None)
        assert (state["weights"] == state["step"]).all()


TRIALS = 6  # each needs a process of its own, which takes seconds to import torch
ENDLESS = """
import sys
from pathlib import Path
import torch
from edgeseg_train.run.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
for trial in sys.stdin:
    (folder / trial.strip()).mkdir()
    for step in range(10**9):
        state = {"step": step, "weights": torch.full((200_000,), float(step))}
        save_checkpoint(folder / trial.strip(), state)
"""


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_header_names_the_format(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {})
    assert (tmp_path / "last.ckpt").read_bytes().startswith(HEADER)
