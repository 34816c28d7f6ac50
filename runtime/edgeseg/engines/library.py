"""Load TensorRT (10.3 to 11.x) or TensorRT-RTX (1.x), or say how to get it.

The two have nearly the same Python interface. What only some versions have is asked for by
name where it is needed; nothing here or elsewhere guesses from a version number.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgeseg.engines.log import Log, new_logger
from edgeseg.errors import DeviceError, first_line, show

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_SUPPORTED = {"tensorrt": ((10, 3), (12, 0)), "tensorrt-rtx": ((1, 2), (2, 0))}
_FIXES = {
    "tensorrt": (
        "on a Jetson use JetPack's: sudo apt install python3-libnvinfer, in an environment made "
        'with --system-site-packages; elsewhere: pip install "edgeseg[tensorrt]"'
    ),
    "tensorrt-rtx": 'run: pip install "edgeseg[tensorrt-rtx]" (x86-64 Linux, Python 3.11 or newer)',
}
# The wheel of the bindings has no libraries; ONNX Runtime's plugin brings the same ones.
_CARRIER = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_CARRIED = ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")


@dataclass(frozen=True)
class Library:
    """A loaded TensorRT: its Python module, and the one logger that all its objects share."""

    flavour: Flavour
    version: str
    module: Any
    log: Log
    logger: Any

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{_TITLES[self.flavour]} {self.version}"


@functools.cache  # a process needs one logger: TensorRT's registries keep the first they see
def load(flavour: Flavour) -> Library:
    """Return the library.

    Raises:
        DeviceError: not installed, not loadable, or a version whose interface is another.
    """
    try:
        module = _import(flavour)
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"{_TITLES[flavour]} is not usable here: {first_line(error)}; {_FIXES[flavour]}"
        ) from error
    return adopt(flavour, module)


def adopt(flavour: Flavour, module: Any) -> Library:
    """Return the library behind an imported ``module``.

    Raises:
        DeviceError: a version whose interface is another.
    """
    version = str(module.__version__)
    lowest, beyond = _SUPPORTED[flavour]
    if not lowest <= _major_minor(version) < beyond:
        raise DeviceError(
            f"{_TITLES[flavour]} {show(version)} is not supported; expected at least "
            f"{'.'.join(map(str, lowest))} and less than {beyond[0]}; {_FIXES[flavour]}"
        )
    log = Log()
    return Library(flavour, version, module, log, new_logger(module, log))


def _import(flavour: Flavour) -> Any:
    if flavour == "tensorrt":
        return importlib.import_module("tensorrt")
    try:
        return importlib.import_module("tensorrt_rtx")  # NVIDIA's full wheel
    except ModuleNotFoundError:
        _load_carried_libraries()
        return importlib.import_module("tensorrt_rtx_bindings")


def _load_carried_libraries() -> None:
    """Load the libraries for all to see, so that the bindings find their symbols."""
    try:
        files = importlib.metadata.files(_CARRIER) or []
    except importlib.metadata.PackageNotFoundError:
        return  # the libraries may lie on the system's path
    for name in _CARRIED:
        for file in files:
            if file.name.startswith(name):
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)


def _major_minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
