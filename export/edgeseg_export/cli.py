"""``edgeseg export RUN --out BUNDLE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeseg.cli.output import Output, command_app, table
from edgeseg.errors import UsageError, show
from edgeseg.preprocess import parse_size
from edgeseg_export.exporting import PRECISIONS, Options, Precision, export
from edgeseg_export.graph import OutputKind


def main(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder that 'edgeseg train' wrote.")],
    out: Annotated[Path, typer.Option(help="Bundle to write.")],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, int8; repeat for several. Default: both; fp32 is always made."),
    ] = None,
    target: Annotated[
        Literal["cpu", "tensorrt", "all"],
        typer.Option(help="What the int8 variant is for; fp32 runs anywhere."),
    ] = "cpu",
    size: Annotated[str | None, typer.Option(help="Network size, HxW; default: the run's.")] = None,
    dynamic: Annotated[
        Literal["size"] | None,
        typer.Option(help="'size': height and width stay free, in multiples of 2^depth."),
    ] = None,
    output: Annotated[OutputKind, typer.Option(help="What the graph returns.")] = "classmap",
    calibration: Annotated[
        str | None, typer.Option(help="Data for calibration and parity; default: the run's.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(min=1, help="At most so many train images calibrate int8.")
    ] = 100,
    max_miou_drop: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Gate; default: int8 0.02; fp32 at most 0.001."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Gate; default: int8 0.95; fp32 at least 0.999."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Export a trained run to a bundle and measure each variant against PyTorch.

    A variant that misses a gate ends with exit 5; the bundle is left as NAME.rejected and an
    old bundle stays as it was.
    """
    precisions = _precisions(precision or list(PRECISIONS))
    if "int8" in precisions and target != "cpu":
        raise UsageError(
            f"int8 for --target {target} is not available in this version; "
            "use --target cpu, or --precision fp32 (which TensorRT reads)"
        )
    options = Options(
        precisions=precisions,
        size=parse_size(size) if size else None,
        dynamic_size=dynamic == "size",
        output=output,
        calibration=calibration,
        calibration_images=calibration_images,
        min_agreement=min_agreement,
        max_miou_drop=max_miou_drop,
    )
    printer: Output = ctx.obj
    manifest = export(run, out, options, force=force, tell=printer.note)
    rows = [
        (
            f"model.{name}.onnx",
            f"{manifest.files[variant.file].bytes / 1e6:.2f}",
            f"{variant.parity.agreement:.4%}",
            f"{variant.parity.torch_miou:.4f}",
            f"{variant.parity.miou:.4f}",
            f"{variant.parity.max_flip_margin:.3f}",
        )
        for name, variant in manifest.variants.items()
    ]
    columns = ("file", ">MB", ">as PyTorch", ">PyTorch's mIoU", ">mIoU", ">widest flipped margin")
    printer.result(
        {"bundle": str(out), **manifest.model_dump(mode="json")},
        [table(columns, rows), f"{out}: all gates passed", f"next: edgeseg verify {out}"],
    )


def _precisions(names: list[str]) -> tuple[Precision, ...]:
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown:
        raise UsageError(f"no precision {show(unknown[0])}; choose from {', '.join(PRECISIONS)}")
    return tuple(precision for precision in PRECISIONS if precision in names)


app = command_app(main)
