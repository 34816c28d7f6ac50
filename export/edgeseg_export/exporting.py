"""Export: run folder in, proven bundle out. ``edgeseg export`` is a thin layer above.

The bundle is assembled beside its target, opened like any other, and each variant is
measured against PyTorch. What fails a gate is left as ``NAME.rejected``; the old bundle stays.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

import edgeseg
from edgeseg.bundle import (
    MANIFEST,
    REFERENCE,
    Bundle,
    Calibration,
    FileEntry,
    Manifest,
    ModelInfo,
    Parity,
    Reference,
    Variant,
    write_manifest_bytes,
)
from edgeseg.errors import GateFailed, InputError, UsageError, show
from edgeseg.files import atomic_write, replace_folder, sha256_bytes, staged_folder
from edgeseg.preprocess import Preprocessing, resize_image
from edgeseg.sessions import open_session
from edgeseg_export.graph import OutputKind, tensor_specs, to_onnx
from edgeseg_export.int8 import describe_calibration, quantise_for_cpu
from edgeseg_export.parity import DEFAULT_GATES, Evaluation, Gates, evaluate_torch, measure
from edgeseg_train.data import DataSource, Split, open_source
from edgeseg_train.run_folder import RunConfig, load_network, read_config
from edgeseg_train.unet import SegmentationNetwork, count_parameters

PARITY_IMAGES = 64  # measured against PyTorch, evenly spaced over the validation images
REFERENCE_IMAGES = 8  # of these, shipped in the bundle
FP32, INT8_CPU = "fp32", "int8-cpu"

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Options:
    """What to export; None takes the run's own value or the default gate.

    Attributes:
        precisions: fp32 is always made, because the others derive from it.
        size: (height, width) of the network's input.
        dynamic_size: leave height and width free, in multiples of ``2 ** depth``.
        output: what the graph returns.
        calibration: data set for calibration (train images) and parity (val images).
        calibration_images: how many train images calibrate.
        min_agreement, max_miou_drop: gates for all variants, 0..1.
    """

    precisions: tuple[Precision, ...] = ("fp32", "int8")
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    output: OutputKind = "classmap"
    calibration: str | None = None
    calibration_images: int = 100
    min_agreement: float | None = None
    max_miou_drop: float | None = None


def export(
    run: Path,
    out: Path,
    options: Options | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Export a run folder.

    Args:
        run: what ``edgeseg train`` wrote.
        out: the bundle to write.
        options: what to export.
        force: replace an existing bundle.
        tell: called with a line about each step.

    Raises:
        UsageError: ``out`` exists, or options that do not fit the model.
        ArtifactError: the run folder is corrupt, or the graph cannot be exported.
        InputError: the data cannot be used.
        GateFailed: a variant is too far from PyTorch; the bundle is at ``NAME.rejected``.
    """
    options = options or Options()
    with staged_folder(out, MANIFEST, force=force) as folder:
        manifest = _assemble(run, folder, options, tell)
        failures = [
            f"{name}: {failure}"
            for name, variant in manifest.variants.items()
            for failure in variant.parity.failures
        ]
        if failures:
            rejected = out.with_name(f"{out.name}.rejected")
            replace_folder(folder, rejected)
            raise GateFailed(f"{'; '.join(failures)}; the bundle was left as {show(rejected)}")
    return manifest


def _assemble(run: Path, folder: Path, options: Options, tell: Callable[[str], None]) -> Manifest:
    config = read_config(run)
    network = load_network(run, config)
    preprocessing = _preprocessing(config, options)
    source = _source(config, options)
    tell(f"exporting {run.name} at {preprocessing.height}x{preprocessing.width}")
    size = (preprocessing.height, preprocessing.width)
    master = to_onnx(network, *size, output=options.output, dynamic_size=options.dynamic_size)
    files = {"model.fp32.onnx": master}
    calibrations: dict[str, Calibration | None] = {FP32: None}
    if "int8" in options.precisions:
        tell(f"calibrating int8 on up to {options.calibration_images} images of {source.spec}")
        names, images = _pick(source.split("train"), size, options.calibration_images)
        files["model.int8-cpu.onnx"] = quantise_for_cpu(master, images)
        calibrations[INT8_CPU] = describe_calibration(source.spec, names, images)
    evaluation = _evaluation(network, source, size)
    files[REFERENCE] = _reference_bytes(evaluation.reference)
    for name, data in files.items():
        atomic_write(folder / name, data)
    draft = _manifest(config, network, preprocessing, options, calibrations, files)
    manifest = _measured(folder, draft, evaluation, options, tell)
    atomic_write(folder / MANIFEST, write_manifest_bytes(manifest))
    return manifest


def _preprocessing(config: RunConfig, options: Options) -> Preprocessing:
    own = config.preprocessing
    height, width = options.size or (own.height, own.width)
    multiple = config.model.size_multiple
    if options.dynamic_size and (height % multiple or width % multiple):
        raise UsageError(
            f"with a dynamic size, {height}x{width} must be multiples of {multiple} on both sides"
        )
    return own.model_copy(update={"height": height, "width": width})


def _source(config: RunConfig, options: Options) -> DataSource:
    spec = options.calibration or config.data.spec
    try:
        source = open_source(spec)
    except InputError as error:
        hint = "" if options.calibration else "; give the data set with --calibration"
        raise InputError(f"{error}{hint}") from error
    if source.labels.names != config.labels.names:
        raise InputError(f"data {show(spec)} has other classes than the run was trained on")
    return source


def _pick(
    split: Split, size: tuple[int, int], count: int
) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Return names and preprocessed images of up to ``count`` samples, evenly spaced."""
    indices = _spread(len(split.names), count)
    return [split.names[i] for i in indices], [resize_image(split.image(i), *size) for i in indices]


def _spread(total: int, count: int) -> list[int]:
    count = min(total, count)
    return [i * total // count for i in range(count)]


def _evaluation(
    network: SegmentationNetwork, source: DataSource, size: tuple[int, int]
) -> Evaluation:
    split = source.split("val")
    _, images = _pick(split, size, PARITY_IMAGES)
    truths = [split.mask(i) for i in _spread(len(split.names), PARITY_IMAGES)]
    return evaluate_torch(network, np.stack(images), truths)


def _reference_bytes(reference: Reference) -> bytes:
    chosen = _spread(len(reference.images), REFERENCE_IMAGES)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=reference.images[chosen],
        class_maps=reference.class_maps[chosen],
        margins=reference.margins[chosen],
    )
    return buffer.getvalue()


def _manifest(
    config: RunConfig,
    network: SegmentationNetwork,
    preprocessing: Preprocessing,
    options: Options,
    calibrations: dict[str, Calibration | None],
    files: dict[str, bytes],
) -> Manifest:
    """Return the manifest with placeholders for parity, which is measured on the opened bundle."""
    size = (preprocessing.height, preprocessing.width)
    image, outputs = tensor_specs(
        *size,
        config.model.num_classes,
        output=options.output,
        dynamic_size=options.dynamic_size,
    )
    return Manifest(
        schema_version=1,
        model=ModelInfo(
            name="unet",
            parameters=count_parameters(network.unet),
            gflops=_gflops(network, size),
            size_multiple=config.model.size_multiple,
            config=config.model.model_dump(mode="json"),
        ),
        labels=config.labels,
        preprocessing=preprocessing,
        dynamic_size=options.dynamic_size,
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


def _measured(
    folder: Path,
    draft: Manifest,
    evaluation: Evaluation,
    options: Options,
    tell: Callable[[str], None],
) -> Manifest:
    variants = {}
    for name, variant in draft.variants.items():
        default = DEFAULT_GATES[variant.precision]
        gates = Gates(
            default.min_agreement if options.min_agreement is None else options.min_agreement,
            default.max_miou_drop if options.max_miou_drop is None else options.max_miou_drop,
        )
        session = open_session(Bundle(folder, draft), "ort:cpu", name)
        parity = measure(evaluation, session, gates)
        session.close()
        tell(f"{name}: {parity.agreement:.4%} of pixels as PyTorch on {parity.images} images")
        variants[name] = variant.model_copy(update={"parity": parity})
    return draft.model_copy(update={"variants": variants})


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
