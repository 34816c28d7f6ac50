"""``edgeseg export RUN --out BUNDLE``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from edgeseg.cli.output import Output, command_app, table
from edgeseg.errors import GateFailed, UsageError, show
from edgeseg.manifest import CalibrationMethod, Manifest, Parity, Precision
from edgeseg.preprocess import parse_size
from edgeseg_export.exporting import export
from edgeseg_export.graph.torch_export import OutputKind
from edgeseg_export.options import Options, Size
from edgeseg_export.parity.layers import LayerReport, debug_layers
from edgeseg_export.precision.calibration import MIN_IMAGES
from edgeseg_export.precision.sensitivity import PREFIX as SENSITIVITY
from edgeseg_export.precision.sensitivity import Sensitivity
from edgeseg_export.precision.variants import PRECISIONS, Target

GATES = "; by precision, fp32's can only be tightened"


def main(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder that 'edgeseg train' wrote.")],
    out: Annotated[Path | None, typer.Option(help="Bundle to write.")] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16, bf16, int8, fp8; repeat for several. Default: fp32 and int8, for "
            "TensorRT also fp16; fp32 is always made."
        ),
    ] = None,
    target: Annotated[
        Target, typer.Option(help="What quantised variants are for; fp32 and fp16 run anywhere.")
    ] = "cpu",
    size: Annotated[str | None, typer.Option(help="Network size, HxW; default: the run's.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Several sizes for one graph: 256x256,512x512.")
    ] = None,
    dynamic: Annotated[
        Literal["size"] | None,
        typer.Option(help="'size': height and width stay free, in multiples of 2^depth."),
    ] = None,
    output: Annotated[OutputKind, typer.Option(help="What the graph returns.")] = "classmap",
    calibration: Annotated[
        str | None, typer.Option(help="Data for calibration and parity; default: the run's.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(min=MIN_IMAGES, help="At most so many train images calibrate.")
    ] = 100,
    calibration_method: Annotated[
        CalibrationMethod, typer.Option(help="How the ranges of activations are chosen.")
    ] = "minmax",
    parity_images: Annotated[
        int | None,
        typer.Option(
            min=1, help="So many val images judge; default: 64, down to 24 for large networks."
        ),
    ] = None,
    max_miou_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help=f"Gate: loss of mIoU{GATES}.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help=f"Gate: pixels as PyTorch{GATES}.")
    ] = None,
    max_wide_flips: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help=f"Gate: pixels that change though PyTorch was sure{GATES}."
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Rank the layers even when the gates hold."),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--debug-layers",
            help="Write no bundle; compare each layer with PyTorch, name the first that is off.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> int:
    """Export a trained run to a bundle and measure each variant against PyTorch.

    A quantised variant that misses a gate gets its most sensitive layers back in floating point
    until the gates hold. A variant that still misses one ends with exit 5; the bundle is left as
    NAME.rejected and an old bundle stays as it was.
    """
    if size and sizes:
        raise UsageError("--size and --sizes exclude each other")
    if dynamic and sizes:
        raise UsageError("--sizes and --dynamic size exclude each other")
    options = Options(
        precisions=_precisions(precision or []),
        target=target,
        sizes=_sizes(sizes or size),
        dynamic_size=dynamic == "size",
        output=output,
        calibration=calibration,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        parity_images=parity_images,
        min_agreement=min_agreement,
        max_miou_drop=max_miou_drop,
        max_wide_flips=max_wide_flips,
        sensitivity=sensitivity,
    )
    printer: Output = ctx.obj
    if layers:
        return _debug(run, options, printer)
    if out is None:
        raise UsageError("give the bundle to write with --out")
    manifest = export(run, out, options, force=force, tell=printer.note)
    printer.result(
        {"bundle": str(out), **manifest.model_dump(mode="json")},
        [
            _summary(manifest),
            *_rankings(out, manifest),
            f"{out}: all gates passed",
            f"next: edgeseg verify {out}",
        ],
    )
    return 0


def _rankings(bundle: Path, manifest: Manifest) -> Iterator[str | Table]:
    for name in sorted(manifest.files):
        if not (name.startswith(SENSITIVITY) and name.endswith(".json")):
            continue
        ranking = Sensitivity.model_validate_json((bundle / name).read_bytes())
        rows = [
            (
                entry.layer,
                f"{entry.changed:.3%}",
                f"{entry.miou_drop:+.4f}",
                "float" if entry.in_float else "",
            )
            for entry in ranking.layers
        ]
        columns = ("layer quantised alone", ">pixels changed", ">mIoU drop", "shipped in")
        title = f"{ranking.variant}: sensitivity on {ranking.images} images, see {name[:-4]}png"
        yield ""
        yield table(columns, rows, title=title)
        yield ""


def _debug(run: Path, options: Options, printer: Output) -> int:
    reports = debug_layers(run, options, tell=printer.note)
    document = {"reports": [report.to_dict() for report in reports]}
    parts: list[str | Table] = []
    for report in reports:
        parts += [_layer_table(report), report.verdict, ""]
    printer.result(document, parts)
    off = [report.verdict for report in reports if report.first_off is not None]
    for verdict in off:
        printer.error(verdict)
    return GateFailed.exit_code if off else 0


def _layer_table(report: LayerReport) -> Table:
    rows = [
        (
            "->" if layer is report.first_off else "",
            layer.layer,
            f"{layer.largest:.4g}",
            f"{layer.max_difference:.3g}",
            f"{layer.relative:.3%}",
        )
        for layer in report.layers
    ]
    columns = ("", "layer", ">largest in PyTorch", ">max difference", ">error / signal")
    title = f"{report.variant}, tolerance {report.tolerance:.2%}"
    return table(columns, rows, title=title)


def _summary(manifest: Manifest) -> Table:
    rows = [
        (
            variant.file,
            f"{manifest.files[variant.file].bytes / 1e6:.2f}",
            f"{variant.parity.agreement:.4%}",
            f"{variant.parity.miou:.4f}",
            _delta(variant.parity),
            f"{variant.parity.wide_flips:.4%}",
            f"{variant.parity.logits.max:.3g}",
            str(len(variant.float_layers)) if variant.float_layers else "",
        )
        for variant in manifest.variants.values()
    ]
    columns = (
        "file",
        ">MB",
        ">as PyTorch",
        ">mIoU",
        ">minus PyTorch's",
        ">sure flips",
        ">max logit diff",
        ">layers back in float",
    )
    return table(columns, rows)


def _delta(parity: Parity) -> str:
    delta = f"{parity.miou - parity.torch_miou:+.4f}"
    if parity.miou_interval is None:
        return delta
    return f"{delta} [{parity.miou_interval.low:+.4f}, {parity.miou_interval.high:+.4f}]"


def _sizes(text: str | None) -> tuple[Size, ...]:
    return tuple(parse_size(part.strip()) for part in text.split(",")) if text else ()


def _precisions(names: list[str]) -> tuple[Precision, ...]:
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown:
        raise UsageError(f"no precision {show(unknown[0])}; choose from {', '.join(PRECISIONS)}")
    return tuple(precision for precision in PRECISIONS if precision in names)


app = command_app(main)
