"""What each execution provider is told, for one variant of a bundle.

None of the GPU's providers has run here: their options' names were compared with the strings in
NVIDIA's and Microsoft's libraries (onnxruntime-gpu 1.31.1, TensorRT-RTX plugin 0.5.0), their
values with the documentation only.
"""

from __future__ import annotations

import ctypes
import io
import json
from contextlib import redirect_stdout
from importlib import metadata
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.manifest import Precision
from edgeseg.sessions.ort.creation import Provider
from edgeseg.sessions.ort.engines import engine_folder
from edgeseg.sessions.ort.library import PLUGINS, PROVIDERS
from edgeseg.sessions.ort.plugins import find_devices
from edgeseg.sessions.protocol import Settings

# The provider builds weakly typed engines: without these an fp16 graph would run in fp32.
_TENSORRT_FLAGS: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("trt_fp16_enable",),
    "bf16": ("trt_bf16_enable",),
    "int8": ("trt_int8_enable", "trt_fp16_enable"),
    "fp8": ("trt_fp16_enable",),
}


def provider_for(
    onnxruntime: Any, bundle: Bundle, backend: str, variant: str, settings: Settings
) -> Provider:
    """Return the provider of a backend, set up for a variant.

    Raises:
        DeviceError: a plugin cannot be loaded, or finds no device here.
        ArtifactError, ResourceError: see ``engine_folder``.
    """
    name = PROVIDERS[backend]
    devices = tuple(find_devices(onnxruntime, backend)) if backend in PLUGINS else ()
    if backend == "ort:cuda":
        _preload(onnxruntime)
        precision = bundle.variant(variant).precision
        return Provider(name, cuda_options(precision, graphs=not settings.allow_fallback))
    if backend == "ort:tensorrt":
        _preload(onnxruntime)
        return Provider(name, _tensorrt_options(onnxruntime, bundle, variant, settings))
    if backend == "ort:tensorrt-rtx":
        return Provider(name, _rtx_options(onnxruntime, bundle, variant, settings), devices)
    if backend == "ort:openvino":
        return Provider(name, openvino_options(settings), devices)
    return Provider(name)


def _preload(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN where pip put them, which is not on the loader's path."""
    with redirect_stdout(io.StringIO()):  # it prints; what is missing the provider's error says
        onnxruntime.preload_dlls()


def cuda_options(precision: Precision, *, graphs: bool) -> dict[str, str]:
    """Return the options for convolutional networks of one size.

    TF32 is off: it cuts the mantissa of float32 to 10 bits, and agreement with PyTorch is
    promised. Algorithms are measured, once per shape, as a shape runs many times. Tensor cores
    want fp16 with the channels last. A CUDA graph saves the launches of all kernels.
    """
    return {
        "device_id": "0",  # CUDA_VISIBLE_DEVICES chooses
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "1" if precision == "fp16" else "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def openvino_options(settings: Settings) -> dict[str, str]:
    """Return OpenVINO's configuration, as the one option that its plugin does not ignore.

    Without the precision OpenVINO rounds to bf16 where the CPU has that, which moved 0.6 % of the
    pixels of a small fp32 model.
    """
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(settings.threads or cpu_threads()),
    }
    return {"load_config": json.dumps({"CPU": config})}


def _tensorrt_options(
    onnxruntime: Any, bundle: Bundle, variant: str, settings: Settings
) -> dict[str, str]:
    profiles = _profiles("trt", bundle, settings)
    flags = dict.fromkeys(_TENSORRT_FLAGS[bundle.variant(variant).precision], "1")
    version = ctypes.CDLL("libnvinfer.so.10").getInferLibVersion()
    key = _key(onnxruntime, bundle, variant) | flags | profiles | {"tensorrt": str(version)}
    folder = str(engine_folder(key))
    return {
        "device_id": "0",
        **profiles,
        **flags,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def _rtx_options(
    onnxruntime: Any, bundle: Bundle, variant: str, settings: Settings
) -> dict[str, str]:
    profiles = _profiles("nv", bundle, settings)
    plugin = metadata.version("onnxruntime-ep-nv-tensorrt-rtx-cu13")
    key = _key(onnxruntime, bundle, variant) | profiles | {"plugin": plugin}
    return {**profiles, "nv_runtime_cache_path": str(engine_folder(key))}


def _key(onnxruntime: Any, bundle: Bundle, variant: str) -> dict[str, str]:
    file = bundle.manifest.files[bundle.variant(variant).file]
    return {"onnx_sha256": file.sha256, "onnxruntime": onnxruntime.__version__}


def _profiles(prefix: str, bundle: Bundle, settings: Settings) -> dict[str, str]:
    """Return the shapes that an engine is for: the size of the settings, 1 to ``batch`` images."""
    height, width = settings.size or bundle.manifest.sizes[0]
    name = bundle.manifest.input.name
    shapes = {"min": 1, "opt": settings.batch, "max": settings.batch}
    return {
        f"{prefix}_profile_{which}_shapes": f"{name}:{number}x{height}x{width}x3"
        for which, number in shapes.items()
    }
