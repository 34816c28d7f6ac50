"""``edgeseg doctor``: what is installed, which backends work, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app, table
from edgeseg.doctor import Diagnosis, Jetson, diagnose
from edgeseg.errors import DeviceError
from edgeseg.sessions import choose


def main(
    ctx: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="Also say what 'auto' takes for this bundle.")
    ] = None,
) -> None:
    """Show what is installed, which backends work here, and how to get the others."""
    opened = Bundle.open(bundle) if bundle else None
    found = diagnose()
    chosen = _choice(opened) if opened else _without_bundle(found)
    document = found.to_dict()
    document["auto"]["why"] = chosen
    output: Output = ctx.obj
    output.result(document, report(found, chosen))


def report(found: Diagnosis, chosen: str) -> list[str | Table]:
    """Return what is printed: facts, backends, builders, the choice, and the findings last."""
    return [
        table(("", ""), _facts(found)),
        "",
        table(("backend", "state"), _states(found.backends)),
        "",
        table(("builds engines", "state"), _states(found.builders)),
        "",
        f"auto: {chosen}",
        "",
        *_findings(found),
    ]


def _facts(found: Diagnosis) -> list[tuple[str, str]]:
    packages = [f"{name} {version}" for name, version in found.packages.items() if version]
    free = f", {found.free_bytes / 2**30:.1f} GiB of memory free" if found.free_bytes else ""
    return [
        ("edgeseg", f"{found.edgeseg}, Python {found.python}"),
        ("machine", f"{found.machine}, {found.cpu_threads} usable CPU threads{free}"),
        *(_jetson_facts(found.jetson) if found.jetson else ()),
        ("engines", found.cache),
        ("packages", ", ".join(packages)),
        *(("extras" if not i else "", line) for i, line in enumerate(_extras(found.extras))),
    ]


def _jetson_facts(jetson: Jetson) -> list[tuple[str, str]]:
    l4t = ".".join(map(str, jetson.l4t)) if jetson.l4t else "unknown"
    board = jetson.board or "a Jetson (a container without /proc/device-tree)"
    tensorrt, mode = jetson.tensorrt, jetson.power_mode
    where = f"{tensorrt.version} in {tensorrt.folder}" if tensorrt else "no Python module"
    others = ", ".join(f"{one.number} {one.name}" for one in jetson.power_modes)
    power = f"{mode.number} {mode.name} (modes: {others})" if mode else "unknown"
    return [
        ("board", f"{board}, JetPack {jetson.jetpack or 'unknown'}, L4T {l4t}"),
        ("TensorRT", f"{where}, libnvinfer {jetson.libnvinfer or 'not installed'}"),
        ("power", power),
    ]


def _extras(extras: dict[str, list[str]]) -> list[str]:
    complete = [name for name, lacking in extras.items() if not lacking]
    lines = [f"installed: {', '.join(complete) or 'none'}"]
    if others := [name for name in extras if name not in complete]:
        lines.append(f"not installed: {', '.join(others)}")
    return lines if extras else ["unknown: edgeseg runs from a folder, it is not installed"]


def _states(problems: dict[str, str | None]) -> list[tuple[str, str]]:
    """Return one row per state, with the names that share it."""
    names: dict[str, list[str]] = {}
    for name, problem in problems.items():
        names.setdefault(problem or "works", []).append(name)
    return [(", ".join(shared), state) for state, shared in names.items()]


def _without_bundle(found: Diagnosis) -> str:
    if found.auto is None:
        return "nothing to take: no backend works here"
    return (
        f"{found.auto}, the first of those that work here; for a bundle it may be another, whose "
        "engine is built or that was measured faster: edgeseg doctor BUNDLE"
    )


def _choice(bundle: Bundle) -> str:
    try:
        choice = choose(bundle)
    except DeviceError as error:
        return str(error)
    return f"{choice.variant} on {choice.backend}, {choice.why.removeprefix('auto: ')}"


def _findings(found: Diagnosis) -> list[str]:
    if not found.findings:
        return ["nothing to fix"]
    numbered = enumerate(found.findings, start=1)
    return [
        f"{len(found.findings)} to fix:",
        *(f"{i}. {one.what}\n   fix: {one.fix}" for i, one in numbered),
    ]


app = command_app(main)
