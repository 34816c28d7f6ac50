"""The table of backends: on what each runs, and which module opens its sessions.

A backend's module is imported on first use and has three functions:

``problem(backend)``
    why the backend cannot work on this machine, with the fix, or None.
``unready(bundle, backend, variant)``
    why it cannot run this variant of this bundle yet (no engine was built), or None.
``open_session(bundle, backend, variant, settings)``
    the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from edgeseg.errors import UsageError, show

AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """A way to run a bundle; ``module`` knows how."""

    device: Literal["cpu", "gpu"]
    module: str

    def load(self) -> Any:
        """Return the module."""
        return import_module(self.module)


_ORT = "edgeseg.sessions.ort"

# In the order in which `auto` takes them, unless this machine remembers a measurement.
BACKENDS = {
    "tensorrt": Backend("gpu", "edgeseg.sessions.tensorrt"),
    "tensorrt-rtx": Backend("gpu", "edgeseg.sessions.tensorrt"),
    "ort:tensorrt": Backend("gpu", _ORT),
    "ort:tensorrt-rtx": Backend("gpu", _ORT),
    "ort:cuda": Backend("gpu", _ORT),
    "ort:cpu": Backend("cpu", _ORT),  # before OpenVINO: it is what the export's gates ran
    "openvino": Backend("cpu", "edgeseg.sessions.openvino"),
    "ort:openvino": Backend("cpu", _ORT),
}
CPU_BACKENDS = tuple(name for name, backend in BACKENDS.items() if backend.device == "cpu")


def check_backend(name: str) -> str:
    """Return ``name`` if it is a backend.

    Raises:
        UsageError: there is no such backend.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend {show(name)}; choose from {AUTO}, {', '.join(BACKENDS)}")
    return name


def problem(name: str) -> str | None:
    """Return why a backend cannot work on this machine, with the fix, or None."""
    found: str | None = BACKENDS[name].load().problem(name)
    return found
