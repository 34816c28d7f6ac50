"""Where a training works: ``NAME.partial``, which becomes ``NAME`` when it is finished.

So a folder ``NAME`` is always a finished run, an old one stays until the new one is whole, and
whatever ends a training early leaves something to resume from. A lock keeps two trainings from
working in one folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from edgeseg.errors import ArtifactError, UsageError, show
from edgeseg.files import refuse_existing, replace_folder
from edgeseg_train.run.checkpoint import LAST, PREVIOUS
from edgeseg_train.run.job import JOB
from edgeseg_train.run_folder import CONFIG

LOCK = "lock"


def partial_folder(out: Path) -> Path:
    """Return the folder in which the training of ``out`` works."""
    return out.with_name(f"{out.name}.partial")


class Workspace:
    """An opened, locked working folder; ``finish`` publishes it, ``leave`` lets go of it."""

    def __init__(self, out: Path, folder: Path, lock: IO[str]) -> None:
        """Made by ``open_new`` and ``open_again``."""
        self.out, self.folder, self._lock = out, folder, lock

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return _has_any(self.folder, LAST, PREVIOUS)

    def finish(self, *, force: bool) -> None:
        """Publish the folder as ``out``.

        Raises:
            UsageError: somebody made ``out`` meanwhile; nothing is lost then.
        """
        try:
            refuse_existing(self.out, CONFIG, force=force)
        except UsageError as error:
            raise UsageError(f"{error}; this run is kept as {show(self.folder)}") from error
        replace_folder(self.folder, self.out)
        for name in (LAST, PREVIOUS, JOB, LOCK):  # only now: until here they protect the run
            (self.out / name).unlink(missing_ok=True)
        self._lock.close()

    def leave(self, *, keep: bool) -> None:
        """Unlock the folder, and remove it unless ``keep``."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def open_new(out: Path, *, force: bool) -> Workspace:
    """Make the working folder of a new training.

    Raises:
        UsageError: ``out`` exists, another training works there, or an unfinished one could
            be resumed; ``force`` replaces all but a training that is running.
    """
    refuse_existing(out, CONFIG, force=force)
    if out.name.endswith(".partial"):
        raise UsageError(f"--out {show(out)}: names that end in .partial are for unfinished runs")
    folder = partial_folder(out)
    if (folder.exists() or folder.is_symlink()) and not (folder / LOCK).is_file():
        raise UsageError(f"{show(folder)} exists and is no training of ours; remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(out, folder, _locked(folder))
    if _has_any(folder, LAST, PREVIOUS, CONFIG) and not force:
        workspace.leave(keep=True)
        raise UsageError(
            f"{show(folder)} holds an unfinished training; continue it with "
            f"--resume {out}, or discard it with --force"
        )
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return workspace


def finished_name(run: Path) -> Path:
    """Return ``NAME`` for ``NAME`` and ``NAME.partial``."""
    run = run.resolve() if run.name in ("", "..") else run
    return run.with_name(run.name.removesuffix(".partial"))


def unfinished_folder(out: Path) -> Path:
    """Return the working folder of an unfinished training.

    Raises:
        UsageError: the training is finished.
        ArtifactError: there is none.
    """
    folder = partial_folder(out)
    if folder.is_dir():
        return folder
    if (out / CONFIG).is_file():
        raise UsageError(f"the training of {show(out)} is finished; nothing to resume")
    raise ArtifactError(f"no unfinished training of {show(out)}: {show(folder)} does not exist")


def open_again(out: Path) -> Workspace:
    """Open the working folder of an unfinished training.

    Raises:
        UsageError: the training is finished, or running.
        ArtifactError: there is none.
    """
    folder = unfinished_folder(out)
    workspace = Workspace(out, folder, _locked(folder))
    for leftover in folder.glob(".*.partial-*"):  # of a process that was killed while writing
        leftover.unlink()
    return workspace


def _has_any(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _locked(folder: Path) -> IO[str]:
    """Return the open lock file; the lock ends with this process, however it ends."""
    lock = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read(20).strip() or "unknown"
        lock.close()
        raise UsageError(
            f"another training (process {owner}) is working in {show(folder)}; choose another --out"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
