"""``edgeseg bench BUNDLE --data D --out REPORT``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.options import BundleArgument
from edgeseg.cli.output import Output, command_app, table
from edgeseg.errors import GateFailed
from edgeseg.sessions import BACKENDS
from edgeseg.sessions.remembered import Measured, remember
from edgeseg_benchmarks.bench import Plan, bench
from edgeseg_benchmarks.latency import ModeName
from edgeseg_benchmarks.report import COLUMNS, REPORT_MD, Report, table_rows


def main(
    ctx: typer.Context,
    bundle: BundleArgument,
    data: Annotated[str, typer.Option(help="Data set; its val images are measured.")],
    out: Annotated[Path, typer.Option(help="Report folder to write.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder of the bundle, for backend torch.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Repeat; the first is the reference. Default: torch (with --run), auto."),
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Repeat for several; default: all of the bundle.")
    ] = None,
    mode: Annotated[
        ModeName, typer.Option(help="At least 64 pictures and 6 s each, ... 1024 and 600 s.")
    ] = "rapid",
    images: Annotated[
        int | None, typer.Option(min=1, help="Score only so many, evenly spaced; default: all.")
    ] = None,
    max_miou_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="Gate: exit 5 beyond this loss of mIoU.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Gate: exit 5 below this agreement.")
    ] = None,
    remember_fastest: Annotated[
        bool,
        typer.Option("--remember", help="Let 'auto' take what was fastest here, from now on."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
) -> int:
    """Measure accuracy and latency of a bundle against PyTorch, interleaved; write a report."""
    plan = Plan(
        bundle=bundle,
        run=run,
        data=data,
        backends=tuple(backend or (["torch", "auto"] if run else ["auto"])),
        variants=tuple(variant or ()),
        mode=mode,
        images=images,
        max_miou_drop=max_miou_drop,
        min_agreement=min_agreement,
        command=("edgeseg", *sys.argv[1:]),
    )
    output: Output = ctx.obj
    report = bench(plan, out, output, force=force)
    show_report(report, out, output)
    for failure in report.gate_failures:
        output.error(failure)
    if remember_fastest:
        _remember(bundle, report, output)
    return GateFailed.exit_code if report.gate_failures else 0


def _remember(bundle: Path, report: Report, output: Output) -> None:
    if report.gate_failures:
        output.note("nothing is remembered: a gate failed")
        return
    measured = [
        Measured(backend=row.backend, variant=row.variant, model_ms=row.model_ms.p50)
        for row in report.rows
        if row.backend in BACKENDS
    ]
    file = remember(Bundle.open(bundle), measured)
    fastest = min(measured, key=lambda one: one.model_ms)
    output.note(f"'auto' will take {fastest.variant} on {fastest.backend} here (kept in {file})")


def show_report(report: Report, out: Path, output: Output) -> None:
    """Print a report's table."""
    notes = [f"warning: {text}" for text in report.warnings]
    output.result(
        report.model_dump(mode="json"),
        [table(COLUMNS, table_rows(report.rows)), *notes, f"report: {out / REPORT_MD}"],
    )


app = command_app(main)
