"""What can be wrong on any machine, each with its fix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import Package
from edgeseg.engines.cache import EngineCache
from edgeseg.engines.device import MIB
from edgeseg.errors import EdgeSegError, show

# What `edgeseg build` cannot do without, for the reference U-Net: the libraries, and the file,
# the parsed network and the engine of 31 million weights in fp32. More makes better engines.
BUILD_NEEDS = (256 + 3 * 119) * MIB


@dataclass(frozen=True)
class Finding:
    """Something to change: what is wrong, and the fix, each one line."""

    what: str
    fix: str


NO_BACKEND = Finding(
    "no backend works here, so no bundle can be run", 'pip install "edgeseg[cpu]" is the least'
)


def find_problems(machine: Machine, packages: dict[str, Package]) -> Iterator[Finding]:
    """Yield what is wrong, on any machine."""
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        yield Finding(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install only one",
        )
    if "torch" in packages and "torchvision" not in packages:
        yield Finding("torch is here without torchvision", 'pip install "edgeseg[train]"')
    if machine.free_bytes is not None and machine.free_bytes < BUILD_NEEDS:
        yield Finding(
            f"{machine.free_bytes // MIB} MiB of memory are free; building an engine of the "
            f"reference U-Net needs at least {BUILD_NEEDS // MIB} MiB",
            "close other programs (on a Jetson also the desktop: sudo init 3), or add swap",
        )
    yield from _cache_problems(machine.cache)


def _cache_problems(cache: Path) -> Iterator[Finding]:
    """Yield why engines could not be kept; nothing is made."""
    if os.path.lexists(cache):
        try:
            EngineCache.open(cache)
        except EdgeSegError as error:
            what, _, fix = str(error).partition("; engines are code, ")
            yield Finding(what, fix or "choose another with --cache")
            return
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        yield Finding(
            f"the engine cache {show(cache)} cannot be written: {show(parent)} is read-only",
            f"chmod u+w {parent}, or set XDG_CACHE_HOME to a folder that is yours",
        )
