"""The working folder: finished runs only under their name, one training per folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.errors import ArtifactError, UsageError
from edgeseg_train.run.workspace import Workspace, finished_name, open_again, open_new


def with_checkpoint(out: Path, *, force: bool = False) -> Workspace:
    workspace = open_new(out, force=force)
    (workspace.folder / "last.ckpt").write_bytes(b"state")
    return workspace


def test_a_finished_folder_has_its_name_and_no_leftovers(tmp_path: Path) -> None:
    workspace = with_checkpoint(tmp_path / "runs" / "a")
    assert workspace.folder == tmp_path / "runs" / "a.partial"
    for name in ("config.json", "job.json", "previous.ckpt"):
        (workspace.folder / name).write_text("{}")
    workspace.finish(force=False)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["config.json"]


def test_two_trainings_into_one_folder_are_refused_with_the_others_process(tmp_path: Path) -> None:
    first = open_new(tmp_path / "a", force=False)
    for force in (False, True):
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            open_new(tmp_path / "a", force=force)
    with pytest.raises(UsageError, match="another training"):
        open_again(tmp_path / "a")
    first.leave(keep=False)
    assert list(tmp_path.iterdir()) == []
    open_new(tmp_path / "a", force=False).leave(keep=False)


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from edgeseg_train.run.workspace import open_new\n"
        "open_new(Path(sys.argv[1]), force=False); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "a.partial" / "lock").is_file()
    open_new(tmp_path / "a", force=False).leave(keep=False)


def test_an_unfinished_training_is_not_thrown_away_without_force(tmp_path: Path) -> None:
    with_checkpoint(tmp_path / "a").leave(keep=True)
    with pytest.raises(UsageError, match=r"unfinished.*--resume .*a, or .*--force"):
        open_new(tmp_path / "a", force=False)
    assert (tmp_path / "a.partial" / "last.ckpt").read_bytes() == b"state"
    workspace = open_new(tmp_path / "a", force=True)
    assert not workspace.has_checkpoint
    workspace.leave(keep=False)


def test_an_unfinished_training_is_opened_again_without_leftovers(tmp_path: Path) -> None:
    with_checkpoint(tmp_path / "a").leave(keep=True)
    (tmp_path / "a.partial" / ".last.ckpt.partial-1-2").write_bytes(b"half")
    for name in ("a", "a.partial"):
        assert finished_name(tmp_path / name) == tmp_path / "a"
    workspace = open_again(tmp_path / "a")
    assert workspace.has_checkpoint
    assert not list(workspace.folder.glob(".*"))


def test_what_is_finished_or_was_never_begun_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no unfinished training"):
        open_again(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is finished"):
        open_again(tmp_path / "a")


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    for name in ("a", "b.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    for name in ("a", "b"):
        for force in (False, True):
            with pytest.raises(UsageError):
                open_new(tmp_path / name, force=force)
    assert len(list(tmp_path.glob("*/thesis.txt"))) == 2


def test_a_run_that_somebody_else_finished_first_does_not_cost_ours(tmp_path: Path) -> None:
    workspace = with_checkpoint(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("theirs")
    with pytest.raises(UsageError, match=r"this run is kept as '.*a\.partial'"):
        workspace.finish(force=False)
    assert (tmp_path / "a" / "config.json").read_text() == "theirs"
    assert workspace.has_checkpoint


def test_a_name_that_means_unfinished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.partial are for unfinished runs"):
        open_new(tmp_path / "a.partial", force=False)


def test_the_current_folder_can_be_what_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.partial").mkdir()
    monkeypatch.chdir(tmp_path / "a.partial")
    assert finished_name(Path()) == tmp_path / "a"
