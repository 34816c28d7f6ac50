"""Write whole or not at all: atomic files, staged output folders, hashes.

A reader never sees half a file: everything is written beside its target, synced
and then renamed. A command that fails leaves what was there before.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeseg.errors import UsageError, show

STALE_S = 24 * 3600


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it becomes ``path`` when the body succeeds."""
    # Shortened, because the name plus our suffix may exceed what a file system allows.
    unique = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name[:40]}.partial-{unique}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, *parts: bytes | memoryview) -> None:
    """Replace ``path`` by ``parts``; the old content stays until the new one is on disk."""
    with partial_file(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


def refuse_existing(target: Path, marker: str, *, force: bool) -> None:
    """Check that ``target`` may be written, before any work is done.

    Args:
        target: the output folder.
        marker: a file that only our kind of folder has. ``--force`` replaces such a
            folder or an empty one, never somebody's other files.
        force: the user's ``--force``.

    Raises:
        UsageError: the folder exists and may not be replaced, or has no name of its own.
    """
    if target.name in ("", ".."):
        raise UsageError(f"output {show(target)} is no name for a new folder; give one")
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise UsageError(f"output {show(target)} exists already; choose another or add --force")
    ours = target.is_dir() and not target.is_symlink()
    if not ours or not ((target / marker).is_file() or not any(target.iterdir())):
        raise UsageError(
            f"output {show(target)} exists and has no {marker}, so --force will not replace it; "
            "choose another folder or remove it yourself"
        )


@contextmanager
def staged_folder(target: Path, marker: str, *, force: bool) -> Iterator[Path]:
    """Give a folder beside ``target`` to write into; it becomes ``target`` when the body succeeds.

    When the body raises, the staged files are removed and ``target`` is as it was.

    Raises:
        UsageError: see ``refuse_existing``.
    """
    refuse_existing(target, marker, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    _remove_stale(target)
    staging.mkdir()
    try:
        yield staging
        _keep_if_taken(staging, target, marker, force=force)
        replace_folder(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    """Remove what killed processes left: a day old, because others may run on another machine."""
    for staging in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        number = staging.name.rpartition("-")[2]
        with suppress(OSError):  # another process removes it, too
            old = time.time() - staging.stat().st_mtime > STALE_S
            if old and number.isdigit() and not _is_running(int(number)):
                shutil.rmtree(staging)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no process at all
        return True
    return True


def _keep_if_taken(staging: Path, target: Path, marker: str, *, force: bool) -> None:
    """Check again, because somebody may have made ``target`` meanwhile; no work is lost then."""
    try:
        refuse_existing(target, marker, force=force)
    except UsageError as error:
        kept = target.with_name(f"{target.name}.kept-{os.getpid()}")
        staging.replace(kept)
        raise UsageError(f"{error}; this result was kept as {show(kept)}") from error


def replace_folder(source: Path, target: Path) -> None:
    """Move the folder ``source`` to ``target``; an old ``target`` is deleted only afterwards."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.replace(old)
    try:
        source.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
