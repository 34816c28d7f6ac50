"""Benchmark a bundle: accuracy and latency side by side, PyTorch first."""

from __future__ import annotations

import datetime
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output
from edgeseg.errors import InputError, UsageError, show
from edgeseg.files import atomic_write, staged_folder
from edgeseg.segmenter import Segmenter
from edgeseg.sessions import CPU_BACKENDS, Session, choose, open_session, variants_for
from edgeseg_benchmarks.accuracy import Accuracy, measure_accuracy
from edgeseg_benchmarks.environment import Facts, software_facts, system_facts
from edgeseg_benchmarks.latency import (
    MODES,
    STAGES,
    ModeName,
    Samples,
    measure_latency,
    speed_up,
    summarise,
)
from edgeseg_benchmarks.report import (
    REPORT_JSON,
    REPORT_MD,
    SAMPLES,
    Model,
    Protocol,
    Report,
    Row,
    markdown,
)
from edgeseg_train.data import Split, drawn, open_source

TORCH, FP32 = "torch", "fp32"
LATENCY_PICTURES = 64
NOISY_COV_PCT = 25.0
NOISY_DRIFT_PCT = 10.0


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        bundle: the exported model.
        run: its run folder, for the PyTorch reference.
        data: data set; its val images are used.
        backends: in order; the first one is the reference of all comparisons.
        variants: of the bundle, each on every backend but torch; empty for all that fit.
        mode: how long to measure latency.
        images: how many val images to score, evenly spaced; None for all.
        max_miou_drop, min_agreement: gates against the reference, 0..1, or None.
        command: the command line, for the report.
    """

    bundle: Path
    run: Path | None
    data: str
    backends: tuple[str, ...]
    variants: tuple[str, ...]
    mode: ModeName = "rapid"
    images: int | None = None
    max_miou_drop: float | None = None
    min_agreement: float | None = None
    command: tuple[str, ...] = ()


def bench(plan: Plan, out: Path, output: Output, *, force: bool = False) -> Report:
    """Measure and write ``report.json``, ``report.md`` and the raw samples.

    Gates that do not hold are in the report's ``gate_failures``.

    Raises:
        UsageError: ``out`` exists, or the plan does not fit the bundle.
        ArtifactError, DeviceError, InputError: bundle, run, backend or data not usable.
    """
    with staged_folder(out, REPORT_JSON, force=force) as folder:
        system = system_facts()  # before our own load is part of it
        bundle = Bundle.open(plan.bundle)
        split = _split(plan, bundle)
        segmenters = _segmenters(plan, bundle)
        indices = drawn(len(split.names), plan.images or len(split.names))
        with output.progress("accuracy", len(indices)) as advance:
            accuracies = measure_accuracy(segmenters, split, indices, advance)
        pictures = [split.encoded(i) for i in drawn(len(split.names), LATENCY_PICTURES)]
        output.note(f"accuracy measured on {len(indices)} images; measuring latency")
        samples = measure_latency(segmenters, pictures, MODES[plan.mode], output.note)
        rows = _rows(bundle, segmenters, accuracies, samples)
        report = _report(plan, bundle, system, rows, len(pictures))
        atomic_write(folder / SAMPLES, _samples_bytes(rows, samples))
        atomic_write(folder / REPORT_JSON, (report.model_dump_json(indent=2) + "\n").encode())
        atomic_write(folder / REPORT_MD, markdown(report).encode())
    for segmenter in segmenters:
        segmenter.close()
    return report


def _split(plan: Plan, bundle: Bundle) -> Split:
    source = open_source(plan.data)
    if source.labels.names != bundle.manifest.labels.names:
        raise InputError(f"data {show(plan.data)} has other classes than the bundle")
    return source.split("val")


def _segmenters(plan: Plan, bundle: Bundle) -> list[Segmenter]:
    sessions: list[Session] = []
    manifest = bundle.manifest
    pairs = _pairs(plan, bundle)
    # A GPU against CPU backends would compare devices, not runtimes.
    on_gpu = any(backend not in (TORCH, *CPU_BACKENDS) for backend, _ in pairs)
    for backend, variant in pairs:
        if backend == TORCH:
            sessions.append(_torch_session(plan, bundle, on_gpu=on_gpu))
        else:
            sessions.append(open_session(bundle, backend, variant))
    return [Segmenter(session, manifest.labels, manifest.preprocessing) for session in sessions]


def _pairs(plan: Plan, bundle: Bundle) -> list[tuple[str, str]]:
    """Return what to measure, each backend with each variant once, ``auto`` resolved."""
    found: list[tuple[str, str]] = []
    for backend in plan.backends:
        if backend == TORCH:
            found.append((TORCH, FP32))
            continue
        chosen = choose(bundle, backend, FP32).backend
        found += [(chosen, v) for v in plan.variants or variants_for(bundle, chosen)]
    return list(dict.fromkeys(found))


def _torch_session(plan: Plan, bundle: Bundle, *, on_gpu: bool) -> Session:
    if plan.run is None:
        raise UsageError("backend torch needs --run RUN, the folder the bundle came from")
    from edgeseg_benchmarks.torch_session import TorchSession  # a device has no torch

    return TorchSession(plan.run, bundle, on_gpu=on_gpu)


def _rows(
    bundle: Bundle,
    segmenters: Sequence[Segmenter],
    accuracies: Sequence[Accuracy],
    samples: Sequence[Samples],
) -> tuple[Row, ...]:
    return tuple(
        Row(
            backend=segmenter.session.backend,
            variant=segmenter.session.variant,
            model_bytes=_model_bytes(bundle, segmenter.session),
            accuracy=accuracy,
            file_ms=summarise(times.file_ms),
            model_ms=summarise(times.model_ms),
            stage_p50_ms={
                stage: summarise(times.stages_ms[:, i]).p50 for i, stage in enumerate(STAGES)
            },
            images_per_s=1000 * len(times.file_ms) / float(times.file_ms.sum()),
            speed_up=speed_up(samples[0], times),
            cov_pct=float(100 * times.model_ms.std() / times.model_ms.mean()),
            drift_pct=_drift_pct(times),
        )
        for segmenter, accuracy, times in zip(segmenters, accuracies, samples, strict=True)
    )


def _model_bytes(bundle: Bundle, session: Session) -> int | None:
    if session.backend.startswith(TORCH):
        return None
    return bundle.manifest.files[bundle.variant(session.variant).file].bytes


def _drift_pct(samples: Samples) -> float:
    third = max(1, len(samples.model_ms) // 3)
    first, last = np.median(samples.model_ms[:third]), np.median(samples.model_ms[-third:])
    return float(100 * (last / first - 1))


def _report(
    plan: Plan, bundle: Bundle, system: Facts, rows: tuple[Row, ...], pictures: int
) -> Report:
    manifest = bundle.manifest
    return Report(
        schema_version="edgeseg-bench/1",
        utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=plan.command,
        system=system,
        software=software_facts(),
        model=Model(
            bundle=plan.bundle.name,
            parameters=manifest.model.parameters,
            gflops=manifest.model.gflops,
            height=manifest.preprocessing.height,
            width=manifest.preprocessing.width,
            classes=manifest.labels.num_classes,
        ),
        data=plan.data,
        protocol=Protocol(
            mode_name=plan.mode,
            mode=MODES[plan.mode],
            batch=1,
            order="interleaved blocks, alternating direction",
            pictures=pictures,
            percentile="nearest rank",
            latency_span="file: decode + pre + compute + post",
        ),
        rows=rows,
        gate_failures=tuple(gate_failures(plan, rows)),
        warnings=tuple(_warnings(rows)),
    )


def gate_failures(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each row that misses a gate of the plan; the first row cannot."""
    found = []
    for row in rows[1:]:
        name, accuracy = f"{row.variant} on {row.backend}", row.accuracy
        if plan.max_miou_drop is not None and accuracy.miou_drop > plan.max_miou_drop:
            found.append(
                f"{name}: mIoU fell by {accuracy.miou_drop:.4f}, more than {plan.max_miou_drop}"
            )
        if plan.min_agreement is not None and accuracy.agreement < plan.min_agreement:
            found.append(f"{name}: agreement {accuracy.agreement:.4%} is below the gate")
    return found


def _warnings(rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        noisy = row.cov_pct > NOISY_COV_PCT or abs(row.drift_pct) > NOISY_DRIFT_PCT
        if noisy:
            found.append(
                f"noisy machine: {row.variant} on {row.backend} varied by {row.cov_pct:.0f} % and "
                f"drifted by {row.drift_pct:+.0f} %; measure again when it is quiet"
            )
    return found


def _samples_bytes(rows: Sequence[Row], samples: Sequence[Samples]) -> bytes:
    buffer = io.BytesIO()
    arrays = {
        f"{row.backend}|{row.variant}|{name}": array
        for row, times in zip(rows, samples, strict=True)
        for name, array in (("stages_ms", times.stages_ms), ("blocks", times.blocks))
    }
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # keyword names are free here
    return buffer.getvalue()
