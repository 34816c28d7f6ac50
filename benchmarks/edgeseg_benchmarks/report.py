"""The report: one schema, written as JSON, printed and written as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeseg_benchmarks.accuracy import Accuracy
from edgeseg_benchmarks.environment import Facts
from edgeseg_benchmarks.latency import Mode, Ratio, Summary

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
SAMPLES = "samples.npz"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(_Strict):
    """What was measured."""

    bundle: str
    parameters: int
    gflops: float
    height: int
    width: int
    classes: int


class Protocol(_Strict):
    """How it was measured."""

    mode_name: str
    mode: Mode
    batch: int
    order: Literal["interleaved blocks, alternating direction"]
    pictures: int
    percentile: Literal["nearest rank"]
    latency_span: Literal["file: decode + pre + compute + post"]


class Row(_Strict):
    """One backend with one variant; ``speed_up`` is relative to the first row.

    ``cov_pct`` is the coefficient of variation of the network's time, which does not depend on
    the picture; ``drift_pct`` the change of its median from the first to the last third.
    """

    backend: str
    variant: str
    model_bytes: int | None
    accuracy: Accuracy
    file_ms: Summary
    model_ms: Summary
    stage_p50_ms: dict[str, float]
    images_per_s: float
    speed_up: Ratio
    cov_pct: float
    drift_pct: float


class Report(_Strict):
    """``report.json``; the first row is the reference of agreement, mIoU drop and speed-up."""

    schema_version: Literal["edgeseg-bench/1"]
    utc: str
    command: tuple[str, ...]
    system: Facts
    software: Facts
    model: Model
    data: str
    protocol: Protocol
    rows: tuple[Row, ...]
    gate_failures: tuple[str, ...]
    warnings: tuple[str, ...]


COLUMNS = (
    "backend",
    "variant",
    ">MB",
    ">mIoU",
    ">mIoU drop",
    ">pixel acc.",
    ">agreement",
    ">p50 ms",
    ">p90 ms",
    ">mean ms",
    ">network p50",
    ">images/s",
    ">speed-up [95 %]",
)


def table_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the report's table as text cells, one tuple per row, in the order of COLUMNS."""
    return [
        (
            row.backend,
            row.variant,
            "-" if row.model_bytes is None else f"{row.model_bytes / 1e6:.2f}",
            f"{row.accuracy.miou:.4f}",
            f"{row.accuracy.miou_drop:+.4f}" if i else "reference",
            f"{row.accuracy.pixel_accuracy:.4f}",
            f"{row.accuracy.agreement:.3%}" if i else "reference",
            f"{row.file_ms.p50:.2f}",
            f"{row.file_ms.p90:.2f}",
            f"{row.file_ms.mean:.2f}",
            f"{row.model_ms.p50:.2f}",
            f"{row.images_per_s:.1f}",
            f"{row.speed_up.value:.2f}x [{row.speed_up.low:.2f}, {row.speed_up.high:.2f}]"
            if i
            else "reference",
        )
        for i, row in enumerate(rows)
    ]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    head = [name.removeprefix(">") for name in COLUMNS]
    rule = ["---:" if name.startswith(">") else "---" for name in COLUMNS]
    lines = [head, rule, *table_rows(rows)]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def markdown(report: Report) -> str:
    """Return ``report.md``."""
    model, protocol, images = report.model, report.protocol, report.rows[0].accuracy.images
    stages = "\n".join(
        f"| {row.backend} {row.variant} | "
        + " | ".join(f"{ms:.2f}" for ms in row.stage_p50_ms.values())
        + f" | {row.cov_pct:.0f} % | {row.drift_pct:+.0f} % |"
        for row in report.rows
    )
    stage_names = " | ".join(report.rows[0].stage_p50_ms)
    notes = [*(f"GATE FAILED: {text}" for text in report.gate_failures), *report.warnings]
    return f"""# edgeseg bench: {_escape(model.bundle)}

U-Net, {model.parameters:,} parameters, {model.gflops:.2f} GFLOPs at {model.height}x{model.width}, \
{model.classes} classes. Data: {_escape(report.data)}, {images} images, \
{report.rows[0].accuracy.classes_present} classes present.

{markdown_table(report.rows)}

Latency is one picture from encoded file to class map at its own size (host clock), \
{protocol.mode_name} mode, n = {report.rows[0].file_ms.n} per row at least, backends interleaved; \
percentiles are {protocol.percentile}; speed-up is the ratio of medians to the first row with a \
bootstrap interval over turns. mIoU leaves out classes absent from truth and prediction.

Stages, p50 in ms, with the network's variation and drift over the run:

| | {stage_names} | CoV | drift |
|---|{"---:|" * (len(report.rows[0].stage_p50_ms) + 2)}
{stages}

{"".join(f"- {_escape(note)}{chr(10)}" for note in notes)}
System: {_facts(report.system)}

Software: {_facts(report.software)}

Measured {report.utc} with:

    {shlex.join(report.command)}
"""


def _facts(facts: Facts) -> str:
    return _escape(", ".join(f"{key} {'unknown' if v is None else v}" for key, v in facts.items()))


def _escape(text: str) -> str:
    """Keep Markdown tables whole whatever a name contains."""
    for character in "\\`|<>":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
