"""What the manifest says of an exported model, before its variants are measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

import edgeseg
from edgeseg.files import sha256_bytes
from edgeseg.manifest import Calibration, FileEntry, Manifest, ModelInfo, Parity, Variant
from edgeseg.preprocess import Preprocessing
from edgeseg_export.graph import OutputKind, tensor_specs
from edgeseg_train.run_folder import RunConfig
from edgeseg_train.unet import SegmentationNetwork, count_parameters

FP32, INT8_CPU = "fp32", "int8-cpu"


def draft_manifest(
    config: RunConfig,
    network: SegmentationNetwork,
    weights_sha256: str,
    preprocessing: Preprocessing,
    output: OutputKind,
    dynamic_size: bool,
    calibrations: Mapping[str, Calibration | None],
    files: Mapping[str, bytes],
) -> Manifest:
    """Return the manifest with placeholders for parity, which is measured on the opened bundle.

    Args:
        config: the run's.
        network: the trained network.
        weights_sha256: hash of the run's weights.
        preprocessing: with the exported size.
        output: what the graph returns.
        dynamic_size: whether height and width stay free.
        calibrations: per variant, how it was calibrated.
        files: every file of the bundle but the manifest.
    """
    size = (preprocessing.height, preprocessing.width)
    image, outputs = tensor_specs(
        *size,
        config.model.num_classes,
        output=output,
        dynamic_size=dynamic_size,
    )
    return Manifest(
        schema_version=1,
        model=ModelInfo(
            name="unet",
            weights_sha256=weights_sha256,
            parameters=count_parameters(network.unet),
            gflops=_gflops(network, size),
            size_multiple=config.model.size_multiple,
            config=config.model.model_dump(mode="json"),
        ),
        labels=config.labels,
        preprocessing=preprocessing,
        dynamic_size=dynamic_size,
        input=image,
        outputs=outputs,
        variants={
            name: _variant(name, files[f"model.{name}.onnx"], calibration)
            for name, calibration in calibrations.items()
        },
        files={
            name: FileEntry(sha256=sha256_bytes(data), bytes=len(data))
            for name, data in files.items()
        },
        toolchain=_toolchain(),
    )


_UNMEASURED = Parity(
    images=1,
    agreement=0,
    reference_agreement=0,
    min_agreement=0,
    max_flip_margin=0,
    torch_miou=0,
    miou=0,
    max_miou_drop=0,
)


def _variant(name: str, model: bytes, calibration: Calibration | None) -> Variant:
    opsets = {entry.domain: entry.version for entry in onnx.load_from_string(model).opset_import}
    return Variant(
        file=f"model.{name}.onnx",
        precision="fp32" if name == FP32 else "int8",
        target="any" if name == FP32 else "cpu",
        opset=opsets[""],
        calibration=calibration,
        parity=_UNMEASURED,
    )


def _gflops(network: SegmentationNetwork, size: tuple[int, int]) -> float:
    """Count 2 operations per multiply-add of one forward pass at ``size``."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros((1, *size, 3), dtype=torch.uint8))
    return float(round(counter.get_total_flops() / 1e9, 4))


def _toolchain() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxruntime", "onnxslim")
    return {
        "edgeseg": edgeseg.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
