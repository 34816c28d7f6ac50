"""What is installed here, which backends work, and what to do about the rest.

    edgeseg doctor

``machine`` is what doctor looks at, ``packages`` reads what is installed, ``jetson`` knows the
board and its JetPack, ``checks`` and ``jetson_checks`` find what is wrong. Nothing is run or
changed: doctor only reads files, so that tests can give it any machine as a folder.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from typing import Any

from edgeseg import __version__
from edgeseg.cpu import cpu_threads
from edgeseg.doctor.checks import NO_BACKEND, Finding, find_problems
from edgeseg.doctor.jetson import Jetson, find_jetson
from edgeseg.doctor.jetson_checks import NO_WHEELS, find_jetson_problems
from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import Package, extras, installed_packages
from edgeseg.engines.library import FLAVOURS, Flavour, load
from edgeseg.errors import DeviceError
from edgeseg.sessions import BACKENDS, problem

__all__ = ["PACKAGES", "Diagnosis", "Finding", "Jetson", "Machine", "diagnose"]

# What a report of a fault should name, installed or not.
PACKAGES = (
    "numpy",
    "pillow",
    "pydantic",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-ep-openvino",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "cuda-bindings",
    "av",
    "onnx",
    "torch",
    "torchvision",
    "lightning",
)


@dataclass(frozen=True)
class Diagnosis:
    """The state of this machine.

    Attributes:
        free_bytes: memory that a process may still use; None if unknown.
        cache: where engines are kept.
        packages: version of each of ``PACKAGES``, or None.
        extras: what each extra of edgeseg lacks here; nothing: it is installed.
        backends: what is wrong with each backend, or None if it works, in the order of ``auto``.
        builders: the same for what builds engines (``edgeseg build``).
        jetson: the board and its JetPack, None elsewhere.
        findings: what to change, each with its fix.
    """

    edgeseg: str
    python: str
    machine: str
    cpu_threads: int
    free_bytes: int | None
    cache: str
    packages: dict[str, str | None]
    extras: dict[str, list[str]]
    backends: dict[str, str | None]
    builders: dict[str, str | None]
    jetson: Jetson | None
    findings: tuple[Finding, ...]

    @property
    def auto(self) -> str | None:
        """The backend that ``auto`` takes where nothing was measured; None: no backend works."""
        return next((name for name, wrong in self.backends.items() if wrong is None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return all values for JSON."""
        return {**asdict(self), "auto": {"order": list(self.backends), "takes": self.auto}}


def diagnose(machine: Machine | None = None) -> Diagnosis:
    """Look at a machine, by default this one; never raises for what is missing.

    Backends and builders are tried in this process, whatever ``machine`` is.
    """
    machine = machine or Machine.here()
    packages = installed_packages(machine.search)
    jetson = find_jetson(machine)
    backends = {name: _replaced(name, problem(name), jetson) for name in BACKENDS}
    return Diagnosis(
        edgeseg=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        machine=f"{platform.system()} {machine.architecture}",
        cpu_threads=cpu_threads(),
        free_bytes=machine.free_bytes,
        cache=str(machine.cache),
        packages={name: _version(packages.get(name)) for name in PACKAGES},
        extras=extras(packages, machine),
        backends=backends,
        builders={name: _replaced(name, _builder_problem(name), jetson) for name in FLAVOURS},
        jetson=jetson,
        findings=(
            *([NO_BACKEND] if all(backends.values()) else ()),
            *find_problems(machine, packages),
            *(find_jetson_problems(machine, jetson, packages) if jetson else ()),
        ),
    )


def _version(package: Package | None) -> str | None:
    return package.version if package else None


def _replaced(name: str, found: str | None, jetson: Jetson | None) -> str | None:
    """Return what is wrong; on a Jetson, no fix that only works on servers."""
    return NO_WHEELS.get(name, found) if found and jetson else found


def _builder_problem(flavour: Flavour) -> str | None:
    try:
        load(flavour)
    except DeviceError as error:
        return str(error)
    return None
