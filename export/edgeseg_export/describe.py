"""What the manifest says of an exported model."""

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
from edgeseg_export.graph.torch_export import tensor_specs
from edgeseg_export.options import Options, Size
from edgeseg_export.precision.variants import Kind
from edgeseg_train.run_folder import RunConfig
from edgeseg_train.unet import SegmentationNetwork, count_parameters


def manifest_of(
    config: RunConfig,
    network: SegmentationNetwork,
    weights_sha256: str,
    preprocessing: Preprocessing,
    options: Options,
    sizes: tuple[Size, ...],
    variants: dict[str, Variant],
    files: Mapping[str, bytes],
) -> Manifest:
    """Return the manifest.

    Args:
        config: the run's.
        network: the trained network.
        weights_sha256: hash of the run's weights.
        preprocessing: with the exported size.
        options: what was exported.
        sizes: every size that was measured, the bundle's own first.
        variants: measured, by name.
        files: every file of the bundle but the manifest.
    """
    image, outputs = tensor_specs(
        *sizes[0],
        config.model.num_classes,
        output=options.output,
        dynamic_size=options.free_size,
    )
    return Manifest(
        schema_version=2,
        model=ModelInfo(
            name="unet",
            weights_sha256=weights_sha256,
            parameters=count_parameters(network.unet),
            gflops=count_gflops(network, sizes[0]),
            size_multiple=config.model.size_multiple,
            config=config.model.model_dump(mode="json"),
        ),
        labels=config.labels,
        preprocessing=preprocessing,
        dynamic_size=options.dynamic_size,
        sizes=sizes,
        input=image,
        outputs=outputs,
        variants=variants,
        files={
            name: FileEntry(sha256=sha256_bytes(data), bytes=len(data))
            for name, data in files.items()
        },
        toolchain=_toolchain(),
    )


def describe_variant(
    kind: Kind,
    model: bytes,
    calibration: Calibration | None,
    float_layers: tuple[str, ...],
    parity: Parity,
    parity_at: dict[str, Parity],
) -> Variant:
    """Return a variant's entry; ``parity_at`` holds the bundle's other sizes."""
    opsets = {entry.domain: entry.version for entry in onnx.load_from_string(model).opset_import}
    return Variant(
        file=kind.file,
        precision=kind.precision,
        target=kind.target,
        opset=opsets[""],
        calibration=calibration,
        float_layers=float_layers,
        parity=parity,
        parity_at=parity_at,
    )


def count_gflops(network: SegmentationNetwork, size: tuple[int, int]) -> float:
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
