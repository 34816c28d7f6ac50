"""TensorRT engines for Triton: ``--plan FILE``, or one per compute capability ``--plan 8.6=FILE``.

An engine runs on the GPU, TensorRT and (mostly) driver that it was built for; Triton picks the
file by the compute capability of the GPU it finds.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.errors import ArtifactError, UsageError, show

MODEL_PLAN = "model.plan"
_CHUNK = 2**20


@dataclass(frozen=True)
class Plan:
    """An engine file; ``capability`` is ``""`` for the one that serves every other GPU."""

    path: Path
    capability: str

    @property
    def name(self) -> str:
        """Its file name in the repository."""
        return f"model.sm{self.capability.replace('.', '')}.plan" if self.capability else MODEL_PLAN


def parse_plans(arguments: Sequence[str]) -> tuple[Plan, ...]:
    """Parse the values of ``--plan``: ``FILE`` or ``CAPABILITY=FILE``.

    Raises:
        UsageError: two files for the same GPUs.
    """
    plans = []
    for argument in arguments:
        capability = re.match(r"([0-9]{1,2}\.[0-9])=", argument)
        path = argument[capability.end() :] if capability else argument
        plans.append(Plan(Path(path), capability[1] if capability else ""))
    found = [plan.capability for plan in plans]
    if twice := [capability for capability in found if found.count(capability) > 1]:
        raise UsageError(
            f"two --plan for {twice[0] or 'all GPUs'}; name the compute capability of each: "
            "--plan 8.6=FILE --plan 8.9=FILE"
        )
    return tuple(plans)


def copy_plan(plan: Plan, target: Path) -> str:
    """Copy an engine and return the SHA-256 of the bytes that were written.

    Raises:
        ArtifactError: not a readable, plain, non-empty file.
    """
    digest = hashlib.sha256()
    try:
        with open(plan.path, "rb", opener=_open_without_waiting) as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                raise ArtifactError(f"engine {show(plan.path)} is not a plain file")
            with target.open("xb") as copy:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
                if copy.tell() == 0:
                    raise ArtifactError(f"engine {show(plan.path)} is empty; build it again")
                copy.flush()
                os.fsync(copy.fileno())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"engine {show(plan.path)} does not exist; expected a file that TensorRT built"
        ) from error
    except IsADirectoryError as error:
        raise ArtifactError(
            f"engine {show(plan.path)} is a folder; give the engine file"
        ) from error
    return digest.hexdigest()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for its writer
