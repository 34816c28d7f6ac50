"""Bundles on OpenVINO itself, for Intel and AMD CPUs: the same ONNX files.

    pip install "edgeseg[openvino]"
    edgeseg run bundles/street photo.jpg --backend openvino

OpenVINO computes in the precision that the file says. By itself it would round to bf16 where the
CPU has that: 0.6 % of the pixels of a small fp32 model changed.

Which of OpenVINO and ONNX Runtime is faster depends on model and machine: ``edgeseg bench``.

A process that uses OpenVINO should not train with PyTorch as well: that crashed (OpenVINO 2026.4
with torch 2.15).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, first_line, needs_extra, show
from edgeseg.manifest import TensorSpec
from edgeseg.sessions.base import BundleSession, check_tensors
from edgeseg.sessions.protocol import Settings

EXTRA = "openvino"


def problem(backend: str) -> str | None:
    """Return why OpenVINO cannot work here, with the fix, or None when nothing is known."""
    if find_spec("openvino") is None:  # importing it only to look would take 0.3 s
        return f'the package openvino is not installed; run: pip install "edgeseg[{EXTRA}]"'
    return None


def unready(bundle: Bundle, backend: str, variant: str) -> str | None:
    """Return None: OpenVINO needs nothing but the ONNX file."""
    return None


def open_session(bundle: Bundle, backend: str, variant: str, settings: Settings) -> OpenVinoSession:
    """Open a session; errors as ``OpenVinoSession``."""
    return OpenVinoSession(bundle, backend, variant, settings)


class OpenVinoSession(BundleSession):
    """One ONNX file, compiled by OpenVINO for this CPU.

    Threads may call it at the same time; each call in progress has an infer request of its own.
    """

    def __init__(self, bundle: Bundle, backend: str, variant: str, settings: Settings) -> None:
        """Compile the variant.

        Raises:
            DeviceError: OpenVINO is not installed, or has no CPU plugin here.
            ArtifactError: the file is corrupt or unsupported.
        """
        if reason := problem(backend):
            raise DeviceError(f"backend {backend} does not work here: {reason}")
        name = f"{bundle.path}:{variant}"
        model = bundle.read(bundle.variant(variant).file)
        compiled = _compile(_import(), model, name, settings)
        check_tensors(_tensors(compiled), bundle.manifest, name)
        super().__init__(bundle, backend, variant, _Requests(compiled))

    def _run(self, native: _Requests, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        return native.run(images, self._bundle.manifest.input.name, spec.name)


class _Requests:
    """Infer requests, made when all are in use; one that failed is not used again."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []

    def run(self, images: NDArray[np.uint8], name: str, output: str) -> NDArray[Any]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        # Shared: read from ``images`` itself, and only the one output is copied.
        results = request.infer({name: images}, share_inputs=True, share_outputs=True)
        found: NDArray[Any] = np.array(results[output])
        del results
        self._idle.append(request)
        return found


def _import() -> Any:
    """Return the package, without its telemetry, which would count imports in a file at home."""
    telemetry = "openvino_telemetry"
    known = sys.modules.get(telemetry)
    sys.modules[telemetry] = None  # type: ignore[assignment] # the documented way to block an import
    try:
        with needs_extra(EXTRA):
            return import_module("openvino")
    finally:
        del sys.modules[telemetry]
        if known:
            sys.modules[telemetry] = known


def _compile(openvino: Any, model: bytes, name: str, settings: Settings) -> Any:
    try:
        core = openvino.Core()
        if "CPU" not in core.available_devices:
            raise DeviceError(f"OpenVINO {openvino.__version__} has no plugin for this CPU")
        return core.compile_model(
            core.read_model(model),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": settings.threads or cpu_threads(),
            },
        )
    except RuntimeError as error:
        raise ArtifactError(
            f"OpenVINO {openvino.__version__} cannot load {show(name)}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line that says something; the lines before say where in its source."""
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    return first_line(RuntimeError("\n".join(lines)))


def _tensors(compiled: Any) -> list[tuple[str, str, int]]:
    return [
        (name, str(port.element_type.to_dtype()), len(port.partial_shape))
        for port in [*compiled.inputs, *compiled.outputs]
        for name in port.names
    ]
