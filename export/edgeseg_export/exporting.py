"""Export: run folder in, proven bundle out. ``edgeseg export`` is a thin layer above.

The bundle is assembled beside its target, opened like any other, and each variant is
measured against PyTorch. What fails a gate is left as ``NAME.rejected``; the old bundle stays.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle, Reference
from edgeseg.errors import GateFailed, InputError, UsageError, show
from edgeseg.files import atomic_write, refuse_existing, replace_folder, staged_folder
from edgeseg.manifest import MANIFEST, REFERENCE, Calibration, Manifest, write_manifest_bytes
from edgeseg.preprocess import Preprocessing, resize_image
from edgeseg.sessions import open_session
from edgeseg_export.describe import FP32, INT8_CPU, draft_manifest
from edgeseg_export.graph import OutputKind, to_onnx
from edgeseg_export.int8 import describe_calibration, quantise_for_cpu
from edgeseg_export.parity import DEFAULT_GATES, Evaluation, Gates, evaluate_torch, measure
from edgeseg_train.data import DataSource, Split, drawn, open_source
from edgeseg_train.run_folder import RunConfig, load_network, read_config, weights_sha256
from edgeseg_train.unet import SegmentationNetwork

PARITY_IMAGES = 64  # of the validation images, measured against PyTorch

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
        min_agreement, max_miou_drop: gates, 0..1; they can tighten fp32's, not loosen them.
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
    rejected = out.with_name(f"{out.name}.rejected")
    with staged_folder(out, MANIFEST, force=force) as folder:
        refuse_existing(rejected, MANIFEST, force=True)
        manifest = _assemble(run, folder, options, tell)
        if failures := manifest.failures:
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
        calibrations[INT8_CPU] = describe_calibration(_public_name(source.spec), names, images)
    evaluation = _evaluation(network, source, size)
    files[REFERENCE] = _reference_bytes(evaluation.shipped)
    for name, data in files.items():
        atomic_write(folder / name, data)
    draft = draft_manifest(
        config,
        network,
        weights_sha256(run),
        preprocessing,
        options.output,
        options.dynamic_size,
        calibrations,
        files,
    )
    manifest = _measured(folder, draft, evaluation, options, tell)
    atomic_write(folder / MANIFEST, write_manifest_bytes(manifest))
    return manifest


def _public_name(spec: str) -> str:
    """Return a data set's name without the folders above it: bundles travel."""
    kind, separator, rest = spec.partition(":")
    return f"{kind}{separator}{Path(rest).name}" if separator else kind


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
    """Return names and preprocessed images of up to ``count`` samples."""
    indices = drawn(len(split.names), count)
    return [split.names[i] for i in indices], [resize_image(split.image(i), *size) for i in indices]


def _evaluation(
    network: SegmentationNetwork, source: DataSource, size: tuple[int, int]
) -> Evaluation:
    split = source.split("val")
    _, images = _pick(split, size, PARITY_IMAGES)
    truths = [split.mask(i) for i in drawn(len(split.names), PARITY_IMAGES)]
    return evaluate_torch(network, np.stack(images), truths)


def _reference_bytes(reference: Reference) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=reference.images,
        class_maps=reference.class_maps,
        margins=reference.margins,
    )
    return buffer.getvalue()


def _gates(precision: Precision, options: Options) -> Gates:
    gates = DEFAULT_GATES[precision]
    agreement, drop = options.min_agreement, options.max_miou_drop
    agreement = gates.min_agreement if agreement is None else agreement
    drop = gates.max_miou_drop if drop is None else drop
    if precision == "fp32":  # the same arithmetic in another runtime: nothing excuses a loss
        return Gates(max(agreement, gates.min_agreement), min(drop, gates.max_miou_drop))
    return Gates(agreement, drop)


def _measured(
    folder: Path,
    draft: Manifest,
    evaluation: Evaluation,
    options: Options,
    tell: Callable[[str], None],
) -> Manifest:
    variants = {}
    for name, variant in draft.variants.items():
        gates = _gates(variant.precision, options)
        session = open_session(Bundle(folder, draft), "ort:cpu", name)
        parity = measure(evaluation, session, gates)
        session.close()
        tell(f"{name}: {parity.agreement:.4%} of pixels as PyTorch on {parity.images} images")
        variants[name] = variant.model_copy(update={"parity": parity})
    return draft.model_copy(update={"variants": variants})
