"""``python -m edgeseg_benchmarks.runtime_speed``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.files import atomic_write
from edgeseg_benchmarks.environment import software_facts, system_facts
from edgeseg_benchmarks.runtime_speed.report import markdown, verdicts
from edgeseg_benchmarks.runtime_speed.sides import (
    folder_mode,
    installed,
    memory,
    picture_bytes,
    stages,
    start_up,
)


def measure(seed: Path, edge: Path, *, rounds: int, images: int) -> dict[str, Any]:
    """Measure all and return the document that is written as JSON."""
    picture = picture_bytes()
    system = system_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "picture.jpg"
        path.write_bytes(picture)
        document: dict[str, Any] = {
            "schema": "edgeseg-runtime-speed/1",
            "stages": stages(seed, picture, folder, 4 * rounds),
            "start_up": start_up(edge, path, rounds),
            "memory": memory(edge, path),
            "folder_mode": folder_mode(
                {"seed": seed, "edge": edge}, picture, folder, images, rounds
            ),
            "installed": installed(),
            "system": system,
            "software": software_facts(),
        }
    return {**document, "goals": verdicts(document)}


def main(
    seed: Annotated[Path, typer.Option(help="Bundle of the seed preset.")],
    edge: Annotated[Path, typer.Option(help="Bundle of the edge preset.")],
    out: Annotated[Path, typer.Option(help="Folder for runtime-speed.json and .md.")],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 9,
    images: Annotated[int, typer.Option(min=1, help="Pictures in the folder.")] = 60,
) -> None:
    """Measure, print the report, write it and all samples."""
    document = measure(seed, edge, rounds=rounds, images=images)
    report = markdown(document)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "runtime-speed.json", (json.dumps(document, indent=1) + "\n").encode())
    atomic_write(out / "runtime-speed.md", report.encode())
    typer.echo(report)


if __name__ == "__main__":
    typer.run(main)
