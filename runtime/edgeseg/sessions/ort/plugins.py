"""Execution providers that are packages of their own: loaded once per process, never unloaded.

Unloading one while anything of it is alive, even the list of its devices, crashes the process.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

from edgeseg.errors import DeviceError, first_line
from edgeseg.sessions.ort.library import PLUGINS, PROVIDERS

_registering = threading.Lock()


def find_devices(onnxruntime: Any, backend: str) -> list[Any]:
    """Return the one device that a plugin backend runs on, after registering the plugin.

    Raises:
        DeviceError: the plugin cannot be loaded, or finds no device here.
    """
    with _registering:
        devices = _devices(onnxruntime, backend)
        if not devices:
            _register(onnxruntime, backend)
            devices = _devices(onnxruntime, backend)
    if not devices:
        raise DeviceError(f"{PROVIDERS[backend]} finds no device that it runs on here")
    return devices[:1]


def _register(onnxruntime: Any, backend: str) -> None:
    package = PLUGINS[backend]
    try:
        library = import_module(package).get_library_path()
        onnxruntime.register_execution_provider_library(f"edgeseg:{package}", library)
    except Exception as error:  # ONNX Runtime's exceptions share no useful base class
        raise DeviceError(
            f"{package} cannot be loaded into onnxruntime {onnxruntime.__version__}: "
            f"{first_line(error)}"
        ) from error


def _devices(onnxruntime: Any, backend: str) -> list[Any]:
    """Return the provider's devices of the kind that the backend stands for."""
    found = [d for d in onnxruntime.get_ep_devices() if d.ep_name == PROVIDERS[backend]]
    if backend == "ort:openvino":  # it also offers GPUs and NPUs
        found = [d for d in found if d.ep_metadata.get("ov_device") == "CPU"]
    return found
