"""Checkpoints: what ``--resume`` reads, never what export reads.

A file is a line that names the format, the SHA-256 of the rest, and the rest as ``torch.save``
writes it, read back with ``weights_only=True``: tensors, numbers and text, no code. The one
before the last is kept, so that there always is a whole one.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import ArtifactError, first_line, show
from edgeseg.files import atomic_write

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
HEADER = b"edgeseg checkpoint 1\n"
DIGEST = 32  # bytes

State = dict[str, Any]


def save_checkpoint(folder: Path, state: State) -> None:
    """Write ``last.ckpt`` whole or not at all; the old one becomes ``previous.ckpt``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()  # no second copy of what may be half a gigabyte
    last = folder / LAST
    if last.exists():
        last.replace(folder / PREVIOUS)
    atomic_write(last, HEADER, hashlib.sha256(payload).digest(), payload)


def load_checkpoint(folder: Path, note: Callable[[str], None]) -> State:
    """Return the newest whole checkpoint, on the CPU; ``note`` hears of damaged ones.

    Raises:
        ArtifactError: there is none.
    """
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_file():
            try:
                state = read_checkpoint(path)
            except ArtifactError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                note(f"{problem}; using {path.name}")
            return state
    found = "; ".join(problems) or f"{show(folder)} has no checkpoint"
    raise ArtifactError(f"{found}; nothing to resume from: start again with --force")


def read_checkpoint(path: Path) -> State:
    """Read one checkpoint.

    Raises:
        ArtifactError: unreadable, damaged, or with contents that could run code.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {show(path)}: {error.strerror}") from error
    if not data.startswith(HEADER):
        raise ArtifactError(f"{show(path)} is no checkpoint that this version reads")
    start = len(HEADER) + DIGEST
    if hashlib.sha256(data[start:]).digest() != data[len(HEADER) : start]:
        raise ArtifactError(f"checkpoint {show(path)} is damaged: its SHA-256 does not fit")
    try:
        state = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"checkpoint {show(path)} holds more than tensors, numbers and text; "
            "it is not loaded, because that could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ArtifactError(f"cannot read checkpoint {show(path)}: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise ArtifactError(f"checkpoint {show(path)} holds no state of a training")
    return state
