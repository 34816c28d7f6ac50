"""What ``edgeseg bench --remember`` found on this machine: which backend is fastest for a network.

    ~/.cache/edgeseg/remembered.json

Times depend on the network and its size, not on its weights; so a retrained bundle profits, too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.engines.device import Device, find_device, open_driver
from edgeseg.files import atomic_write, sha256_bytes


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Frozen):
    """Median milliseconds of the network alone, batch 1, of one variant on one backend."""

    backend: str
    variant: str
    model_ms: float = Field(gt=0)


class Machine(_Frozen):
    """What must be the same for a measurement to hold."""

    architecture: str
    threads: int
    gpu: Device | None


class Memory(_Frozen):
    """``remembered.json``: measurements by network, fastest first."""

    schema_version: int = Field(default=1, ge=1, le=1)
    machine: Machine
    networks: dict[str, tuple[Measured, ...]] = {}


def default_file() -> Path:
    """Return ``$XDG_CACHE_HOME/edgeseg/remembered.json``, by default in ``~/.cache``."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (root if root.is_absolute() else Path.home() / ".cache") / "edgeseg" / "remembered.json"


def remember(bundle: Bundle, measured: Sequence[Measured], file: Path | None = None) -> Path:
    """Keep what was measured for a bundle's network, instead of what was known of it; return where.

    Raises:
        OSError: the file cannot be written.
    """
    file = file or default_file()
    known = _read(file)
    ordered = tuple(sorted(measured, key=lambda one: one.model_ms))
    networks = {**(known.networks if known else {}), _network(bundle): ordered}
    file.parent.mkdir(parents=True, exist_ok=True)
    memory = Memory(machine=_machine(), networks=networks)
    atomic_write(file, (memory.model_dump_json(indent=2) + "\n").encode())
    return file


def recall(bundle: Bundle, file: Path | None = None) -> tuple[Measured, ...]:
    """Return what this machine remembers of a bundle's network, fastest first; mostly nothing."""
    known = _read(file or default_file())
    return known.networks.get(_network(bundle), ()) if known else ()


def _read(file: Path) -> Memory | None:
    """Return the file's content; None if there is none, or it is damaged, or of another machine."""
    try:
        memory = Memory.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    return memory if memory.machine == _machine() else None


def _machine() -> Machine:
    return Machine(
        architecture=platform.machine(),
        threads=cpu_threads(),
        gpu=find_device(open_driver()),
    )


def _network(bundle: Bundle) -> str:
    """Return a name for the architecture and its size: 32 hexadecimal digits."""
    manifest = bundle.manifest
    model = manifest.model.model_copy(update={"weights_sha256": "0" * 64})
    return sha256_bytes(f"{model.model_dump_json()} {manifest.sizes[0]}".encode())[:32]
