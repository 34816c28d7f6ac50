"""The machine and the software that a measurement was made with; unknown values are None."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from edgeseg import __version__
from edgeseg.cpu import cpu_threads

Facts = dict[str, str | int | float | None]


def system_facts() -> Facts:
    """Return CPU, cores, memory, operating system and load."""
    return {
        "cpu": _cpu_model(),
        "machine": platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_threads": cpu_threads(),
        "ram_mib": _ram_mib(),
        "os": _os_name(),
        "kernel": platform.release().partition("-")[0],
        "gpu": _gpu_name(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def software_facts() -> Facts:
    """Return the versions of Python, edgeseg and what runs the network."""
    return {
        "python": platform.python_version(),
        "edgeseg": __version__,
        **{name: _version(name) for name in ("onnxruntime", "torch", "numpy", "pillow")},
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "default"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu_name() -> str | None:
    """Return the first GPU as PyTorch sees it; unknown where torch is not loaded."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name(0)) if torch and torch.cuda.is_available() else None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _ram_mib(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        return int(meminfo.read_text().split(maxsplit=2)[1]) // 1024
    except (OSError, ValueError, IndexError):
        return None
