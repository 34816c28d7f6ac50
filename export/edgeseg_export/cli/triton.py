"""``edgeseg triton BUNDLE --out model_repository``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app
from edgeseg_export.triton.config import Accelerator, Kind, Serving, Warmup
from edgeseg_export.triton.plans import parse_plans
from edgeseg_export.triton.record import CONFIG, LABELS
from edgeseg_export.triton.repository import Request, model_name, write_version


def main(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Folder that 'edgeseg export' wrote.")],
    out: Annotated[
        Path, typer.Option(help="Model repository (made if missing); its other models stay.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Model name for clients; default: the bundle's folder.")
    ] = None,
    model_version: Annotated[
        int, typer.Option(min=1, max=2**31 - 1, help="Version; Triton serves the highest.")
    ] = 1,
    variant: Annotated[
        str | None,
        typer.Option(help="ONNX file; default: fp16 for --kind gpu, int8-cpu for cpu, else fp32."),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help="TensorRT engine to serve instead: FILE, or 8.6=FILE per compute capability."
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Images per network call, gathered by Triton.")
    ] = 8,
    max_queue_delay_us: Annotated[
        int,
        typer.Option(min=0, max=10**9, help="Wait so many microseconds for a fuller batch."),
    ] = 0,
    instances: Annotated[
        int, typer.Option(min=1, max=1024, help="Copies that run at once, on each GPU.")
    ] = 1,
    kind: Annotated[
        Kind,
        typer.Option(help="auto: a GPU if Triton finds one, else the CPU; gpu: fail without one."),
    ] = "auto",
    warmup: Annotated[
        Warmup, typer.Option(help="Data for requests at loading, before the model is ready.")
    ] = "random",
    accelerator: Annotated[
        Accelerator, typer.Option(help="tensorrt: ONNX Runtime builds engines at loading.")
    ] = "none",
    engine_cache: Annotated[
        str | None,
        typer.Option(help="Folder on the server where --accelerator tensorrt keeps engines."),
    ] = None,
    response_cache: Annotated[
        bool,
        typer.Option("--response-cache", help="Answer equal requests from the server's cache."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace this version, and an edited config.pbtxt.")
    ] = False,
) -> None:
    """Write a bundle as a model of an NVIDIA Triton model repository.

    Other models there and other versions of this one stay.
    """
    serving = Serving(
        max_batch=max_batch,
        max_queue_delay_us=max_queue_delay_us,
        instances=instances,
        kind=kind,
        warmup=warmup,
        accelerator=accelerator,
        engine_cache=engine_cache,
        response_cache=response_cache,
    )
    request = Request(model_name(bundle, name), model_version, variant, parse_plans(plan or []))
    record = write_version(Bundle.open(bundle), out, request, serving, force=force)
    model, version = out / request.name, str(model_version)
    files = sorted(path.name for path in (model / version).iterdir())
    facts = record.versions[version]
    output: Output = ctx.obj
    if request.plans:
        output.note(
            "an engine runs only with the GPU and the TensorRT version that built it: "
            f"serve it with that TensorRT, and build it for batches of 1 to {max_batch}"
        )
    others = [number for number in record.versions if number != version]
    kept = f"; kept: {', '.join(others)}" if others else ""
    lines = [
        f"{model}: version {version} for {record.config['backend']}{kept}",
        *(f"  {version}/{file}" for file in files),
        *(f"  {key} {value}" for key, value in facts.items()),
        f"next: tritonserver --model-repository={out}",
    ]
    document = {
        "repository": str(out),
        "model": request.name,
        "version": model_version,
        "versions": [int(number) for number in record.versions],
        "backend": record.config["backend"],
        "files": [CONFIG, LABELS, *(f"{version}/{file}" for file in files)],
        "made_from": facts,
    }
    output.result(document, lines)


app = command_app(main)
