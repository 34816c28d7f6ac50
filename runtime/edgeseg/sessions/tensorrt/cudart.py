"""The functions of the CUDA runtime that inference needs, called by name.

    library = open_cudart()
    status, count = library.call("cudaGetDeviceCount")

Two ways lead to the same functions: NVIDIA's cuda-bindings, or ctypes on a libcudart that is here
anyway (JetPack's, a CUDA toolkit's, or the one that TensorRT's wheels bring). The first that sees
a GPU is taken; cuda-bindings of a later CUDA than the driver's, for example, see none.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from edgeseg.errors import DeviceError, first_line

_MAJORS = (13, 12)  # cudaGraphInstantiate had other parameters before 12
_TOOLKIT = "/usr/local/cuda/lib64"
_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
_TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
    "size_t": ctypes.c_size_t,
    "void*": ctypes.c_void_p,
}
_FIX = (
    "install the cuda-bindings of the driver's CUDA: "
    'pip install "cuda-bindings<13" for CUDA 12 (JetPack 6), else pip install cuda-bindings'
)


@dataclass(frozen=True)
class Function:
    """What a function takes and gives, in C's words; handles of CUDA are ``void*``.

    ``gives`` is written through a pointer, which is the first parameter or, if ``last``, the last;
    the function itself returns a status. "text" is returned instead of a status.
    """

    takes: tuple[str, ...] = ()
    gives: str | None = None
    last: bool = False


FUNCTIONS = {
    "cudaGetDeviceCount": Function((), "int"),
    "cudaDeviceGetAttribute": Function(("cudaDeviceAttr", "int"), "int"),
    "cudaGetErrorName": Function(("cudaError_t",), "text"),
    "cudaGetErrorString": Function(("cudaError_t",), "text"),
    "cudaGetLastError": Function(),
    "cudaStreamCreateWithFlags": Function(("unsigned int",), "void*"),
    "cudaStreamDestroy": Function(("void*",)),
    "cudaStreamSynchronize": Function(("void*",)),
    "cudaEventCreateWithFlags": Function(("unsigned int",), "void*"),
    "cudaEventDestroy": Function(("void*",)),
    "cudaEventRecord": Function(("void*", "void*")),
    "cudaEventSynchronize": Function(("void*",)),
    "cudaHostAlloc": Function(("size_t", "unsigned int"), "void*"),
    "cudaHostGetDevicePointer": Function(("void*", "unsigned int"), "void*"),
    "cudaFreeHost": Function(("void*",)),
    "cudaMalloc": Function(("size_t",), "void*"),
    "cudaFree": Function(("void*",)),
    "cudaMemcpyAsync": Function(("void*", "void*", "size_t", "cudaMemcpyKind", "void*")),
    "cudaStreamBeginCapture": Function(("void*", "cudaStreamCaptureMode")),
    "cudaStreamEndCapture": Function(("void*",), "void*", last=True),
    "cudaGraphInstantiate": Function(("void*", "unsigned long long"), "void*"),
    "cudaGraphLaunch": Function(("void*", "void*")),
    "cudaGraphDestroy": Function(("void*",)),
    "cudaGraphExecDestroy": Function(("void*",)),
}


class Cudart(Protocol):
    """A CUDA runtime, however it is reached."""

    def call(self, name: str, *arguments: int) -> tuple[int, Any]:
        """Return the status of ``FUNCTIONS[name]`` and what it gives: a number, a text or None."""


class BoundCudart:
    """The CUDA runtime through the module ``cuda.bindings.runtime``."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def call(self, name: str, *arguments: int) -> tuple[int, Any]:
        """See ``Cudart``."""
        function, runtime = FUNCTIONS[name], self._module
        taken = [
            getattr(runtime, kind)(value) if kind.startswith("cuda") else value  # an enum
            for kind, value in zip(function.takes, arguments, strict=True)
        ]
        status, *given = getattr(runtime, name)(*taken)
        value = given[0] if given else None
        if function.gives == "text":
            return int(status), value.decode(errors="replace") if value else ""
        return int(status), None if value is None else int(value)


class LoadedCudart:
    """The CUDA runtime through ctypes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {name: _prototype(library, name) for name in FUNCTIONS}

    def call(self, name: str, *arguments: int) -> tuple[int, Any]:
        """See ``Cudart``."""
        function, call = FUNCTIONS[name], self._functions[name]
        if function.gives == "text":
            return 0, (call(*arguments) or b"").decode(errors="replace")
        if function.gives is None:
            return call(*arguments), None
        given = _TYPES[function.gives]()
        place = ctypes.byref(given)
        status = call(*arguments, place) if function.last else call(place, *arguments)
        return status, given.value or 0


def _prototype(library: ctypes.CDLL, name: str) -> Any:
    function, found = FUNCTIONS[name], getattr(library, name)
    types = [_TYPES.get(kind, ctypes.c_int) for kind in function.takes]  # C's enums are ints
    if function.gives not in (None, "text"):
        types.insert(len(types) if function.last else 0, ctypes.c_void_p)
    found.argtypes = types
    found.restype = ctypes.c_char_p if function.gives == "text" else ctypes.c_int
    return found


def open_cudart() -> Cudart:
    """Return the first CUDA runtime that sees a GPU.

    Raises:
        DeviceError: there is none; each that was tried says why.
    """
    refusals: dict[str, list[str]] = {}
    for name, runtime in _candidates():
        status, count = runtime.call("cudaGetDeviceCount")
        if status == 0 and count:
            return runtime
        why = runtime.call("cudaGetErrorString", status)[1] if status else "no CUDA-capable device"
        refusals.setdefault(why, []).append(name)
    said = "; ".join(f"{', '.join(names)}: {why}" for why, names in refusals.items())
    found = said or "neither cuda-bindings nor libcudart is here"
    raise DeviceError(f"no CUDA runtime works here ({found}); {_FIX}")


def _candidates() -> Iterator[tuple[str, Cudart]]:
    with suppress(ImportError):  # not installed, or for another Python
        yield "cuda-bindings", BoundCudart(importlib.import_module("cuda.bindings.runtime"))
    for path in _library_paths():
        try:
            yield path, LoadedCudart(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue  # not there, or older than CUDA 12


def _library_paths() -> Iterator[str]:
    names = [f"libcudart.so.{major}" for major in _MAJORS]
    yield from names  # where the loader looks by itself
    yield from (f"{_TOOLKIT}/{name}" for name in names)
    for wheel in _WHEELS:
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (str(file.locate()) for file in files if file.name in names)


def problem() -> str | None:
    """Return why no CUDA runtime works here, with the fix, or None."""
    try:
        open_cudart()
    except DeviceError as error:
        return first_line(error, limit=1000)
    return None
