"""ONNX Runtime itself: importing it, and what each of its backends needs on this machine."""

from __future__ import annotations

import ctypes
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from edgeseg.engines.device import open_driver
from edgeseg.errors import DeviceError, first_line

PROVIDERS = {
    "ort:cpu": "CPUExecutionProvider",
    "ort:cuda": "CUDAExecutionProvider",
    "ort:tensorrt": "TensorrtExecutionProvider",
    "ort:tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "ort:openvino": "OpenVINOExecutionProvider",
}
CPU = PROVIDERS["ort:cpu"]
# Providers that come as packages of their own and plug into any ONNX Runtime.
PLUGINS = {
    "ort:tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx",
    "ort:openvino": "onnxruntime_ep_openvino",
}
_EXTRAS = {"ort:cpu": "cpu", "ort:tensorrt-rtx": "tensorrt-rtx", "ort:openvino": "openvino"}
_NEEDS_GPU = ("ort:cuda", "ort:tensorrt", "ort:tensorrt-rtx")
# ONNX Runtime's TensorRT provider is linked against this major version, whatever is newest.
_TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")


def import_onnxruntime(extra: str = "cpu") -> Any:
    """Return the package; ``extra`` is named in the message if it is not there.

    Raises:
        DeviceError: it is missing or damaged.
    """
    install = f'pip install "edgeseg[{extra}]"'
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({first_line(error)}); run: {install}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # an empty folder is importable, too
        raise DeviceError(
            "onnxruntime is damaged, as after uninstalling one of onnxruntime and onnxruntime-gpu; "
            f"uninstall both, then: {install}"
        )
    return onnxruntime


def problem(backend: str) -> str | None:
    """Return why a backend cannot work here, with the fix, or None when nothing is known."""
    extra = _EXTRAS.get(backend, "gpu")
    try:
        onnxruntime = import_onnxruntime(extra)
    except DeviceError as error:
        return str(error)
    missing = _missing_plugin if backend in PLUGINS else _missing_provider
    if reason := missing(onnxruntime, backend):
        return reason
    if backend in _NEEDS_GPU and open_driver() is None:
        return (
            "no usable NVIDIA GPU here; check nvidia-smi and CUDA_VISIBLE_DEVICES "
            "(in a container: start it with --gpus all)"
        )
    return _missing_tensorrt() if backend == "ort:tensorrt" else None


def _missing_provider(onnxruntime: Any, backend: str) -> str | None:
    if PROVIDERS[backend] in onnxruntime.get_available_providers():
        return None
    return (
        f"onnxruntime {onnxruntime.__version__} here has no {PROVIDERS[backend]}; uninstall "
        'onnxruntime, then: pip install "edgeseg[gpu]" (on Jetson, the wheel for your JetPack)'
    )


def _missing_plugin(onnxruntime: Any, backend: str) -> str | None:
    package, install = PLUGINS[backend], f'pip install "edgeseg[{_EXTRAS[backend]}]"'
    if find_spec(package) is None:
        return f"the package {package} is not installed; run: {install}"
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return (
            f"onnxruntime {onnxruntime.__version__} here takes no plugins; expected 1.23 or newer; "
            f"run: {install}"
        )
    return None


def _missing_tensorrt() -> str | None:
    """Load the provider's TensorRT, which nothing else does; return why that failed, or None."""
    for name in _TENSORRT:
        try:
            ctypes.CDLL(_installed(name) or name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return (
                f"ONNX Runtime's TensorRT provider needs TensorRT 10 ({first_line(error)}); "
                'run: pip install "tensorrt-cu13-libs==10.*" (-cu12- for CUDA 12), or use '
                "--backend tensorrt"
            )
    return None


def _installed(library: str) -> str | None:
    """Return where pip put a library of TensorRT's wheels, which is not on the loader's path."""
    for package in ("tensorrt_cu13_libs", "tensorrt_cu12_libs"):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == library:
                return str(file.locate())
    return None
