"""``edgeseg build BUNDLE --backend tensorrt --variant fp16``; also ``--list`` and ``--clean``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app, table
from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.device import MIB
from edgeseg.engines.document import EngineManifest, Flags, HardwareCompatibility, Profile
from edgeseg.engines.library import Flavour
from edgeseg.errors import UsageError
from edgeseg_export.tensorrt.building import Outcome, build
from edgeseg_export.tensorrt.options import (
    Options,
    parse_batch,
    parse_compute_capabilities,
    parse_size_range,
)


def main(
    ctx: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder that 'edgeseg export' wrote.")
    ] = None,
    backend: Annotated[Flavour, typer.Option(help="Which library builds.")] = "tensorrt",
    variant: Annotated[
        str | None, typer.Option(help="Variant of the model; default: fp16 if there, else fp32.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per call: N, or MIN,OPT,MAX.")] = "1",
    size_range: Annotated[
        str | None,
        typer.Option(help="MIN,OPT,MAX, each HxW, for bundles with a free size."),
    ] = None,
    tf32: Annotated[
        bool,
        typer.Option("--tf32/--no-tf32", help="Let float32 convolutions round their inputs."),
    ] = False,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="0 builds quickly, 5 tries most kernels.")
    ] = 3,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Scratch memory in MiB; default: all there is.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File with kernel timings to reuse and extend.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later TensorRTs of this major.")
    ] = False,
    hardware_compatibility: Annotated[
        HardwareCompatibility, typer.Option(help="Which other GPUs the engine runs on.")
    ] = "none",
    compute_capability: Annotated[
        str | None,
        typer.Option(help="tensorrt-rtx: 86,89 or current; default: Ampere and later."),
    ] = None,
    dla_core: Annotated[
        int | None, typer.Option(min=0, help="Deep learning accelerator of a Jetson Orin.")
    ] = None,
    gpu_fallback: Annotated[
        bool, typer.Option("--gpu-fallback", help="Layers that the DLA lacks go to the GPU.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out of the engine.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Private folder for engines; default: ~/.cache/edgeseg.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build even if it is there.")] = False,
    list_engines: Annotated[bool, typer.Option("--list", help="List the cache's engines.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Remove the cache's engines.")] = False,
) -> None:
    """Build a TensorRT engine for this device from a bundle, and attest its precision.

    The engine goes into a private cache and is reused when nothing has changed. Precision is what
    the variant's graph says: the builder is never given any freedom in it.
    """
    if bool(bundle) + list_engines + clean != 1:
        raise UsageError("give one of: a bundle, --list, --clean")
    printer: Output = ctx.obj
    engines = EngineCache.open(cache or default_cache())
    if list_engines:
        _list(engines, printer)
    elif clean:
        plans, freed = engines.clean()
        text = f"removed {plans} engines ({freed / MIB:.1f} MiB) from {engines.path}"
        printer.result({"cache": str(engines.path), "removed": plans, "bytes": freed}, text)
    elif bundle:
        flags = Flags(
            tf32=tf32,
            optimization_level=optimization_level,
            workspace_mib=workspace,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility,
            compute_capabilities=(
                parse_compute_capabilities(compute_capability) if compute_capability else ()
            ),
            dla_core=dla_core,
            gpu_fallback=gpu_fallback,
            strip_weights=strip_weights,
        )
        options = Options(
            library=backend,
            variant=variant,
            batch=parse_batch(batch),
            size_range=parse_size_range(size_range) if size_range else None,
            flags=flags,
            timing_cache=timing_cache,
            rebuild=rebuild,
        )
        outcome = build(Bundle.open(bundle), options, engines, printer)
        printer.result(_document(outcome), _report(outcome))


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "engine": str(outcome.path),
        "reused": outcome.reused,
        "reason": outcome.reason,
        **outcome.engine.model_dump(mode="json"),
    }


def _report(outcome: Outcome) -> list[str | Table]:
    engine = outcome.engine
    found = engine.attestation
    facts = [
        ("engine", str(outcome.path)),
        ("built by", f"{engine.key.library} {engine.key.version} in {engine.build_seconds:.1f} s"),
        ("for", _target(engine)),
        ("input", "; ".join(_shapes(profile) for profile in engine.key.profiles)),
        ("size", f"{engine.plan.bytes / MIB:.1f} MiB"),
        ("tf32", "allowed" if engine.key.flags.tf32 else "off"),
    ]
    convolutions = [
        (row.name, row.layer, row.precision, row.weights_precision, f"{row.weights:,}")
        for row in found.network.convolutions
    ]
    counted = [
        (source, row.layer, row.precision, row.layers)
        for source, part in (("network", found.network), ("engine", found.engine))
        for row in (part.layers if part else ())
    ]
    verdict = f"attested: {found.requested} in the parsed network"
    verdict += f"; {found.engine_unread}" if found.engine_unread else " and in the engine"
    return [
        table(("", ""), facts),
        "",
        table(("convolution", "kind", "computes", "weights in", ">weights"), convolutions),
        "",
        table(("in the", "layer", "precision", ">layers"), counted),
        "",
        verdict,
        f"{'reused' if outcome.reused else 'built'}: {outcome.reason}",
    ]


def _list(engines: EngineCache, printer: Output) -> None:
    found, problems = engines.entries()
    rows = [
        (
            engine.key.digest[:12],
            engine.variant,
            f"{engine.key.library} {engine.key.version}",
            _target(engine),
            "; ".join(_shapes(profile) for profile in engine.key.profiles),
            f"{engine.plan.bytes / MIB:.1f}",
            engine.created[:16].replace("T", " "),
        )
        for engine in found
    ]
    columns = ("engine", "variant", "built by", "for", "input", ">MiB", "made (UTC)")
    document = {
        "cache": str(engines.path),
        "engines": [{"digest": e.key.digest, **e.model_dump(mode="json")} for e in found],
        "problems": problems,
    }
    text: list[str | Table] = [f"{len(found)} engines in {engines.path}"]
    if rows:
        text += ["", table(columns, rows)]
    printer.result(document, [*text, *(f"warning: {problem}" for problem in problems)])


def _target(engine: EngineManifest) -> str:
    key = engine.key
    if key.device:
        return f"{key.device.name} ({key.device.compute_capability})"
    return f"compute capability {', '.join(key.flags.compute_capabilities) or '80 and later'}"


def _shapes(profile: Profile) -> str:
    low, typical, high = (
        "x".join(map(str, shape)) for shape in (profile.min, profile.opt, profile.max)
    )
    return typical if low == high else f"{low} .. {high} (tuned for {typical})"


app = command_app(main)
