"""``edgeseg info BUNDLE``: what a bundle holds, for people (or ``--json``)."""

from __future__ import annotations

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.options import BundleArgument
from edgeseg.cli.output import command_app, table
from edgeseg.manifest import Parity


def main(ctx: typer.Context, bundle: BundleArgument) -> None:
    """Show a bundle's model, labels, preprocessing and variants, after checking every hash."""
    opened = Bundle.open(bundle)
    opened.check_files()
    manifest = opened.manifest
    model = manifest.model
    sizes = ", ".join(f"{height}x{width}" for height, width in manifest.sizes)
    facts = [
        ("model", f"{model.name}, {model.parameters:,} parameters, {model.gflops:.2f} GFLOPs"),
        ("input", f"{manifest.input.dtype} {_shape(manifest.input.shape)} RGB"),
        ("size", sizes + (", dynamic" if manifest.dynamic_size else "")),
        ("outputs", ", ".join(f"{o.name} {o.dtype} {_shape(o.shape)}" for o in manifest.outputs)),
        ("classes", f"{manifest.labels.num_classes}: {', '.join(manifest.labels.names[:6])} ..."),
        ("made with", ", ".join(f"{k} {v}" for k, v in manifest.toolchain.items())),
    ]
    rows = [
        (
            name,
            variant.precision,
            variant.target,
            f"{manifest.files[variant.file].bytes / 1e6:.2f}",
            variant.opset,
            f"{variant.parity.agreement:.4%}",
            _miou(variant.parity),
        )
        for name, variant in manifest.variants.items()
    ]
    columns = (
        "variant",
        "precision",
        "target",
        ">MB",
        ">opset",
        ">as PyTorch",
        ">mIoU (PyTorch's)",
    )
    document = {"bundle": str(bundle), **manifest.model_dump(mode="json")}
    ctx.obj.result(document, [table(("", ""), facts, title=str(bundle)), "", table(columns, rows)])


def _shape(shape: tuple[int | str, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _miou(parity: Parity) -> str:
    return f"{parity.miou:.4f} ({parity.torch_miou:.4f})"


app = command_app(main)
