"""Export: run folder in, proven bundle out. ``edgeseg export`` is a thin layer above.

Every variant is made, measured against PyTorch on real images and, when quantisation costs too
much, mended layer by layer. The bundle is assembled beside its target and opened like any other
before it gets its name; what fails a gate is left as ``NAME.rejected``, the old bundle stays.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeseg.bundle import Bundle, Reference
from edgeseg.errors import GateFailed, show
from edgeseg.files import atomic_write, refuse_existing, replace_folder, staged_folder
from edgeseg.manifest import (
    MANIFEST,
    REFERENCE,
    Calibration,
    Manifest,
    Parity,
    Variant,
    write_manifest_bytes,
)
from edgeseg.sessions import open_session
from edgeseg.verify import verify
from edgeseg_export import material
from edgeseg_export.describe import count_gflops, describe_variant, manifest_of
from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_export.options import Options, Size
from edgeseg_export.parity.evaluation import Evaluation
from edgeseg_export.parity.judge import OrtJudge
from edgeseg_export.parity.measure import measure
from edgeseg_export.precision.budget import fit
from edgeseg_export.precision.calibration import Ranges, observe
from edgeseg_export.precision.sensitivity import (
    PREFIX,
    Sensitivity,
    measure_sensitivity,
    picture,
)
from edgeseg_export.precision.variants import Kind, make, quantised_layers, selected
from edgeseg_train.run_folder import load_network, read_config, weights_sha256

Tell = Callable[[str], None]

WORST = 3  # classes named in the message of a missed gate


def export(
    run: Path,
    out: Path,
    options: Options | None = None,
    *,
    force: bool = False,
    tell: Tell = lambda text: None,
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
            causes = [*failures, *_hints(manifest)]
            raise GateFailed(f"{'; '.join(causes)}; the bundle was left as {show(rejected)}")
    return manifest


@dataclass
class _Workshop:
    """What all variants are made from and judged by."""

    master: bytes
    ranges: Ranges
    calibration: Calibration | None
    evaluations: dict[Size, Evaluation]
    options: Options
    tell: Tell
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation at the bundle's own size."""
        return next(iter(self.evaluations.values()))

    def build(self, kind: Kind) -> Variant:
        """Make and measure one variant; its files are added to ``files``."""
        made = b""

        def attempt(float_layers: Collection[str]) -> Parity:
            nonlocal made
            made = make(kind, self.master, self.ranges, float_layers)
            return self._measure(kind, made, self.evaluation)

        float_layers: tuple[str, ...] = ()
        if kind.recipe is None:
            parity = attempt(())
        else:
            found = fit(
                attempt,
                lambda: self._rank(kind),
                lambda text: self.tell(f"{kind.name}: {text}"),
                always_rank=self.options.sensitivity,
            )
            parity, float_layers = found.parity, found.float_layers
            self._keep(found.ranking)
            made = make(kind, self.master, self.ranges, float_layers)
        self.files[kind.file] = made
        self.tell(_line(kind, parity))
        _, *others = self.evaluations
        return describe_variant(
            kind,
            made,
            self.calibration if kind.recipe else None,
            float_layers,
            parity,
            {
                f"{height}x{width}": self._measure(kind, made, self.evaluations[height, width])
                for height, width in others
            },
        )

    def _measure(self, kind: Kind, model: bytes, evaluation: Evaluation) -> Parity:
        gates = self.options.gates(kind.precision)
        return measure(evaluation, OrtJudge(kind, model), gates)

    def _rank(self, kind: Kind) -> Sensitivity:
        return measure_sensitivity(
            kind.name,
            quantised_layers(kind, self.master),
            lambda layers: OrtJudge(kind, make(kind, self.master, self.ranges, layers)),
            self.evaluation,
            self.tell,
        )

    def _keep(self, ranking: Sensitivity | None) -> None:
        if ranking is not None:
            stem = f"{PREFIX}{ranking.variant}"
            self.files[f"{stem}.json"] = (ranking.model_dump_json(indent=2) + "\n").encode()
            self.files[f"{stem}.png"] = picture(ranking)


def _assemble(run: Path, folder: Path, options: Options, tell: Tell) -> Manifest:
    kinds = selected(options.precisions, options.target)
    config = read_config(run)
    network = load_network(run, config)
    preprocessing, sizes = options.preprocessing(config), options.all_sizes(config)
    source = material.open_data(config, options)
    judging = options.judging_images(count_gflops(network, sizes[0]))
    fits = {size: preprocessing.at(size) for size in sizes}
    images = {size: material.evaluation_images(source, judging, fits[size]) for size in sizes}
    quantised = any(kind.recipe for kind in kinds)
    calibration = (
        material.calibration_images(source, options, [*fits.values()]) if quantised else None
    )
    if calibration:
        calibration.check([image for stack in images.values() for image in stack])
    tell(_announcement(run, sizes, config.model.size_multiple, options))
    master = to_onnx(network, *sizes[0], output=options.output, dynamic_size=options.free_size)
    workshop = _Workshop(
        master,
        {},
        None,
        {size: material.evaluate(network, source, images[size], fits[size]) for size in sizes},
        options,
        tell,
    )
    if calibration:
        tell(
            f"calibrating on {len(calibration.images)} train images of {source.spec} "
            f"({options.calibration_method})"
        )
        workshop.calibration = calibration.describe(options.calibration_method)
        workshop.ranges = observe(master, calibration.images, options.calibration_method)
    variants = {kind.name: workshop.build(kind) for kind in kinds}
    files = {**workshop.files, REFERENCE: _reference_bytes(workshop.evaluation.shipped)}
    manifest = manifest_of(
        config, network, weights_sha256(run), preprocessing, options, sizes, variants, files
    )
    for name, data in files.items():
        atomic_write(folder / name, data)
    atomic_write(folder / MANIFEST, write_manifest_bytes(manifest))
    _open_again(folder, manifest)
    return manifest


def _open_again(folder: Path, manifest: Manifest) -> None:
    """Open the bundle as the runtime does and replay its reference on the CPU."""
    if manifest.failures:
        return
    bundle = Bundle.open(folder)
    for name, variant in manifest.variants.items():
        if variant.precision != "bf16":  # no kernels for it on CPUs
            session = open_session(bundle, "ort:cpu", name)
            verify(bundle, session)
            session.close()


def _announcement(run: Path, sizes: tuple[Size, ...], multiple: int, options: Options) -> str:
    text = f"exporting {run.name} at {', '.join(f'{h}x{w}' for h, w in sizes)}"
    height, width = sizes[0]
    if options.dynamic_size:
        return f"{text} and any other multiple of {multiple}"
    if height % multiple or width % multiple:
        padded = f"{height + -height % multiple}x{width + -width % multiple}"
        return f"{text}, padded inside to {padded} and cropped back"
    return text


def _line(kind: Kind, parity: Parity) -> str:
    verdict = f" MISSED: {'; '.join(parity.failures)}" if parity.failures else ""
    return (
        f"{kind.name}: {parity.agreement:.4%} of pixels as PyTorch on {parity.images} images, "
        f"mIoU {parity.miou:.4f} ({parity.miou - parity.torch_miou:+.4f}){verdict}"
    )


def _hints(manifest: Manifest) -> list[str]:
    """Say of each variant that missed a gate how far its logits are and which classes suffer."""
    hints = []
    for name, variant in manifest.variants.items():
        if not variant.failures:
            continue
        parity = variant.parity
        drops = sorted(
            (delta, label)
            for delta, label in zip(parity.class_iou_delta, manifest.labels.names, strict=True)
            if delta is not None and delta < 0
        )
        hint = f"{name}: logits differ by up to {parity.logits.max:.3g}"
        if drops:
            worst = ", ".join(f"{show(label)} {delta:+.4f}" for delta, label in drops[:WORST])
            hint += f", IoU fell most for {worst}"
        hints.append(hint)
    return hints


def _reference_bytes(reference: Reference) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=reference.images,
        class_maps=reference.class_maps,
        margins=reference.margins,
    )
    return buffer.getvalue()
