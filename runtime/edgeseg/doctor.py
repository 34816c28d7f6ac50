"""What is installed here, which backends work, and what to do about those that do not."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from edgeseg import __version__
from edgeseg.cpu import cpu_threads
from edgeseg.engines.library import FLAVOURS, Flavour, load
from edgeseg.errors import DeviceError
from edgeseg.sessions import BACKENDS, problem

PACKAGES = (
    "numpy",
    "pillow",
    "pydantic",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "torchvision",
    "lightning",
    "onnx",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
)


@dataclass(frozen=True)
class Diagnosis:
    """The state of this machine.

    ``backends`` and ``builders`` (of engines, for ``edgeseg build``) map a name to what is wrong
    with it, or to None if it works.
    """

    edgeseg: str
    python: str
    machine: str
    cpu_threads: int
    packages: dict[str, str | None]
    backends: dict[str, str | None]
    builders: dict[str, str | None]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all values for JSON."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at this machine; never raises for what is missing."""
    packages = {name: _version(name) for name in PACKAGES}
    return Diagnosis(
        edgeseg=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        machine=f"{platform.system()} {platform.machine()}",
        cpu_threads=cpu_threads(),
        packages=packages,
        backends={name: problem(name) for name in BACKENDS},
        builders={flavour: _builder_problem(flavour) for flavour in FLAVOURS},
        warnings=tuple(_warnings(packages)),
    )


def _builder_problem(flavour: Flavour) -> str | None:
    try:
        load(flavour)
    except DeviceError as error:
        return str(error)
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _warnings(packages: dict[str, str | None]) -> list[str]:
    found = []
    if packages["onnxruntime"] and packages["onnxruntime-gpu"]:
        found.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run: pip uninstall -y onnxruntime onnxruntime-gpu, then install only one"
        )
    if packages["torch"] and packages["torchvision"] is None:
        found.append('torch is here without torchvision; run: pip install "edgeseg[train]"')
    return found
