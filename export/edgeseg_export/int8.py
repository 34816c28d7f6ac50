"""INT8 for CPUs: ONNX Runtime's static quantiser, calibrated on real images.

Activations stay 8-bit from the first convolution to the last but one. The head stays float,
because the class map compares its logits and 8-bit logits tie. Transposed convolutions stay
float, because ONNX Runtime has no 8-bit kernel for them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edgeseg.errors import InputError
from edgeseg.manifest import Calibration
from edgeseg_export.graph import INPUT, checked_bytes, quiet

QUANTISED_OPS = ("Concat", "Conv", "DepthToSpace", "MaxPool", "Relu")


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type hints
    """Feeds calibration images one by one."""

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[np.newaxis]}


def quantise_for_cpu(model: bytes, images: Sequence[NDArray[np.uint8]]) -> bytes:
    """Quantise an exported graph: uint8 activations, int8 weights per channel, Q/DQ nodes.

    Args:
        model: what ``edgeseg_export.graph.to_onnx`` returned.
        images: preprocessed calibration images, each uint8 (H, W, 3).

    Returns:
        The quantised ONNX file; the same inputs give the same bytes.

    Raises:
        InputError: no images, or images without any contrast.
    """
    if not images:
        raise InputError("calibration needs at least one image")
    if all(image.min() == image.max() for image in images):
        raise InputError("all calibration images are of one colour; use real images")
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantize_static(
            source,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED_OPS),
            nodes_to_exclude=[_head(onnx.load_from_string(model))],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(target)
    return checked_bytes(quantised)


def describe_calibration(
    source: str, names: Sequence[str], images: Sequence[NDArray[np.uint8]]
) -> Calibration:
    """Return the manifest's record of a calibration: its hash covers names and pixels in order."""
    digest = hashlib.sha256()
    for name, image in zip(names, images, strict=True):
        digest.update(f"{name}\0{image.shape}\0".encode())
        digest.update(image.tobytes())
    return Calibration(
        source=source, images=len(images), method="minmax", list_sha256=digest.hexdigest()
    )


def _head(model: onnx.ModelProto) -> str:
    """Return the name of the last convolution."""
    return str(next(n.name for n in reversed(model.graph.node) if n.op_type == "Conv"))
