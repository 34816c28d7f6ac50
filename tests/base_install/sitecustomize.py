"""Hide every optional package, as on a device with only the base install and ONNX Runtime.

    PYTHONPATH=tests/base_install pytest tests/runtime

Python imports ``sitecustomize`` when it starts, so that child processes have no more, either. A
module that is None in ``sys.modules`` cannot be imported, and ``find_spec`` does not find it.
"""

import sys

HIDDEN = (
    "av",
    "cuda",
    "cv2",
    "datasets",
    "fsspec",
    "lightning",
    "matplotlib",
    "multipart",
    "onnx",
    "onnxruntime_ep_nv_tensorrt_rtx",
    "onnxruntime_ep_openvino",
    "openvino",
    "pandas",
    "prometheus_client",
    "pyarrow",
    "pycocotools",
    "python_multipart",
    "rasterio",
    "ray",
    "safetensors",
    "scipy",
    "selenium",
    "shapely",
    "starlette",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "torch",
    "torchvision",
    "tritonclient",
    "uvicorn",
)

for name in HIDDEN:
    sys.modules[name] = None  # type: ignore[assignment]
